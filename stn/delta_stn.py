"""The Δ-STN (Bae & Grosse 2020): a self-tuning network whose best response is centred and linearized.

The response sees how far the hyperparameters are from their current values, h = λ + ε − stopgrad(λ), so that the
elementary weights are those of the current values, h = 0, and are trained by them alone; and it is trained on the
prediction linearized around h = 0 in the direction ε, in which it is linear too. The tangent is computed in forward
mode (`torch.autograd.forward_ad`), and gradients flow back through it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.utils.checkpoint import CheckpointError

from stn.bilevel import Step, Task
from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters, Tuned
from stn.methods import BestResponseMethod, Update, frozen, require_all, require_rate, step_of
from stn.optimizers import value_of
from stn.response import at_centre

Prediction = TypeVar("Prediction")
_REMEDY = "switch linearization off (linearize=False, in scripts --no_linearize)"


class DeltaSTN(BestResponseMethod):
    """The Δ-STN's weight step: two updates on one mini-batch, each by an SGD of its own.

    First the elementary weights, on the training loss at the current hyperparameters, h = 0. Then, with these held, the
    response, on the loss of the linearized prediction at the perturbed ones, with masks and augmentation of their own.
    For the hyperparameter step, which uses the network as it is, and its options see `BestResponseMethod`.

    hyper: every tuned hyperparameter has `feed="centred"`. response_lr: the response's learning rate (default: lr),
    which follows that of the elementary weights as it decays. optimizer: in place of these SGDs with momentum and
    weight_decay, one of all weights, which is stepped twice, with no gradients for those that stay; or two, of the
    elementary weights and of the response (`split_parameters`). clip: largest norm of either gradient. linearize: False
    trains the response on the network's own prediction at λ + ε.

    Raises ValueError for a hyperparameter that is not centred, or learning rates that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyperparameters,
        *,
        lr: float = math.nan,
        response_lr: float | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        clip: float = math.inf,
        linearize: bool = True,
        **options: Any,
    ):
        super().__init__(model, hyper, **options)
        for name, source in hyper.sources.items():
            if isinstance(source, Tuned) and source.feed != "centred":
                raise ValueError(
                    f'the Δ-STN tunes centred hyperparameters: declare {name} without feed="{source.feed}"'
                )
        if response_lr is not None and optimizer is not None:
            raise ValueError("response_lr is for the method's own optimizers: give two, the second with this rate")
        if response_lr is not None and not lr > 0:
            raise ValueError(f"lr is {lr}: beside a response_lr, which follows it, it must be above 0")
        self.linearize = linearize
        self.response_ratio = 1.0 if response_lr is None else response_lr / lr
        parts = {"elementary": (self.elementary, lr), "response": (self.response, lr * self.response_ratio)}
        given = optimizer if isinstance(optimizer, Sequence) else (optimizer, optimizer)
        if len(given) != 2:
            raise ValueError(f"{len(given)} optimizers: give one, or two, for the elementary weights and the response")
        for (name, (parameters, rate)), own in zip(parts.items(), given, strict=True):
            if parameters:  # a network of plain layers has no response
                if own is None:
                    require_rate(lr)
                    own = torch.optim.SGD(parameters, rate, momentum, weight_decay=weight_decay, fused=True)
                self.updates[name] = Update(own, clip, parameters, self.scaler)
                require_all(self.updates[name], parameters)
        if isinstance(optimizer, Sequence) and value_of(optimizer[0], "lr"):
            self.response_ratio = value_of(optimizer[1], "lr") / value_of(optimizer[0], "lr")

    @property
    def main_update(self) -> Update:
        """Of the elementary weights: at the current hyperparameters, h = 0, the response adds nothing."""
        return self.updates["elementary"]

    def set_learning_rate(self, value: float) -> None:
        self.updates["elementary"].set_learning_rate(value)
        if self.response:
            self.updates["response"].set_learning_rate(value * self.response_ratio)

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.train()
        update, losses, batches = self.main_update, [], []
        with torch.no_grad():
            current = hyper.current()
        with frozen(self.response):
            update.begin()
            for _ in range(self.accumulate):
                batches.append(task.batch("train"))
                prediction = task.predict(batches[-1], current)
                losses.append(task.loss(prediction, batches[-1], current))
                update.add(losses[-1].objective, self.accumulate, losses[-1].part)
                task.carry(batches[-1], prediction)
            step = step_of(losses, update.end())
        if not self.response:
            return step
        return step._replace(health=step.health + self._response_step(task, hyper, batches))

    def _response_step(self, task: Task, hyper: Hyperparameters, batches: Sequence[Any]) -> Tensor:
        """Update the response on these mini-batches; a number that is finite if objective and gradient were."""
        update, health = self.updates["response"], []
        with frozen(self.elementary), held_statistics(task.model):
            update.begin()
            for batch in batches:
                perturbed = hyper.perturbed(task.batch_size)
                prediction = self._predict(task, batch, perturbed)
                loss = task.loss(prediction, batch, perturbed)
                if not (objective := loss.objective).requires_grad:
                    raise ValueError("the training loss does not depend on the response: pass the layers draw.h")
                with explaining_checkpoints():
                    update.add(objective, len(batches), loss.part)
                health.append(objective.detach())
            return sum(health, update.end())

    def _predict(self, task: Task, batch: Any, draw: Draw) -> Any:
        if not self.linearize:
            return task.predict(batch, draw)
        try:
            return linearized(lambda draw: task.predict(batch, draw), draw)
        except NotImplementedError as error:
            with torch.random.fork_rng(), forward_ad.dual_level(), at_centre():
                name = _failing_module(task.model, lambda: task.predict(batch, _directed(draw)))
            raise UserError(f"the Δ-STN cannot linearize {name}, which has no forward derivative: {_REMEDY}") from error


