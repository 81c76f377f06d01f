"""A self-tuning run of one's own network on one's own loaders, in one call."""

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stn.conversion import SelfTuning
from stn.delta_stn import DeltaSTN
from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters
from stn.learning_rates import Scheduled
from stn.loaders import LoaderTask, Split, inputs_and_target
from stn.methods import STN, Method
from stn.recorder import Recorder
from stn.runs.folder import ARGS, RunFolder
from stn.runs.models import MODEL
from stn.runs.provenance import provenance
from stn.scripts.course import Result, RunProgress, carry_out
from stn.scripts.screen import Screen
from stn.scripts.signals import Interrupt
from stn.training import Plan, Stop, Trainer
from stn.weight_decay import WeightDecay

METHODS: dict[str, Callable[..., Method]] = {"stn": STN, "delta_stn": DeltaSTN}
MAY_CHANGE = {"epochs", "patience", "checkpoint_seconds", "device", "versions"}  # when a run is resumed


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
    method: str | Callable[..., Method] = "stn",
    weight_decay: str | Mapping[str, str] | None = None,
    augment: Callable[[Any, Draw], Any] | None = None,
    accuracy: Callable[[Any, Any], Tensor] | None = None,
    perplexity: bool = False,
    scheduler: LRScheduler | Sequence[LRScheduler] = (),
    scheduler_each: str = "epoch",
    clip: float = math.inf,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scaler: GradScaler | None = None,
    train_steps: int = 2,
    val_steps: int = 1,
    warmup_steps: int = 0,
    patience: int | None = None,
    split: Split = inputs_and_target,
    batch_axis: int = 0,
    batches: Mapping[str, int] | None = None,
    device: torch.device | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: RunProgress | None = None,
    on_step: Callable[[Trainer], object] = lambda _: None,
    on_epoch: Callable[[Trainer, dict[str, float]], object] = lambda *_: None,
    stop: Stop = lambda: False,
) -> Result:
    """Train a network and its hyperparameters, and leave both as after the epoch of the lowest validation loss.

    What is trained:
        net: what `convert` made, or another network that is called as net(…, draw=draw).
        loss: of (output, target), the mean over a mini-batch. accuracy: of the same, the fraction that is right.
            perplexity: whether to log exp(loss), the loss being a negative log-likelihood in nats.
        train, valid, test: any iterables of mini-batches that can be gone through again, such as a DataLoader. `valid`
            tunes the hyperparameters and chooses the best epoch, so that only `test` measures what was found.
        split: a mini-batch into the network's positional and named inputs and the target (default: the last of a
            sequence, or what a dictionary calls target, label or y). batch_axis: of a mini-batch's tensors. batches:
            how many make a pass, by loader ("train", …), for those that have no length.
        augment: of (mini-batch, draw), returns a mini-batch; in training only.
        weight_decay: the hyperparameters that are its coefficients, as of `WeightDecay`.
    How:
        optimizer: of net.parameters(); under "delta_stn" also a pair, for what `split_parameters(net)` returns.
        method: "stn" (MacKay et al. 2019); "delta_stn" (Bae & Grosse 2020), for which tuned hyperparameters have
            feed="centred"; or with options of its own, such as functools.partial(stn.DeltaSTN, hyper_lr=3e-3).
        scheduler: torch's, of learning rates, stepped after each "epoch" or weight "step", as scheduler_each says.
        clip: largest norm of the gradient. accumulate: mini-batches of a weight step. autocast: the type of matrix
            products. scaler: for float16.
        epochs: passes over `train`. train_steps, val_steps: weight steps and hyperparameter steps in turn, after
            warmup_steps weight steps alone. patience: epochs without a lower validation loss that end training
            (default: none do).
        device: default: where the network is.
    Where:
        run: the folder of tables, TensorBoard events, checkpoints and the best model; `python -m stn.figures` draws it.
        resume: go on from the checkpoint, if one is there. overwrite: redo the run that is there.
        progress: who shows it (default: a `Screen`). on_step, on_epoch: called with the `Trainer` after each weight
            step, and after each epoch with its row of epoch.csv too. stop: asked now and then; true ends the training,
            as Ctrl-C does, with a checkpoint.

    Raises UserError for what cannot be trained or written, or where another run is in the folder; `Diverged` where a
    loss or a gradient is not finite.
    """
    net.to(device := torch.device(device) if device is not None else next(net.parameters()).device)
    hyper.to(device)
    loaders = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else [*optimizer]
    task = LoaderTask(
        net,
        loss,
        loaders,
        split=split,
        augment=augment,
        weight_decay=None if weight_decay is None else WeightDecay(net, weight_decay),
        accuracy=accuracy,
        likelihood=perplexity,
        autocast=autocast,
        device=device,
        batch_axis=batch_axis,
        batches=batches,
    )
    if weight_decay is not None:
        _warn_of_decays(optimizers)
    way = _method(method)(net, hyper, optimizer=optimizer, clip=clip, accumulate=accumulate, scaler=scaler)
    plan = Plan(epochs, warmup_steps, train_steps, val_steps, patience or epochs + 1, checkpoint_seconds)
    steps = task.position[1] // accumulate
    plan.refuse_misfit(steps, tuned=hyper.num_tuned > 0)
    schedulers = [scheduler] if isinstance(scheduler, LRScheduler) else [*scheduler]
    rate = Scheduled(optimizers[0], schedulers, scheduler_each)
    settings = {
        "script": "stn.fit",
        "network": _name(net.module if isinstance(net, SelfTuning) else net),
        "method": _name(way),
        "optimizer": _name(optimizers[0]),
        **_numbers(optimizers[0].param_groups[0]),
        "start": {name: getattr(source, "initial", str(source)) for name, source in hyper.sources.items()},
        **{"clip": clip, "accumulate": accumulate, "autocast": str(autocast).removeprefix("torch.")},
        **vars(plan),
        **{"device": str(device), "seed": torch.initial_seed(), "versions": provenance()},
    }
    words = [f"{task.streams[name].length:,} mini-batches to {doing}" for name, doing in _DOING]
    introduction = f"{settings['network']}, {settings['method']}: {', '.join(words)}, of {task.batch_size} examples"
    with Interrupt() as interrupt, _folder(run, settings, resume, overwrite) as folder:
        alone = threading.current_thread() is threading.main_thread()  # no other can ask for signals
        shown = progress or Screen("examples", introduction, at_end=interrupt.release, resume="resume=True")

        def trainer() -> Trainer:
            recorder = Recorder(task, hyper, folder, shown)
            asked = (lambda: interrupt.asked() or stop()) if alone else stop
            return Trainer(task, hyper, way, rate, recorder, plan, asked, on_step, on_epoch)

        result = carry_out(
            trainer, folder, shown, model_file=MODEL, splits=[name for name in loaders if name != "train"]
        )
    if isinstance(shown, Screen):
        shown.result(result, f"in {result.path}")
    return result


