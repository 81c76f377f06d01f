"""What is kept of a run's steps: numbers gathered on the device, checked, logged and shown."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from stn.bilevel import MEASURES, MeanScore, Score, Step, Task
from stn.errors import Diverged, UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.ranks import ALONE
from stn.runs.folder import RunFolder

MOST_TOLD = 14  # numbers in an error's line
FETCHED_STEPS = 10  # how many steps' numbers are fetched from the device at once
NO_RATES: Mapping[str, float] = MappingProxyType({})
# Names of the tables' other columns.
RESERVED = {"epoch", "time", "global_step", "train_step", "entropy", "best_epoch", "best_time", *MEASURES}
RESERVED |= {"lr", "hyper_lr", "mu"}
RESERVED |= {f"{split}_{measure}" for split in ("train", "val", "test") for measure in MEASURES}


class Status(NamedTuple):
    """How far a run is. position, length: weight steps of this epoch, done and in all; train_step: of the run.

    score: the training's, of this epoch so far. speed: targets per second. seconds: of this epoch so far. values: by
    hyperparameter.
    """

    epoch: int
    position: int
    length: int
    train_step: int
    score: Score
    speed: float
    seconds: float
    values: dict[str, float]


class Progress(Protocol):
    """Who shows how training goes."""

    def update(self, status: Status) -> None:
        """Some steps were taken."""

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        """row: what epoch.csv says of it. best: it has the lowest validation loss so far."""


class _Record(NamedTuple):
    kind: str  # "train" or "valid"
    global_step: int
    train_step: int
    time: float
    targets: int
    ends_epoch: bool
    has_accuracy: bool
    rates: Mapping[str, float]
    numbers: Tensor  # on the device: loss, penalty, health, accuracy, entropy, then the hyperparameters' log values


_PARTS = 4  # the first of a record's numbers, which add up over ranks


class Recorder:
    """Writes a run's tables and TensorBoard scalars, and tells `progress`.

    train_interval, valid_interval: how many steps of a kind lie between two log entries. average: log the means over
    these intervals, of both kinds of step; otherwise the values of each such hyperparameter step, and before the first
    one, where the learning rate is tuned, of each such weight step. The run's settings say from here on which columns
    are hyperparameters, and their ranges.

    Raises UserError for a hyperparameter with the name of another column.
    """

    def __init__(
        self,
        task: Task,
        hyper: Hyperparameters,
        run: RunFolder,
        progress: Progress,
        train_interval: int = 1,
        valid_interval: int = 1,
        average: bool = False,
    ):
        twice = [name for name in hyper.log_names if hyper.log_names.count(name) > 1]
        if taken := [*sorted({*hyper.log_names} & RESERVED), *twice]:
            raise UserError(f"a hyperparameter cannot be called {taken[0]}, as a column of the tables is: rename it")
        if "hyperparameters" not in run.settings:
            ranges = {name: [*own.range] for name, own in hyper.sources.items() if isinstance(own, Tuned)}
            own = {"own_transforms": [*hyper.transforms]} if hyper.transforms else {}
            run.change_settings({"hyperparameters": [*hyper.names], "ranges": ranges, **own})
        self.task, self.hyper, self.run, self.progress = task, hyper, run, progress
        self.intervals = {"train": train_interval, "valid": valid_interval}
        self.average = average
        self.ranks = ALONE  # those that have a part of every step
        self.epoch_score, self.ended_score = MeanScore(), MeanScore()  # of this epoch, and of the one just ended
        self.since_log = {"train": MeanScore(), "valid": MeanScore()}
        self.pending: list[_Record] = []
        # Every hyperparameter's value and the scales, by name, as of the last step fetched.
        self.values = dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))
        self.elapsed_before, self.started = 0.0, time.perf_counter()
        self.epoch_started = self.epoch_seconds = 0.0  # when the epoch started to train, how long the last one did
        self.best: dict[str, float] | None = None  # the best epoch's row of epoch.csv

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of training, over all the processes that had a part in this run."""
        return self.elapsed_before + time.perf_counter() - self.started

    def step(
        self,
        kind: str,
        step: Step,
        global_step: int,
        train_step: int,
        rates: Mapping[str, float] = NO_RATES,
        ends_epoch: bool = False,
    ) -> None:
        """Keep a step's numbers on the device until some have gathered, so that steps do not wait for it.

        kind: "train" or "valid". global_step, train_step: steps of both kinds and weight steps, this one included.
        rates: the columns of a learning rate that is tuned, as the last weight step took it; none of another.
        """
        has_accuracy = step.accuracy is not None
        accuracy = step.accuracy if has_accuracy else step.data.new_zeros(())
        entropy = self.hyper.entropy().detach()
        scalars = torch.stack([step.data, step.penalty, step.health, accuracy, entropy])
        numbers = torch.cat([scalars, self.hyper.log_values()])
        steps = global_step, train_step
        told = self.elapsed, step.targets, ends_epoch, has_accuracy, rates
        self.pending.append(_Record(kind, *steps, *told, numbers))
        if len(self.pending) >= FETCHED_STEPS:
            self.flush()

    def flush(self) -> None:
        """Fetch the pending steps' numbers, check, log and show them. Raises Diverged where they are not finite."""
        if not self.pending:
            return
        records, self.pending = self.pending, []
        fetched = torch.stack([record.numbers for record in records])
        if self.ranks.size > 1:
            records, fetched = self._of_all_ranks(records, fetched)
        for record, numbers in zip(records, fetched.tolist(), strict=True):
            loss, penalty, health, accuracy, entropy, *values = numbers
            if not math.isfinite(health):
                raise self.diverged(record.kind, loss, record.global_step)
            self.values = dict(zip(self.hyper.log_names, values, strict=True))
            score = Score(loss, accuracy if record.has_accuracy else None)
            self.since_log[record.kind].add(score, record.targets)
            if record.kind == "train":
                self.epoch_score.add(score, record.targets)
            if record.ends_epoch:
                self.ended_score, self.epoch_score = self.epoch_score, MeanScore()
                self.epoch_seconds = record.time - self.epoch_started
            steps = record.train_step if record.kind == "train" else record.global_step - record.train_step
            if steps % self.intervals[record.kind] == 0:
                self._log_step(record, score, penalty, entropy)
        self._show_progress(records[-1].train_step)

    def epoch(self, score: Score, global_step: int, rates: Mapping[str, float], best: bool) -> dict[str, float]:
        """Log the epoch that has just ended, with its validation score; its row of epoch.csv.

        rates: the learning rate's columns.
        """
        train, valid = (part.measures(self.task.likelihood) for part in (self.ended_score.mean(), score))
        row = {
            "epoch": self.task.epochs - 1,
            "time": self.elapsed,
            **{f"{split}_{name}": of[name] for name in valid for split, of in (("train", train), ("val", valid))},
            **self.values,
            **rates,
        }
        self.run.log("epoch", row)
        if best:
            self.best = row
        scalars = {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", "time")}
        scalars["epoch/targets_per_second"] = self.ended_score.targets / self.epoch_seconds
        self.run.scalars(global_step, scalars)
        self.progress.epoch_ended(row, best)
        self.epoch_started = self.elapsed
        return row

    def diverged(self, kind: str, loss: float, step: int) -> Diverged:
        """The error that ends a run whose loss or gradient is not finite."""
        values = [f"{name} {value:.4g}" for name, value in self.values.items()]
        if (more := len(values) - MOST_TOLD) > 0:
            values[MOST_TOLD:] = [f"and {more} more"]
        told = f"loss {loss:g}" + (f"; {', '.join(values)}" if values else "")
        cause = f"the {kind} loss or its gradient is not finite at step {step} ({told})"
        best = "no epoch has ended, so that there is no model to fall back on"
        if self.best is not None:
            best = f"the best model so far, of epoch {self.best['epoch']}, is in {self.run.path}"
        return Diverged(f"{cause}: start anew with a lower learning rate or a smaller gradient clip; {best}")

    def state_dict(self) -> dict:
        """Call `flush` first: pending steps are no part of it."""
        scores = {name: vars(score) for name, score in self._scores().items()}
        times = {"elapsed": self.elapsed, "epoch_started": self.epoch_started}
        return {"scores": scores, "values": self.values, "best": self.best, **times}

    def load_state_dict(self, state: dict) -> None:
        for name, score in self._scores().items():
            vars(score).update({part: state["scores"][name][part] for part in vars(score)})
        self.values, self.best = {name: state["values"][name] for name in self.values}, state["best"]
        self.elapsed_before, self.started = state["elapsed"], time.perf_counter()
        self.epoch_started = state["epoch_started"]

    def _of_all_ranks(self, records: list[_Record], fetched: Tensor) -> tuple[list[_Record], Tensor]:
        """The records and numbers of whole mini-batches, of which each rank has recorded its part."""
        targets = fetched.new_tensor([record.targets for record in records])
        total = self.ranks.total(torch.column_stack([targets, fetched[:, :_PARTS]]))
        whole = [
            record._replace(targets=round(count)) for record, count in zip(records, total[:, 0].tolist(), strict=True)
        ]
        return whole, torch.column_stack([total[:, 1:], fetched[:, _PARTS:]])

    def _scores(self) -> dict[str, MeanScore]:
        return {"epoch": self.epoch_score, "ended epoch": self.ended_score, **self.since_log}

    def _log_step(self, record: _Record, score: Score, penalty: float, entropy: float) -> None:
        measures = score.measures(self.task.likelihood)
        scalars = {f"step_{name}": value for name, value in measures.items()} | {"step_penalty": penalty}
        self.run.scalars(record.global_step, {f"{record.kind}/{name}": value for name, value in scalars.items()})
        if record.kind == "valid" or not self.hyper.num_tuned:
            self.run.scalars(record.global_step, {f"hyper/{name}": value for name, value in self.values.items()})
        if record.kind == "train":
            self.run.scalars(record.global_step, {f"rates/{name}": value for name, value in record.rates.items()})
        if self.average:
            self._log_average(record, entropy)
        elif record.kind == "valid" or (record.rates and record.global_step == record.train_step):
            steps = {"global_step": record.global_step, "time": record.time}
            values = {name: self.values[name] for name in self.hyper.names}
            self.run.log("val", {**steps, **values, **record.rates, "train_step": record.train_step})

    def _log_average(self, record: _Record, entropy: float) -> None:
        """A row of the table of the step's kind: the mean since the row before, and of "valid" the hyperparameters."""
        score, self.since_log[record.kind] = self.since_log[record.kind].mean(), MeanScore()
        row = {"global_step": record.global_step, "time": record.time, **score.measures(self.task.likelihood)}
        if record.kind == "valid":
            row |= {"entropy": entropy, **self.values}
        self.run.log(record.kind, {**row, **record.rates, "train_step": record.train_step})

    def _show_progress(self, train_step: int) -> None:
        seconds, score = self.elapsed - self.epoch_started, self.epoch_score.mean()
        speed = self.epoch_score.targets / seconds
        status = Status(self.task.epochs, *self.task.position, train_step, score, speed, seconds, self.values)
        self.progress.update(status)


class Unlogged:
    """A run's folder of which nothing is kept, or which another rank keeps."""

    def __init__(self, settings: dict[str, Any], path: Path | None = None):
        self.settings, self.path = settings, path

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        self.settings |= changes

    def log(self, *_: object) -> None: ...

    def scalars(self, *_: object) -> None: ...

    def save_checkpoint(self, *_: object) -> None: ...


class Unseen:
    """Progress that nobody watches, of some steps or of a whole run."""

    def started(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...

    def epoch_ended(self, *_: object) -> None: ...

    def ended(self, *_: object) -> None: ...

    def close(self) -> None: ...