@contextmanager
def explaining_checkpoints() -> Iterator[None]:
    """Raise UserError where activations are recomputed in the backward pass, and have lost their tangents there."""
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"the Δ-STN cannot linearize checkpointed activations: keep them, or {_REMEDY}") from error


def linearized(predict: Callable[[Draw], Prediction], draw: Draw) -> Prediction:
    """The prediction linearized around h = 0, in the direction of the draw's h: its value there plus its tangent.

    predict: returns a tensor, or tuples, lists, dicts or dataclasses of tensors and other things. What follows it, such
    as a loss, is not linearized. Raises NotImplementedError where an operation has no forward derivative.

    So the Δ-STN's response step by hand, with the elementary weights held:

    >>> import stn
    >>> hyper = stn.Hyperparameters(rate=stn.Tuned(0.5, range=(0, 1)))
    >>> net, x, y = stn.HyperLinear(3, 1, hyper.num_tuned), torch.ones(4, 3), torch.zeros(4, 1)
    >>> elementary, response = stn.split_parameters(net)
    >>> optimizer = torch.optim.SGD(response, lr=0.1)
    >>> with frozen(elementary):
    ...     prediction = linearized(lambda draw: net(x, draw.h), hyper.perturbed(len(x)))
    ...     (prediction - y).square().mean().backward()
    >>> optimizer.step()
    >>> net.weight.grad is None and net.gate.grad is not None
    True
    """
    # Of attention's kernels, this one alone has a forward derivative on every device.
    with forward_ad.dual_level(), at_centre(), sdpa_kernel(SDPBackend.MATH):
        return _sums(predict(_directed(draw)))


def _directed(draw: Draw) -> Draw:
    """At the centre, h = 0, with the draw's own h as the tangent."""
    return replace(draw, h=forward_ad.make_dual(torch.zeros_like(draw.h), draw.h))


def _sums(value: Any) -> Any:
    """Primal plus tangent of every dual tensor in it."""
    if isinstance(value, Tensor):
        primal, tangent = forward_ad.unpack_dual(value)
        return primal if tangent is None else primal + tangent
    if isinstance(value, dict):
        new = copy(value)
        new.update((key, _sums(part)) for key, part in value.items())
        return new
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _sums(getattr(value, part.name)) for part in fields(value) if part.init})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_sums, value))
    if isinstance(value, tuple | list):
        return type(value)(map(_sums, value))
    return value


@contextmanager
def held_statistics(model: nn.Module) -> Iterator[None]:
    """While this lasts, normalization in training uses a mini-batch's statistics without adding them to its own."""
    layers = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
    tracking = [layer for layer in layers if layer.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def _failing_module(model: nn.Module, predict: Callable[[], object]) -> str:
    """The name and type of the innermost module whose forward pass raises NotImplementedError."""
    entered: list[nn.Module] = []

    def leave(*_: object) -> None:
        entered.pop()

    hooks = [module.register_forward_pre_hook(lambda module, _: entered.append(module)) for module in model.modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        predict()
    except NotImplementedError:
        failing = entered[-1] if entered else model
        names = {module: name for name, module in model.named_modules()}
        return f"{names[failing] or 'the model'} ({type(failing).__name__})"
    finally:
        for hook in hooks:
            hook.remove()
    return "the model"
