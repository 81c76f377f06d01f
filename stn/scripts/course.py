"""A training run from beginning to end: the function that every script, and whoever else trains, calls."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from stn.bilevel import Task
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.kernels import precision
from stn.kernels.memory import explaining_out_of_memory
from stn.ranks import ALONE, Ranks
from stn.recorder import Progress, Unlogged, Unseen
from stn.runs.folder import RunFolder
from stn.runs.models import pack
from stn.scripts.declared import Sources
from stn.scripts.settings import Data, Settings
from stn.training import EVALUATED, Stop, Trainer, final_result, restore

OUT_OF_MEMORY = "out of memory: start a run of a smaller model or of smaller mini-batches"


class RunProgress(Progress, Protocol):
    """Who shows a run from its start to its end."""

    def started(self, trainer: Trainer, run: RunFolder, data: Data | None) -> None:
        """Training begins, or goes on where its counters stand."""

    def ended(self, completed: bool) -> None:
        """Training has ended, early unless completed; the best model is evaluated next."""

    def close(self) -> None:
        """Nothing more is to be shown, after success or failure."""


class Result(NamedTuple):
    """measures: the best model's, such as "val_loss" and "test_loss". completed: training was not stopped early.

    best: the best epoch's row of epoch.csv; None where no epoch has ended, so that the measures are of the current
    model. hyperparameters: that model's. seconds: of training, in all. path: the run's folder.
    """

    measures: dict[str, float]
    completed: bool
    best: dict[str, float] | None
    hyperparameters: dict[str, float]
    seconds: float
    path: Path | None = None

    def row(self) -> dict[str, float | None]:
        """What result.csv says; nothing about a best epoch where there is none."""
        best = self.best or {"epoch": None, "time": None}
        times = {"best_epoch": best["epoch"], "best_time": best["time"], "time": self.seconds}
        return {**self.measures, **times, **self.hyperparameters}


def train(
    settings: Settings,
    sources: Sources,
    run: Callable[[Data], AbstractContextManager[RunFolder]],
    progress: RunProgress,
    stop: Stop = lambda: False,
    splits: Sequence[str] = EVALUATED,
    start: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Train, from the run's checkpoint where it has one, and leave the best model's result in its folder.

    sources: where each hyperparameter's values come from. run: opens the run's folder, given the data; it is called
    when all is built, so that a run that cannot be built leaves no trace. stop: as for `Trainer`. splits: what the best
    model is evaluated on. start: the state of another run's checkpoint, from which a new run goes on. ranks: those
    that train together; only the first one's folder and progress are a run's.
    """
    data, hyper, task = build(settings, sources)

    def make() -> Trainer:
        trainer = settings.trainer(task, hyper, folder, progress, stop)
        if start is not None and not folder.resumed:
            trainer.load_state_dict(start)
            trainer.save()
        return trainer

    with run(data) as folder:
        return carry_out(make, folder, progress, data, settings.model_file, splits, ranks)


def carry_out(
    make: Callable[[], Trainer],
    folder: RunFolder,
    progress: RunProgress,
    data: Data | None = None,
    model_file: str | None = None,
    splits: Sequence[str] = EVALUATED,
    ranks: Ranks = ALONE,
) -> Result:
    """Train what `make` returns, in a folder that is open; the best model is left in place, its result in the folder.

    model_file: where the model is saved, if it is to be, as of `Settings`. splits: what it is evaluated on.
    """
    try:
        with explaining_out_of_memory(OUT_OF_MEMORY):
            trainer = make()
            if ranks.size > 1:
                trainer.share_among(ranks)
            if folder.resumed:  # one that cannot go on is left as it is, its status too
                trainer.load_state_dict(ranks.from_first(lambda: folder.read_checkpoint().state))
                folder.load_checkpoint()
            progress.started(trainer, folder, data)
            completed = trainer.train()
        if not completed:
            folder.mark("interrupted")  # before the evaluation: whoever stops a run may not wait for its end
        record = trainer.recorder.state_dict()
        progress.ended(completed)
        trainer.load_best()
        if model_file:
            folder.save_model(trainer.best or pack(trainer.task.model, trainer.hyper), model_file)
        result = evaluated(trainer.task, trainer.hyper, record, completed, folder.path, splits, ranks)
        folder.write_result(result.row())
    finally:
        progress.close()
    if completed:
        folder.mark("finished")
    return result


def unlogged(
    settings: Settings, task: Task, hyper: Hyperparameters, record: Mapping[str, Any] | None = None
) -> Trainer:
    """A trainer as the settings say, that logs nothing. record: what args.yaml has of a run that it follows."""
    return settings.trainer(task, hyper, Unlogged(dict(record or {})), Unseen(), lambda: False)


def evaluate_best(settings: Settings, sources: Sources, state: Mapping) -> Result:
    """The result of a checkpoint's best model, without training."""
    _, hyper, task = build(settings, sources)
    restore(task, hyper, state.get("best") or state)
    return evaluated(task, hyper, state.get("recorder"), completed=True)


def evaluated(
    task: Task,
    hyper: Hyperparameters,
    record: Mapping,
    completed: bool,
    path: Path | None = None,
    splits: Sequence[str] = EVALUATED,
    ranks: Ranks = ALONE,
) -> Result:
    """The result of the model in place, of a run whose recorder is in this state."""
    try:
        best, seconds = record["best"], record["elapsed"]
        hyperparameters = {name: (best or record["values"])[name] for name in hyper.names}
    except (KeyError, TypeError) as error:
        raise UserError("the checkpoint lacks what was recorded: start a new run") from error
    return Result(final_result(task, hyper, splits, ranks), completed, best, hyperparameters, seconds, path)


def build(settings: Settings, sources: Sources) -> tuple[Data, Hyperparameters, Task]:
    """What is trained. Raises UserError where the data is not what the settings say, or memory does not suffice."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    precision.use_tensor_cores()
    data = settings.load()
    hyper = Hyperparameters(**sources).to(settings.device)
    task = settings.task(data, hyper.num_tuned)
    _, steps = task.position
    settings.plan(task).refuse_misfit(steps, tuned=hyper.num_tuned > 0)
    return data, hyper, task
