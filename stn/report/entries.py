"""What a report tells of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stn.runs.history import Run

TRAINING, KILLED = "training", "killed"  # of a run whose status is "running": a process holds it, or none does
TOTALS = ("epochs", "total_epochs", "num_epoch")  # the settings that say how many epochs a run may take


class Command(NamedTuple):
    """A command line, and what it does."""

    what: str
    line: str


class Sheet(NamedTuple):
    """An image of a run's folder: its file's name, and its content, a PNG."""

    name: str
    content: bytes


@dataclass(frozen=True, eq=False)
class Entry:
    """A run in a report.

    state: TRAINING, KILLED, or the run's status. result: the row of result.csv, empty without one. commands: those that
    make the run again. age: seconds since a row was last written, None where there is no row.
    """

    run: Run
    state: str
    result: Mapping[str, float] = field(default_factory=dict)
    commands: Sequence[Command] = ()
    sheets: Sequence[Sheet] = ()
    age: float | None = None

    @property
    def done(self) -> int:
        """How many epochs have ended."""
        return len(self.run.epoch)

    @property
    def total(self) -> int | None:
        """How many epochs the run may take; None where it does not say."""
        settings = self.run.settings
        known = [settings[name] for name in TOTALS if isinstance(settings.get(name), int)]
        return known[0] if known else None

    @property
    def steps(self) -> int | None:
        """Weight steps so far, as far as the tables say."""
        found = [table["train_step"].iloc[-1] for table in (self.run.steps, self.run.train) if len(table)]
        return int(max(found)) if found else None

    @property
    def seconds(self) -> float | None:
        """Time of training so far."""
        if "time" in self.result:
            return self.result["time"]
        found = [table["time"].iloc[-1] for table in (self.run.epoch, self.run.steps, self.run.train) if len(table)]
        return float(max(found)) if found else None

    @property
    def best(self) -> Mapping[str, float]:
        """The row of epoch.csv with the lowest validation loss; empty where no epoch has ended."""
        return self.run.epoch.iloc[self.run.best()].to_dict() if self.done else {}
