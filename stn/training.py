"""The one training loop: warm-up, alternation, epochs, patience, checkpoint and resume."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stn.bilevel import Score, Step, Task, evaluate, hyper_step, weight_step
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.runs.folder import RunFolder

FLUSH_STEPS = 10  # how many steps' numbers are fetched from the device at once


@dataclass(frozen=True)
class Settings:
    """The loop's settings; steps are mini-batches."""

    epochs: int
    lr: float
    warmup_steps: int = 0  # weight steps before the alternation starts
    train_steps: int = 2
    val_steps: int = 1
    hyper_lr: float = 0.01
    tune_scales: bool = False
    scale_lr: float = 0.01
    entropy_weight: float = 1e-3  # τ, where the scales are tuned
    clip: float = 0.0  # largest norm of the weights' gradient; 0 does not clip
    wdecay: float = 0.0  # weight decay
    momentum: float = 0.0
    nonmono: int = 5  # epochs after which a validation loss without progress decays the learning rate
    milestones: tuple[int, ...] = ()  # epochs after which the learning rate decays in any case
    lr_decay: float = 4.0  # divides the learning rate
    min_lr: float = 0.0  # training stops below it
    patience: int = 20  # epochs without a new best validation loss before training stops
    train_log_interval: int = 1
    val_log_interval: int = 1
    average_logs: bool = False  # log means over the intervals, of both kinds of step; else each hyperparameter step
    checkpoint_seconds: float = 60.0


class Status(NamedTuple):
    """How far a run is, for a progress display. position, length: weight steps of this epoch, done and in all.

    score: the training's, of this epoch so far. speed: targets per second.
    """

    epoch: int
    position: int
    length: int
    score: Score
    speed: float
    values: dict[str, float]


class Progress(Protocol):
    """Who shows a run's progress."""

    def update(self, status: Status) -> None: ...

    def epoch_ended(self, row: dict[str, float], best: bool) -> None: ...


class Diverged(UserError):
    """A loss or gradient became infinite or not a number."""


@dataclass
class MeanScore:
    """A mean over targets, from mini-batches' means."""

    loss: float = 0.0  # summed over targets, as is accuracy
    accuracy: float | None = None
    targets: int = 0

    def add(self, score: Score, targets: int) -> None:
        self.loss += score.loss * targets
        if score.accuracy is not None:
            self.accuracy = (self.accuracy or 0.0) + score.accuracy * targets
        self.targets += targets

    def mean(self) -> Score:
        if not self.targets:
            return Score(math.nan)
        return Score(self.loss / self.targets, None if self.accuracy is None else self.accuracy / self.targets)


class _Record(NamedTuple):
    kind: str  # "train" or "valid"
    global_step: int
    train_step: int
    time: float
    targets: int
    ends_epoch: bool
    log: bool
    has_accuracy: bool
    numbers: Tensor  # on the device: loss, penalty, health, accuracy, entropy, then the hyperparameters' log values


