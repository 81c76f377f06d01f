"""The one training loop: warm-up, alternation, epochs, patience, checkpoints."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.nn.modules.batchnorm import _BatchNorm

from stn.bilevel import Step, Task, evaluate
from stn.errors import UserError, one_line
from stn.hyperparameters import Hyperparameters
from stn.learning_rates import LearningRate
from stn.methods import Method
from stn.ranks import ALONE, Ranks
from stn.recorder import Recorder
from stn.runs.models import pack

EVALUATED = ("valid", "test")  # the splits on which a run's best model is measured
ANOTHER_NUMBER = "going on with another number of ranks: dropout masks and the like differ from here on"
Stop = Callable[[], bool]  # asked between alternations; true ends the training early


@dataclass(frozen=True)
class Plan:
    """How long a run trains, and how its steps alternate. Steps are mini-batches.

    Raises ValueError for a number that is no whole one, or too small.
    """

    epochs: int
    warmup_steps: int = 0  # weight steps before the alternation starts
    train_steps: int = 2
    val_steps: int = 1
    patience: int = 20  # epochs without a new lowest validation loss before training stops
    checkpoint_seconds: float = 60.0

    def __post_init__(self):
        for name in ("epochs", "warmup_steps", "train_steps", "val_steps", "patience"):
            least, value = int(name != "warmup_steps"), getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}: it must be a whole number, at least {least}")

    def refuse_misfit(self, steps: int, tuned: bool) -> None:
        """Raise UserError where epochs of so many weight steps do not fit the plan. tuned: something is to be tuned."""
        lasts = f"an epoch, which has {steps} weight steps"
        if tuned and self.train_steps > steps:
            raise UserError(f"{self.train_steps} weight steps in a row are more than {lasts}: lower train_steps")
        if tuned and self.warmup_steps >= self.epochs * steps:
            epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)} of {steps} weight steps"
            warmup = f"end before the warm-up of {self.warmup_steps} does, so that nothing is tuned"
            raise UserError(f"{epochs} {warmup}: shorten the warm-up, or train for more epochs")


class Trainer:
    """Trains a task's weights, and its tuned hyperparameters, in one run.

    on_step, on_epoch: called after each weight step, and after each epoch with its row of epoch.csv.
    """

    def __init__(
        self,
        task: Task,
        hyper: Hyperparameters,
        method: Method,
        learning_rate: LearningRate,
        recorder: Recorder,
        plan: Plan,
        stop: Stop = lambda: False,
        on_step: Callable[["Trainer"], object] = lambda _: None,
        on_epoch: Callable[["Trainer", dict[str, float]], object] = lambda *_: None,
    ):
        self.task, self.hyper, self.method, self.learning_rate = task, hyper, method, learning_rate
        self.recorder, self.plan, self.stop = recorder, plan, stop
        self.weight_task = learning_rate.attach(task, hyper, method)
        self.rates: dict[str, float] = {}
        self.on_step, self.on_epoch = on_step, on_epoch
        if "warmup_steps" not in recorder.run.settings:
            recorder.run.change_settings({"warmup_steps": plan.warmup_steps})
        self.train_step = self.global_step = 0  # weight steps, and steps of both kinds
        self.epoch = 0  # epochs evaluated
        self.best_loss, self.epochs_since_best = math.inf, 0
        self.best: dict | None = None  # the best model and its hyperparameters
        self.saved = time.perf_counter()
        self.ranks = ALONE

    def share_among(self, ranks: Ranks) -> None:
        """Train on this rank's share of every mini-batch, from the first one on.

        Raises UserError for what ranks cannot train together.
        """
        self._refuse_unshared(ranks)
        self.ranks = self.recorder.ranks = ranks
        share_among(ranks, self.task, self.hyper, self.method)

    def _refuse_unshared(self, ranks: Ranks) -> None:
        if self.task.batch_size < ranks.size:
            found = f"{ranks.size} ranks share mini-batches of {self.task.batch_size} examples"
            raise UserError(f"{found}: start fewer ranks, or take larger mini-batches")
        if any(isinstance(module, _BatchNorm) for module in self.task.model.modules()):
            told = "batch normalization would normalize each rank's share by itself"
            raise UserError(f"{told}: train the network in one process, or with group normalization")
        if self.learning_rate.differentiates:
            told = "a tuned learning rate takes second derivatives of whole mini-batches"
            raise UserError(f"{told}: train in one process, or with a learning rate that is not tuned")

    def train(self) -> bool:
        """Alternate until epochs, patience or learning rate run out; False if stopped early.

        Raises Diverged where a loss or a gradient is not finite.
        """
        if self.global_step == 0:
            self.save()
        while not self.done():
            due = time.perf_counter() - self.saved >= self.plan.checkpoint_seconds
            stopped, due = self.ranks.any(self.stop(), due)
            if stopped or due:
                self.save()
            if stopped:
                return False
            self.alternate()
            if self.task.epochs > self.epoch:
                self.end_epoch()
        self.save()
        return True

    def done(self) -> str:
        """Why training is over; empty while it is not."""
        if self.epoch >= self.plan.epochs:
            return f"{self.plan.epochs} epoch{' is' if self.plan.epochs == 1 else 's are'} done"
        if self.epochs_since_best >= self.plan.patience:
            return f"no lower validation loss in {self.epochs_since_best} epochs"
        if self.learning_rate.too_low:
            return f"the learning rate has come down to {self.learning_rate.value:.3g}"
        return ""

    def alternate(self) -> None:
        """Train_steps weight steps, then val_steps hyperparameter steps; a weight step in the warm-up or untuned."""
        if self.train_step < self.plan.warmup_steps or not self.hyper.num_tuned:
            self.weight_step()
            return
        for _ in range(self.plan.train_steps):
            self.weight_step()
        for _ in range(self.plan.val_steps):
            self.hyper_step()

    def weight_step(self) -> None:
        epochs = self.task.epochs
        self.hyper.advance(self.train_step, epochs)
        self.learning_rate.apply(self.method)
        step = self.method.weight_step(self.weight_task, self.hyper)
        self.rates = self.learning_rate.columns() if self.learning_rate.by_step else {}  # that the step has taken
        self.learning_rate.after_step()
        self.train_step += 1
        self.global_step += 1
        self._record("train", step, ends_epoch=self.task.epochs > epochs)
        self.on_step(self)

    def hyper_step(self) -> None:
        step = self.method.hyper_step(self.task, self.hyper)
        self.global_step += 1
        self._record("valid", step)

    def _record(self, kind: str, step: Step, ends_epoch: bool = False) -> None:
        self.recorder.step(kind, step, self.global_step, self.train_step, self.rates, ends_epoch)

    def end_epoch(self) -> None:
        """Evaluate, log, remember the best model, and let the learning rate follow the validation loss."""
        self.recorder.flush()
        score = evaluate(self.task, self.hyper, "valid", self.ranks)
        if not math.isfinite(score.loss):
            raise self.recorder.diverged("validation", score.loss, self.global_step)
        best = score.loss < self.best_loss
        row = self.recorder.epoch(score, self.global_step, self.rates or self.learning_rate.columns(), best)
        self.epoch = self.task.epochs
        self.learning_rate.after_evaluation(score.loss, self.epoch)
        self.epochs_since_best += 1
        if best:
            self.best_loss, self.epochs_since_best = score.loss, 0
            self.best = pack(self.task.model, self.hyper)
            self.save()  # whatever comes, the best model is not lost
        self.on_epoch(self, row)

    def save(self) -> None:
        """Write a checkpoint of everything, first making sure that what it holds is finite."""
        self.recorder.flush()
        if not all(weight.isfinite().all() for weight in self.task.model.parameters()):
            raise self.recorder.diverged("training", math.inf, self.global_step)
        self.recorder.run.save_checkpoint(self.state_dict())
        self.saved = time.perf_counter()

    def state_dict(self) -> dict:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {
            "model": self.task.model.state_dict(),
            "hyper": self.hyper.state_dict(),
            **parts,
            **self.ranks.random_state(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Continue where the checkpoint was taken. Raises UserError for one of another model, or that lacks a part."""
        try:
            restore(self.task, self.hyper, state)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            if not self.ranks.set_random_state(state):
                warnings.warn(ANOTHER_NUMBER, stacklevel=2)
            for name in _COUNTERS:
                setattr(self, name, _counter(state[name]))
            self.best = state["best"] and dict(state["best"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:  # a part is another's, or none
            cause = f"the checkpoint lacks a part or is of another version ({one_line(repr(error))})"
            raise UserError(f"{cause}: start a new run") from error

    def load_best(self) -> None:
        """Put the best model so far, and its hyperparameters, in place; without one yet, leave the current."""
        if self.best is not None:
            restore(self.task, self.hyper, self.best)

    def _parts(self) -> dict:
        parts = {"method": self.method, "learning_rate": self.learning_rate, "recorder": self.recorder}
        return {"streams": self.task, **parts}


_COUNTERS = ("train_step", "global_step", "epoch", "best_loss", "epochs_since_best")


def _counter(value: object) -> float:
    """A number that a run can have come to. Raises ValueError for another."""
    if not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{value!r} is no number of steps or epochs, nor a loss")
    return value


def share_among(ranks: Ranks, task: Task, hyper: Hyperparameters, method: Method) -> None:
    """From the first step on, have these be this rank's part of one training, from the first rank's weights."""
    hyper.ranks = ranks
    ranks.align(task.model, hyper)
    ranks.part_random_numbers()
    task.share_among(ranks)
    method.share_among(ranks)


def restore(task: Task, hyper: Hyperparameters, state: Mapping) -> None:
    """Put a checkpoint's `model` and `hyper` in place. Raises UserError where they are of another model."""
    try:
        task.model.load_state_dict(state["model"])
        hyper.load_state_dict(state["hyper"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError("the checkpoint is of another model than args.yaml describes: start a new run") from error


def final_result(
    task: Task, hyper: Hyperparameters, splits: Sequence[str] = EVALUATED, ranks: Ranks = ALONE
) -> dict[str, float]:
    """The measures of the model in place, named val_loss, test_loss and the like."""
    found = {split: evaluate(task, hyper, split, ranks).measures(task.likelihood) for split in splits}
    short = {"valid": "val", "test": "test"}
    return {f"{short[split]}_{name}": value for split, own in found.items() for name, value in own.items()}