_DOING = (("train", "train"), ("valid", "validate"))


def _method(method: str | Callable[..., Method]) -> Callable[..., Method]:
    if callable(method):
        return method
    if method not in METHODS:
        raise UserError(f"method is {method!r}: give {', '.join(METHODS)}, or a class such as stn.DeltaSTN")
    return METHODS[method]


def _folder(run: Path | str, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> RunFolder:
    """The run's folder, new or with the run that goes on."""
    if not (resume and (Path(run) / ARGS).exists()):
        return RunFolder.create(run, settings, overwrite)
    folder = RunFolder.open(run)
    kept = folder.settings
    others = [name for name in settings if name not in MAY_CHANGE | {"seed"} and kept.get(name) != settings[name]]
    if others:
        name = others[0]
        folder.close()
        raise UserError(
            f"the run in {run} has {name} {kept.get(name)!r}, and is to go on with {settings[name]!r}: call stn.fit as "
            "before, or give another folder"
        )
    folder.changes = {name: settings[name] for name in MAY_CHANGE}
    return folder


def _warn_of_decays(optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        if own := max(group.get("weight_decay", 0.0) for group in optimizer.param_groups):
            told = f"{_name(optimizer)} decays the weights by {own:g} besides the hyperparameter that does"
            warnings.warn(f"{told}: build it with weight_decay=0", stacklevel=3)


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's options that are numbers."""
    numbers = {name: value for name, value in group.items() if isinstance(value, int | float)}
    # Schedulers add the initial learning rate.
    return {name: value for name, value in numbers.items() if not isinstance(value, bool) and name != "initial_lr"}


def _name(of: object) -> str:
    return type(of).__name__
