"""A self-tuning run of one's own network on one's own loaders, in one call."""

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stn.conversion import SelfTuning
from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters
from stn.learning_rates import LearningRate, Scheduled
from stn.loaders import LoaderTask, Split, inputs_and_target
from stn.methods import Method
from stn.ranks import ranks_here
from stn.recorder import Recorder, Unseen
from stn.runs.folder import ARGS, RunFolder, read_status, table_files
from stn.runs.models import MODEL, recorded
from stn.runs.provenance import provenance
from stn.scripts.course import Result, RunProgress, carry_out
from stn.scripts.followed import opened
from stn.scripts.methods import METHODS
from stn.scripts.screen import Screen
from stn.scripts.signals import Interrupt
from stn.training import Plan, Stop, Trainer
from stn.weight_decay import WeightDecay

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
    learning_rate: LearningRate | None = None,
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
        augment: of (mini-batch, draw), returns a new mini-batch and leaves the given one as it is; in training only.
        weight_decay: the hyperparameters that are its coefficients, as of `WeightDecay`.
    How:
        optimizer: of net.parameters(); under "delta_stn" also a pair, for what `split_parameters(net)` returns.
        method: "stn" (MacKay et al. 2019); "delta_stn" (Bae & Grosse 2020); or with options of its own, such as
            functools.partial(stn.DeltaSTN, hyper_lr=3e-3).
        scheduler: torch's, of learning rates, stepped after each "epoch" or weight "step", as scheduler_each says.
        learning_rate: one that is tuned in place of a scheduler's, such as stn.MARTHE(hyper_lr=1e-4), from the
            optimizer's on.
        clip: largest norm of the gradient. accumulate: mini-batches of a weight step. autocast: the type of matrix
            products. scaler: for float16.
        epochs: passes over `train`. train_steps, val_steps: weight steps and hyperparameter steps in turn, after
            warmup_steps weight steps alone. patience: epochs without a lower validation loss that end training
            (default: none do).
        device: default: where the network is.
    Where:
        run: the folder of tables, TensorBoard events, checkpoints and the best model; `python -m stn.figures` draws it.
        resume: go on from the checkpoint, if one is there; a scheduler goes on as it was built. overwrite: redo the run
            that is there.
        progress: who shows it (default: a `Screen`). on_step, on_epoch: called with the `Trainer` after each weight
            step, and after each epoch with its row of epoch.csv too. stop: asked now and then; true ends the training,
            as Ctrl-C does, with a checkpoint.

    Raises UserError, or ValueError and TypeError of the part at fault, for what cannot be trained, and UserError where
    another run is in the folder or it cannot be written; `Diverged` where a loss or a gradient is not finite.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else [*optimizer]
    schedulers = [scheduler] if isinstance(scheduler, LRScheduler) else [*scheduler]
    _refuse_misfits(net, hyper, optimizers, schedulers, weight_decay)
    if accuracy is not None and perplexity:
        raise UserError("accuracy and perplexity are both given: logs have one of them, give that")
    if not isinstance(learning_rate, LearningRate | None):
        raise UserError(f"learning_rate is {learning_rate!r}: give one such as stn.MARTHE(hyper_lr=1e-3)")
    if learning_rate is not None and schedulers:
        raise UserError("learning_rate and scheduler are both given: give one of them")
    if resume and overwrite:
        raise UserError("resume and overwrite are both given: give one of them")
    ranks = ranks_here()
    device = torch.device(ranks.device(str(next(net.parameters()).device if device is None else device)))
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
        likelihood=perplexity,
        autocast=autocast,
        device=device,
        batch_axis=batch_axis,
        batches=batches,
    )
    steps = task.position[1]
    if not isinstance(accumulate, int) or not 1 <= accumulate <= steps:
        raise UserError(
            f"accumulate is {accumulate}: give a whole number from 1 to {steps}, the mini-batches of a pass"
        )
    if weight_decay is not None:
        with ranks.warning_once():
            _warn_of_decays(optimizers)
    way = _method(method)(net, hyper, optimizer=optimizer, clip=clip, accumulate=accumulate, scaler=scaler)
    lasting = epochs + 1 if patience is None else patience
    plan = Plan(epochs, warmup_steps, train_steps, val_steps, lasting, checkpoint_seconds)
    plan.refuse_misfit(steps // accumulate, tuned=hyper.num_tuned > 0)
    rate = learning_rate or Scheduled(optimizers[0], schedulers, scheduler_each)
    settings = {
        **_record(task, hyper, way, optimizers, schedulers),
        "weight_decay": dict(weight_decay) if isinstance(weight_decay, Mapping) else weight_decay,
        **({} if learning_rate is None else {"learning_rate": learning_rate.described()}),
        **{"clip": clip, "accumulate": accumulate, "autocast": str(autocast).removeprefix("torch.")},
        **vars(plan),
        **{"device": str(device), "seed": torch.initial_seed(), "versions": provenance()},
    }
    train_length, valid_length = (task.streams[name].length for name in ("train", "valid"))
    words = f"{train_length:,} mini-batches to train, {valid_length:,} to validate, of {task.batch_size} examples"
    introduction = f"{settings['network']}, {settings['method']}: {words}"
    with Interrupt() as interrupt, opened(ranks, lambda: _folder(run, settings, resume, overwrite)) as folder:
        alone = threading.current_thread() is threading.main_thread()  # no other can ask for signals
        shown = progress or Screen("examples", introduction, at_end=interrupt.release, resume="resume=True")
        shown = shown if ranks.first else Unseen()

        def trainer() -> Trainer:
            recorder = Recorder(task, hyper, folder, shown)
            asked = (lambda: interrupt.asked() or stop()) if alone else stop
            return Trainer(task, hyper, way, rate, recorder, plan, asked, on_step, on_epoch)

        splits = [name for name in loaders if name != "train"]
        with ranks.warning_once():
            result = carry_out(trainer, folder, shown, model_file=MODEL, splits=splits, ranks=ranks)
    if isinstance(shown, Screen):
        shown.result(result, f"in {result.path}")
    ranks.wait()
    return result


def _method(method: str | Callable[..., Method]) -> Callable[..., Method]:
    if callable(method):
        return method
    if method not in METHODS:
        raise UserError(f"method is {method!r}: give {', '.join(METHODS)}, or a class such as stn.DeltaSTN")
    return METHODS[method]


def _folder(run: Path | str, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> RunFolder:
    """The run's folder, new or with the run that goes on."""
    there = (Path(run) / ARGS).exists()
    if there and not (resume or overwrite):
        if read_status(run) not in ("failed", "diverged") or [*table_files(Path(run))]:
            raise UserError(f"there is a run in {run}: go on with it by resume=True, redo it by overwrite=True")
        overwrite = True  # it has failed before it was logged: a call that was mended
    if not (there and resume):
        return RunFolder.create(run, settings, overwrite)
    folder = RunFolder.open(run)
    kept = folder.settings
    others = [name for name in settings if name not in MAY_CHANGE | {"seed"} and kept.get(name) != settings[name]]
    if others:
        folder.close()
        was, now = (own.get(others[0]) for own in (kept, settings))
        as_before = "call stn.fit as before, or give another folder"
        raise UserError(f"the run in {run} has {others[0]} {was!r}, and is to go on with {now!r}: {as_before}")
    folder.changes = {name: settings[name] for name in MAY_CHANGE}
    return folder


def _warn_of_decays(optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        if own := max(group.get("weight_decay", 0.0) for group in optimizer.param_groups):
            told = f"{_name(optimizer)} decays the weights by {own:g} besides the hyperparameter that does"
            warnings.warn(f"{told}: build it with weight_decay=0", stacklevel=3)


def _refuse_misfits(
    net: nn.Module,
    hyper: Hyperparameters,
    optimizers: Sequence[Optimizer],
    schedulers: Sequence[LRScheduler],
    weight_decay: str | Mapping[str, str] | None,
) -> None:
    """Raise UserError for what does not belong together."""
    if isinstance(net, SelfTuning) and net.hyper is not hyper:
        raise UserError("the network was converted with other hyperparameters: give those")
    if not isinstance(net, SelfTuning) and "draw" not in signature(net.forward).parameters:
        raise UserError(f"the {_name(net)} takes no draw of hyperparameters: give what stn.convert makes of it")
    if not [*net.parameters()]:
        raise UserError(f"the {_name(net)} has no parameters: there is nothing to train")
    for own in optimizers:
        if isinstance(own, torch.optim.LBFGS):
            raise UserError("LBFGS goes through a mini-batch several times a step: give an optimizer that does not")
    for own in schedulers:
        if own.optimizer not in optimizers:
            raise UserError(f"the {_name(own)} is of another optimizer: build it of one that is given")
    coefficients = [weight_decay] if isinstance(weight_decay, str) else [*(weight_decay or {}).values()]
    if unknown := [name for name in coefficients if name not in hyper.names]:
        known = ", ".join(hyper.names) or "none"
        raise UserError(f"weight_decay names {unknown[0]!r}, which is no hyperparameter: there are {known}")


def _record(
    task: LoaderTask,
    hyper: Hyperparameters,
    method: Method,
    optimizers: Sequence[Optimizer],
    schedulers: Sequence[LRScheduler],
) -> dict[str, Any]:
    """What tells a run from others, by class and name where it is code."""
    net = task.model
    return {
        "script": "stn.fit",
        "network": _name(net.module if isinstance(net, SelfTuning) else net),
        "method": _name(method),
        "weights": sum(weight.numel() for weight in net.parameters()),
        "optimizers": [_described(own) for own in optimizers],
        "schedulers": [_name(own) for own in schedulers],
        "sources": [f"{name}={source}" for name, source in recorded(hyper).items()],
        "loss": _function(task.loss_of),
        "augment": _function(task.augment),
        "measure": "acc" if task.accuracy_of is not None else "ppl" if task.likelihood else "loss",
        "mini_batches": [*(stream.length for stream in task.streams.values()), task.batch_size],
    }


def _described(optimizer: Optimizer) -> str:
    """An optimizer's class and its options that are numbers."""
    group = dict(optimizer.param_groups[0])
    group["lr"] = group.pop("initial_lr", group["lr"])  # which a scheduler keeps
    numbers = {name: value for name, value in group.items() if isinstance(value, int | float)}
    told = [f"{name}={value:g}" for name, value in numbers.items() if not isinstance(value, bool)]
    return f"{_name(optimizer)}({', '.join(told)})"


def _function(function: object) -> str | None:
    """What a function is called, or an object's class."""
    return None if function is None else getattr(function, "__qualname__", _name(function))


def _name(of: object) -> str:
    return type(of).__name__
