"""A trial of a search: an ordinary run at fixed values, watched by the search's study."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from stn.recorder import Status
from stn.runs.checkpoints import CHECKPOINT, read_checkpoint
from stn.runs.folder import RunFolder, wait_until_free
from stn.scripts.settings import Data
from stn.search.budget import BY_EPOCH, COST, Budget
from stn.search.pbt import PARENT
from stn.training import Trainer

CLOSING_SECONDS = 30.0  # that a worker which has left a trial may need to close its run
FROM = "from"  # where a trial that goes on from another one's checkpoint began: what that one had cost


class Watch:
    """Tells the study how a trial goes, and the trial when to stop.

    budget: of the search, if any. room: what it leaves for the trial, asked at its start and after each epoch. pruned:
    the study's pruner has ended it.
    """

    def __init__(self, trial: Trial, budget: Budget | None, room: Callable[[], float], prune: bool = True):
        self.trial, self.budget, self.room, self.prune = trial, budget, room, prune
        self.reported = max(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values, default=0)
        self.before, self.begun = trial.user_attrs.get("seconds", 0.0), time.perf_counter()
        self.inherited: Mapping[str, float] = trial.user_attrs.get(FROM, {})
        self.trainer: Trainer | None = None
        self.left, self.pruned = math.inf, False

    def started(self, trainer: Trainer, run: RunFolder, data: Data | None) -> None:  # noqa: ARG002
        self.trainer = trainer
        if self.trial.user_attrs.get(PARENT) and not self.inherited:
            self.inherited = {"steps": trainer.train_step, "epochs": trainer.epoch}
            self.trial.set_user_attr(FROM, dict(self.inherited))
        self.left = self.room()

    def update(self, status: Status) -> None: ...

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:  # noqa: ARG002
        if row["epoch"] + 1 > self.reported:  # else the same was reported before the trial was taken up
            self.trial.report(row["val_loss"], row["epoch"] + 1)
        self.trial.set_user_attr(BY_EPOCH, self.tell(epochs=row["epoch"] + 1))
        self.left = self.room()
        self.pruned = self.prune and self.trial.should_prune()

    def ended(self, completed: bool) -> None:  # noqa: ARG002
        self.tell()

    def close(self) -> None: ...

    def asks_to_stop(self) -> bool:
        return self.pruned or (self.budget is not None and self.cost()[self.budget.kind] >= self.left)

    def cost(self) -> dict[str, float]:
        """Of this trial so far, but for what it has inherited."""
        spent = {"steps": self.trainer.train_step, "epochs": self.trainer.epoch} if self.trainer else {}
        own = {kind: float(value - self.inherited.get(kind, 0)) for kind, value in spent.items()}
        return dict.fromkeys(COST, 0.0) | own | {"seconds": self.before + time.perf_counter() - self.begun}

    def tell(self, **known: float) -> dict[str, float]:
        """Have the study know what the trial has cost, which is returned. known: what the trainer does not know yet."""
        cost = self.cost() | {kind: float(value - self.inherited.get(kind, 0)) for kind, value in known.items()}
        for kind, value in cost.items():
            self.trial.set_user_attr(kind, value)
        return cost


def open_run(path: Path, record: Mapping[str, Any], changeable: Iterable[str]) -> RunFolder:
    """A trial's folder: the one that another worker has left, where it has a checkpoint, or else a new one.

    changeable: the settings that may be others than that worker's.
    """
    if path.exists():
        wait_until_free(path, CLOSING_SECONDS)
    if not (path / CHECKPOINT).exists():
        return RunFolder.create(path, record, overwrite=True)
    folder = RunFolder.open(path)
    folder.changes = {name: record[name] for name in changeable}
    return folder


def state_of(path: Path) -> dict:
    """What a run's checkpoint holds. Raises UserError where there is none that can be read."""
    return dict(read_checkpoint(path).state)
