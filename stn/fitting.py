"""A whole self-tuning run of one's own network on one's own loaders, in one call."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stn.bilevel import evaluate
from stn.conversion import SelfTuning
from stn.delta_stn import DeltaSTN
from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters
from stn.learning_rates import Scheduled
from stn.loaders import LoaderTask, inputs_and_target
from stn.methods import STN
from stn.recorder import Progress, Recorder, Status
from stn.runs.folder import ARGS, RunFolder
from stn.runs.models import pack
from stn.scripts.screen import Screen
from stn.training import Plan, Stop, Trainer
from stn.weight_decay import WeightDecay

METHODS = {"stn": STN, "delta_stn": DeltaSTN}


class Fit(NamedTuple):
    """measures: the best model's, by "val_loss" and the like; the model is in place. values: its hyperparameters.

    completed: training was not stopped early. path: the run's folder.
    """

    measures: dict[str, float]
    values: dict[str, float]
    completed: bool
    path: Path


class _Told:
    """A progress whose epochs are told to the user's callback, too."""

    def __init__(self, shown: Progress, on_epoch: Callable[[dict[str, float]], object]):
        self.shown, self.on_epoch = shown, on_epoch

    def update(self, status: Status) -> None:
        self.shown.update(status)

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        self.shown.epoch_ended(row, best)
        self.on_epoch(row)


class _Trainer(Trainer):
    """Tells the user's callback of each weight step."""

    on_step: Callable[[Trainer], object]

    def weight_step(self) -> None:
        super().weight_step()
        self.on_step(self)