class Trainer:
    """Trains a task's weights, and its tuned hyperparameters, in one run.

    run: where everything is logged. stop: asked between alternations; true ends the training early.
    """

    def __init__(
        self,
        task: Task,
        hyper: Hyperparameters,
        settings: Settings,
        run: RunFolder,
        progress: Progress,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.task, self.hyper, self.settings, self.run, self.progress = task, hyper, settings, run, progress
        self.stop = stop
        weights = task.model.parameters()
        self.optimizer = torch.optim.SGD(
            weights, settings.lr, settings.momentum, weight_decay=settings.wdecay, fused=True
        )
        self.hyper_optimizer = torch.optim.Adam(
            [
                {"params": [hyper.unconstrained], "lr": settings.hyper_lr},
                {"params": [hyper.raw_scale], "lr": settings.scale_lr},
            ]
        )
        hyper.raw_scale.requires_grad_(settings.tune_scales)

        self.train_step = self.global_step = 0
        self.epoch = 0  # epochs evaluated
        self.score, self.ended_score = MeanScore(), MeanScore()  # of the epoch under way, and of the one just ended
        self.since_log = {"train": MeanScore(), "valid": MeanScore()}
        self.val_losses: list[float] = []
        self.patience_elapsed = 0
        self.best: dict | None = None
        self.elapsed_before = 0.0
        self.started = self.saved = time.perf_counter()
        self.epoch_started = 0.0  # on this run's clock
        self.pending: list[_Record] = []
        # Every hyperparameter's value and the scales, by name, as of the last step fetched.
        self.values = dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))

    # The loop

    def train(self) -> bool:
        """Alternate until the epochs, the patience or the learning rate run out; False if stopped early.

        Raises Diverged where a loss or a gradient is not finite.
        """
        if self.global_step == 0:
            self.save()
        while not self.done():
            if self.stop():
                self.save()
                return False
            self.alternate()
            if self.task.epochs > self.epoch:
                self.end_epoch()
            if time.perf_counter() - self.saved >= self.settings.checkpoint_seconds:
                self.save()
        self.save()
        return True

    def done(self) -> bool:
        return (
            self.epoch >= self.settings.epochs
            or self.patience_elapsed >= self.settings.patience
            or self.lr < self.settings.min_lr
        )

    def alternate(self) -> None:
        """Train_steps weight steps, then val_steps hyperparameter steps; a weight step in the warm-up or untuned."""
        if self.train_step < self.settings.warmup_steps or not self.hyper.num_tuned:
            self.take_weight_step()
            return
        for _ in range(self.settings.train_steps):
            self.take_weight_step()
        for _ in range(self.settings.val_steps):
            self.take_hyper_step()

    def take_weight_step(self) -> None:
        epochs = self.task.epochs
        self.hyper.advance(self.train_step, epochs)
        step = weight_step(self.task, self.hyper, self.optimizer, self.settings.clip or math.inf)
        self.train_step += 1
        self.global_step += 1
        ends_epoch = self.task.epochs > epochs
        self.record("train", step, self.train_step % self.settings.train_log_interval == 0, ends_epoch)

    def take_hyper_step(self) -> None:
        tau = self.settings.entropy_weight if self.settings.tune_scales else None
        step = hyper_step(self.task, self.hyper, self.hyper_optimizer, tau)
        self.global_step += 1
        hyper_steps = self.global_step - self.train_step
        self.record("valid", step, hyper_steps % self.settings.val_log_interval == 0)

    def end_epoch(self) -> None:
        """Evaluate, log, remember the best model, and decay the learning rate where there is no progress."""
        self.flush()
        seconds = self.elapsed - self.epoch_started
        score = evaluate(self.task, self.hyper, "valid")
        val_loss = score.loss
        if not math.isfinite(val_loss):
            raise self.diverged("validation", val_loss, self.global_step)
        best = val_loss < min(self.val_losses, default=math.inf)
        self.log_epoch(score, self.ended_score.targets / seconds, best)
        # Merity et al. 2018, algorithm 1: no better than it was more than `nonmono` epochs ago.
        before = self.val_losses[: -self.settings.nonmono or None]
        milestone = any(self.epoch < epoch <= self.task.epochs for epoch in self.settings.milestones)
        if (before and val_loss > min(before)) or milestone:
            self.lr /= self.settings.lr_decay
        self.val_losses.append(val_loss)
        self.patience_elapsed = 0 if best else self.patience_elapsed + 1
        if best:
            self.best = _copy({"model": self.task.model.state_dict(), "hyper": self.hyper.state_dict()})
        self.epoch = self.task.epochs
        self.epoch_started = self.elapsed
        if best:
            self.save()  # whatever comes, the best model is not lost

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of training, over all the processes that had a part in this run."""
        return self.elapsed_before + time.perf_counter() - self.started

    # Logs

    def record(self, kind: str, step: Step, log: bool, ends_epoch: bool = False) -> None:
        """Keep a step's numbers on the device until some have gathered, so that steps do not wait for it."""
        accuracy = step.data.new_zeros(()) if step.accuracy is None else step.accuracy
        entropy = self.hyper.entropy().detach()
        scalars = torch.stack([step.data, step.penalty, step.health, accuracy, entropy])
        numbers = torch.cat([scalars, self.hyper.log_values()])
        steps = self.global_step, self.train_step
        has_accuracy = step.accuracy is not None
        self.pending.append(_Record(kind, *steps, self.elapsed, step.targets, ends_epoch, log, has_accuracy, numbers))
        if len(self.pending) >= FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """Fetch the pending steps' numbers, check them, log them and show the progress."""
        if not self.pending:
            return
        records, self.pending = self.pending, []
        for record, numbers in zip(records, torch.stack([r.numbers for r in records]).tolist(), strict=True):
            loss, penalty, health, accuracy, entropy, *values = numbers
            if not math.isfinite(health):
                raise self.diverged(record.kind, loss, record.global_step)
            self.values = dict(zip(self.hyper.log_names, values, strict=True))
            score = Score(loss, accuracy if record.has_accuracy else None)
            self.since_log[record.kind].add(score, record.targets)
            if record.kind == "train":
                self.score.add(score, record.targets)
            if record.ends_epoch:
                self.ended_score, self.score = self.score, MeanScore()
            if record.log:
                self.log_step(record, score, penalty, entropy)
        self.show_progress()

    def log_step(self, record: _Record, score: Score, penalty: float, entropy: float) -> None:
        scalars = {f"step_{name}": value for name, value in score.measures().items()} | {"step_penalty": penalty}
        self.run.scalars(record.global_step, {f"{record.kind}/{name}": value for name, value in scalars.items()})
        if record.kind == "valid" or not self.hyper.num_tuned:
            self.run.scalars(record.global_step, {f"hyper/{name}": value for name, value in self.values.items()})
        if self.settings.average_logs:
            self.log_average(record, entropy)
        elif record.kind == "valid":
            steps = {"global_step": record.global_step, "time": record.time}
            values = {name: self.values[name] for name in self.hyper.names}
            self.run.log("val", {**steps, **values, "train_step": record.train_step})

    def log_average(self, record: _Record, entropy: float) -> None:
        """A row of the table of the step's kind: the mean since the row before, and of "valid" the hyperparameters."""
        score, self.since_log[record.kind] = self.since_log[record.kind].mean(), MeanScore()
        row = {"global_step": record.global_step, "time": record.time, **score.measures()}
        if record.kind == "valid":
            row |= {"entropy": entropy, **self.values}
        self.run.log(record.kind, {**row, "train_step": record.train_step})

    def log_epoch(self, valid: Score, speed: float, best: bool) -> None:
        train, val = self.ended_score.mean().measures(), valid.measures()
        row = {
            "epoch": self.task.epochs - 1,
            "time": self.elapsed,
            **{f"{split}_{name}": score[name] for name in val for split, score in (("train", train), ("val", val))},
            **self.values,
            "lr": self.lr,
        }
        self.run.log("epoch", row)
        scalars = {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", "time")}
        scalars["epoch/targets_per_second"] = speed
        self.run.scalars(self.global_step, scalars)
        self.progress.epoch_ended(row, best)

    def show_progress(self) -> None:
        position, length = self.task.position
        speed = self.score.targets / (self.elapsed - self.epoch_started)
        self.progress.update(Status(self.task.epochs, position, length, self.score.mean(), speed, self.values))

    def diverged(self, kind: str, loss: float, step: int) -> Diverged:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return Diverged(
            f"the {kind} loss or its gradient is not finite at step {step} (loss {loss:g}; {values}): start anew with "
            f"a lower learning rate or a smaller gradient clip; the best model so far is in {self.run.path}"
        )

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint of everything, first making sure that what it holds is finite."""
        self.flush()
        if not all(weight.isfinite().all() for weight in self.task.model.parameters()):
            raise self.diverged("training", math.inf, self.global_step)
        self.run.save_checkpoint(self.state_dict())
        self.saved = time.perf_counter()

    def state_dict(self) -> dict:
        return {
            "model": self.task.model.state_dict(),
            "hyper": self.hyper.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hyper_optimizer": self.hyper_optimizer.state_dict(),
            "streams": self.task.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "best": self.best,
            "scores": {name: vars(score) for name, score in self.scores().items()},
            **{name: getattr(self, name) for name in _COUNTERS},
            "elapsed": self.elapsed,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where the checkpoint was taken. Raises UserError for a checkpoint of another model."""
        load_model(self.task, self.hyper, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.hyper_optimizer.load_state_dict(state["hyper_optimizer"])
        self.task.load_state_dict(state["streams"])
        torch.set_rng_state(state["random"].cpu())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([random.cpu() for random in state["random_cuda"]])
        self.best = state["best"]
        for name, score in state["scores"].items():
            vars(self.scores()[name]).update(score)
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.elapsed_before = state["elapsed"]

    def scores(self) -> dict[str, MeanScore]:
        """All running means, by name."""
        return {"epoch": self.score, "ended epoch": self.ended_score, **self.since_log}

    def load_best(self) -> None:
        """Put the best model so far, and its hyperparameters, in place; without one yet, leave the current."""
        if self.best is not None:
            load_model(self.task, self.hyper, self.best)


_COUNTERS = ("train_step", "global_step", "epoch", "val_losses", "patience_elapsed", "epoch_started")


def load_model(task: Task, hyper: Hyperparameters, state: Mapping) -> None:
    """Put a checkpoint's `model` and `hyper` in place. Raises UserError where they are of another model."""
    try:
        task.model.load_state_dict(state["model"])
        hyper.load_state_dict(state["hyper"])
    except RuntimeError as error:
        raise UserError("the checkpoint is of another model than args.yaml describes: start a new run") from error


def final_result(task: Task, hyper: Hyperparameters) -> dict[str, float]:
    """The measures of the model in place, on validation and test."""
    scores = {"val": evaluate(task, hyper, "valid"), "test": evaluate(task, hyper, "test")}
    return {f"{split}_{name}": value for split, score in scores.items() for name, value in score.measures().items()}


def _copy(state: dict) -> dict:
    return {
        part: {name: tensor.detach().clone() for name, tensor in tensors.items()} for part, tensors in state.items()
    }
