"""Scalars for TensorBoard, in event files: a convenience beside the tables, which no run may fail for."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stn.files import cause

EVENT_FILES = "events.out.tfevents.*"


class Events:
    """A run's scalars, in one event file for each time that it is started or resumed.

    Where one cannot be written, a warning says so, and nothing more is logged here; no method raises.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer = None
        self._step = 0
        self._rewound = self._given_up = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = int(step)
        with self._giving_up_on_errors():
            if self._writer is None and not self._given_up:
                from torch.utils.tensorboard import SummaryWriter  # takes a third of a second

                self._writer = SummaryWriter(self.folder, purge_step=int(step) if self._rewound else None)
            if self._writer is not None:
                # One event for all: `add_scalar` writes one for each, which takes seven times as long.
                pairs = [{"tag": name, "simple_value": float(value)} for name, value in values.items()]
                self._writer.file_writer.add_summary({"value": pairs}, step)

    def result(self, settings: Mapping[str, object], measures: Mapping[str, float]) -> None:
        """A run's settings and result, for TensorBoard's table of runs (HPARAMS); as scalars too, at the last step."""
        named = {f"result/{name}": value for name, value in measures.items()}
        self.log(self._step, named)
        plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
        with self._giving_up_on_errors():
            if self._writer is not None:
                from torch.utils.tensorboard.summary import hparams

                for summary in hparams(plain, named):
                    self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        """Return when all scalars are with the operating system."""
        with self._giving_up_on_errors():
            if self._writer is not None:
                self._writer.flush()

    def files(self) -> list[str]:
        """The names of the files that are there."""
        return sorted(file.name for file in self.folder.glob(EVENT_FILES))

    def rewind(self, files: Iterable[str]) -> None:
        """Have TensorBoard hide earlier scalars of the steps that are about to be logged again.

        files: the names of those that should be there; a warning says where one is not.
        """
        self.close()
        self._rewound = True
        if missing := sorted({*files} - {*self.files()}):
            lost = f"{missing[0]}{' and others' if missing[1:] else ''}"
            warnings.warn(f"{self.folder} has lost {lost}: TensorBoard misses what was logged there", stacklevel=3)

    def close(self) -> None:
        with self._giving_up_on_errors():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    @contextlib.contextmanager
    def _giving_up_on_errors(self) -> Iterator[None]:
        # The writer writes in a thread, which ends when that fails; a later call raises the error, of whatever type.
        # Then the writer is not even closed: what is given to a thread that has ended may be waited for endlessly.
        try:
            yield
        except Exception as error:
            self._writer, self._given_up = None, True
            reason = cause(error) if isinstance(error, OSError) else error
            warnings.warn(f"TensorBoard misses what {self.folder} logs from here on: {reason}", stacklevel=4)