def fit(
    net: nn.Module,
    hyper: Hyperparameters,
    *,
    loss: Callable[[Any, Any], Tensor],
    train: Iterable,
    valid: Iterable,
    optimizer: Optimizer | Sequence[Optimizer],
    epochs: int,
    run: Path | str,
    test: Iterable | None = None,
    method: str = "stn",
    linearize: bool = True,
    weight_decay: str | Mapping[str, str] | None = None,
    augment: Callable[[Any, Draw], Any] | None = None,
    accuracy: Callable[[Any, Any], Tensor] | None = None,
    split: Callable[[Any], tuple[Sequence[Any], Mapping[str, Any], Any]] = inputs_and_target,
    scheduler: LRScheduler | None = None,
    scheduler_each: str = "epoch",
    clip: float = math.inf,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scaler: GradScaler | None = None,
    train_steps: int = 2,
    val_steps: int = 1,
    warmup_steps: int = 0,
    patience: int | None = None,
    hyper_lr: float = 0.01,
    hyper_optimizer: str = "adam",
    tune_scales: bool = False,
    scale_lr: float = 0.01,
    entropy_weight: float = 1e-3,
    device: torch.device | str | None = None,
    batch_axis: int = 0,
    batches: Mapping[str, int] | None = None,
    resume: bool = False,
    progress: Any = None,
    on_step: Callable[[Trainer], object] = lambda _: None,
    on_epoch: Callable[[Trainer, dict[str, float]], object] = lambda *_: None,
    stop: Stop = lambda: False,
    checkpoint_seconds: float = 60.0,
) -> Fit:
    """Train a network and its hyperparameters; afterwards both are those of the epoch with the lowest validation loss.

    net: what `convert` made, or any network that is called as net(…, draw=draw).
    loss: of (output, target), the mean over a mini-batch. accuracy: of the same, the fraction that is right.
    train, valid, test: loaders: any iterables of mini-batches that can be gone through again. `valid` tunes the
        hyperparameters and chooses the best epoch, so that only `test` measures what was found. batches: of a pass, by
        loader ("train", …), for those without a length. split: a mini-batch into the network's positional and named
        inputs and the target (default: the last of a sequence, or what a dictionary calls target or label).
    optimizer: of all the network's weights; under "delta_stn" also a pair, of `split_parameters(net)`. scheduler: one of
        torch's, stepped after each "epoch" or "step", as scheduler_each says.
    epochs: passes over `train`. patience: epochs without a lower validation loss before training stops (default: none).
    method: "stn" (MacKay et al. 2019), or "delta_stn" (Bae & Grosse 2020), for which every tuned hyperparameter is
        declared with feed="centred". linearize: as of `DeltaSTN`.
    weight_decay: the hyperparameters that are its coefficients, as of `WeightDecay`. augment: of (mini-batch, draw), in
        training only; returns a mini-batch.
    clip: largest norm of the gradient. accumulate: mini-batches of a weight step. autocast: type of matrix products;
        scaler: for float16.
    train_steps, val_steps, warmup_steps: weight steps and hyperparameter steps in turn; weight steps before tuning.
    hyper_lr, hyper_optimizer, tune_scales, scale_lr, entropy_weight: as of `STN`.
    run: the folder of its tables, TensorBoard events and checkpoints. resume: go on there, if it holds a run of the same
        arguments that was stopped. progress: who shows it (default: a `Screen`). on_step, on_epoch: called with the
        trainer after each weight step, and after each epoch with its row of epoch.csv too. stop: asked now and then;
        true ends the training early.

    Raises UserError where a run is in the folder already, or what is given cannot be trained; `Diverged` as `Trainer`
    does. `python -m stn.figures` and `python -m stn.runs` show the run.
    """
    if method not in METHODS:
        raise UserError(f"method is {method!r}: give one of {', '.join(METHODS)}")
    device = torch.device(device) if device is not None else next(net.parameters()).device
    net.to(device)
    hyper.to(device)
    loaders = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    task = LoaderTask(
        net,
        loss,
        loaders,
        split=split,
        augment=augment,
        weight_decay=None if weight_decay is None else WeightDecay(net, weight_decay),
        accuracy=accuracy,
        autocast=autocast,
        device=device,
        batch_axis=batch_axis,
        batches=batches,
    )
    hyper_options = {"hyper_lr": hyper_lr, "hyper_optimizer": hyper_optimizer, "tune_scales": tune_scales}
    hyper_options |= {"scale_lr": scale_lr, "entropy_weight": entropy_weight}
    weights = {"optimizer": optimizer, "clip": clip, "accumulate": accumulate, "scaler": scaler}
    own = {"linearize": linearize} if method == "delta_stn" else {}
    way = METHODS[method](net, hyper, **weights, **own, **hyper_options)
    plan = Plan(epochs, warmup_steps, train_steps, val_steps, patience or epochs + 1, checkpoint_seconds)
    plan.refuse_misfit(task.position[1], tuned=hyper.num_tuned > 0)
    first = optimizer[0] if isinstance(optimizer, Sequence) else optimizer
    settings = {
        "script": "stn.fit",
        "network": type(net.module if isinstance(net, SelfTuning) else net).__name__,
        "method": method,
        "optimizer": type(first).__name__,
        **_plain({**first.defaults, **vars(plan), **hyper_options, **own, "clip": clip, "accumulate": accumulate}),
    }
    progress = progress or Screen("examples")
    folder = RunFolder.open(run) if resume and (Path(run) / ARGS).exists() else RunFolder.create(run, settings)
    with folder:
        try:
            recorder = Recorder(task, hyper, folder, _Told(progress, lambda row: on_epoch(trainer, row)))
            trainer = _Trainer(task, hyper, way, Scheduled(first, scheduler, scheduler_each), recorder, plan, stop)
            trainer.on_step = on_step
            if folder.resumed:
                trainer.load_state_dict(folder.read_checkpoint().state)
                folder.load_checkpoint()
            progress.started(trainer, folder)
            completed = trainer.train()
            trainer.load_best()
            folder.save_model(trainer.best or pack(net, hyper))
            measures = {
                f"{name}_{measure}": value
                for name, split in (("val", "valid"), ("test", "test"))
                if split in loaders
                for measure, value in evaluate(task, hyper, split).measures().items()
            }
            values = (
                {name: recorder.values[name] for name in hyper.names}
                if recorder.best is None
                else {name: recorder.best[name] for name in hyper.names}
            )
            folder.write_result({**measures, "time": recorder.elapsed, **values})
        finally:
            progress.close()
        folder.mark("finished" if completed else "interrupted")
    return Fit(measures, values, completed, folder.path)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that YAML takes as they are."""
    return {name: value for name, value in settings.items() if isinstance(value, int | float | str | None)}
