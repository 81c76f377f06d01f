"""How a step learns. A method owns the optimizers of the weights, of the hyperparameters and of their scales."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from stn.bilevel import Loss, Step, Task
from stn.gradient_sums import GradientSum
from stn.hyperparameters import Hyperparameters
from stn.layers import split_parameters
from stn.optimizers import set_option, shares
from stn.ranks import Ranks


class Method(Protocol):
    """What the loop needs of a method. `set_learning_rate` is for the weights; hyperparameters have their own.

    elementary, response: the model's parameters, by their part in the best response. main_update: of the weights that
    the validation loss at the current hyperparameters depends on.
    """

    elementary: list[nn.Parameter]
    response: list[nn.Parameter]
    main_update: "Update"

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step: ...

    def hyper_step(self, task: Task, hyper: Hyperparameters) -> Step: ...

    def set_learning_rate(self, value: float) -> None: ...

    def share_among(self, ranks: Ranks) -> None:
        """From now on sum gradients over ranks."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Update:
    """One step of an optimizer. Every gradient passes here between the backward pass and the update.

    clip: largest norm of the gradient; a larger one is scaled down to it. parameters: those that this update is for
    (default: all of the optimizer's); others that the optimizer has get no gradient, and stay. scaler: of objectives
    that are computed in float16. clip_value: largest absolute value of the gradient's entries, in place of its norm.
    backward: what computes an objective's gradients. sum_over_ranks: of the gradients, where ranks share mini-batches.
    watchers: functions that are called with the parameters, whose gradients are final, before each update. norm: of the
    last gradient, before clipping.

    Raises ValueError for both ways to clip.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip: float = math.inf,
        parameters: Iterable[nn.Parameter] | None = None,
        scaler: GradScaler | None = None,
        clip_value: float = math.inf,
    ):
        if clip < math.inf and clip_value < math.inf:
            raise ValueError("clip and clip_value both limit the gradient: give one of them")
        self.optimizer, self.clip, self.clip_value, self.scaler = optimizer, clip, clip_value, scaler
        if parameters is None:
            parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self.parameters = [*parameters]
        self.added = 0  # objectives of the step under way
        self.shares = shares(optimizer, "lr")
        self.backward: Callable[[Tensor], None] = Tensor.backward
        self.sum_over_ranks: GradientSum | None = None
        self.watchers: list[Callable[[list[nn.Parameter]], None]] = []
        self.norm = torch.zeros(())

    def __call__(self, objective: Tensor, part: float = 1.0) -> Tensor:
        """Minimize the objective by one step; the gradient's norm before clipping."""
        self.begin()
        self.add(objective, part=part)
        return self.end()

    def begin(self) -> None:
        """A step that several objectives share begins."""
        self.optimizer.zero_grad(set_to_none=True)
        self.added = 0

    def add(self, objective: Tensor, count: int = 1, part: float = 1.0) -> None:
        """One of so many objectives, of which the mean is minimized; part: of the mini-batch, as of `Loss`."""
        if count > 1:
            objective = objective / count
        if part != 1:
            objective = objective * part
        self.added += 1
        if self.sum_over_ranks is not None and self.added == count:
            self.sum_over_ranks.expect()
        self.backward(objective if self.scaler is None else self.scaler.scale(objective))

    def clipped(self) -> Tensor:
        """Limit the gradient, whose norm before that is returned."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.norm = clip_gradient(self.parameters, self.clip)
        if self.clip_value < math.inf:
            nn.utils.clip_grad_value_(self.parameters, self.clip_value)
        return self.norm

    def end(self) -> Tensor:
        """Update the parameters; the gradient's norm before clipping."""
        if self.sum_over_ranks is not None:
            self.sum_over_ranks.finish()
        norm = self.clipped()
        for watch in self.watchers:
            watch(self.parameters)
        if self.scaler is None:
            self.optimizer.step()
            return norm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm.nan_to_num(0.0, 0.0)  # where the scale was too large, the step was left out

    def set_learning_rate(self, value: float) -> None:
        """Of the first group that has one; the others keep their ratio to it."""
        set_option(self.optimizer, "lr", value, self.shares)


HYPER_OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}


class BestResponseMethod:
    """What methods share that tune hyperparameters through a best response: everything but the weight step.

    A hyperparameter step minimizes the validation loss F(ŵ(λ)) over λ through the best response alone.

    updates: the optimizers' steps by name, of which the state is the method's. hyper_optimizer, hyper_lr: of λ and the
    scales. tune_scales: learn the perturbation's scales too: the objective is then F(ŵ(λ + ε)) − τ·entropy (MacKay et
    al. 2019, eq. 14), with entropy_weight τ ≥ 0. accumulate: mini-batches of a weight step. scaler: of objectives that
    are computed in float16.
    """

    updates: dict[str, Update]

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyperparameters,
        *,
        hyper_lr: float = 0.01,
        hyper_optimizer: str = "adam",
        tune_scales: bool = False,
        scale_lr: float = 0.01,
        entropy_weight: float = 1e-3,
        accumulate: int = 1,
        scaler: GradScaler | None = None,
    ):
        if hyper_optimizer not in HYPER_OPTIMIZERS:
            raise ValueError(f"hyper_optimizer is {hyper_optimizer!r}: it must be one of {', '.join(HYPER_OPTIMIZERS)}")
        self.elementary, self.response = split_parameters(model)
        groups = [{"params": [hyper.unconstrained], "lr": hyper_lr}, {"params": [hyper.raw_scale], "lr": scale_lr}]
        self.updates = {"hyper": Update(HYPER_OPTIMIZERS[hyper_optimizer](groups), scaler=scaler)}
        self.tune_scales, self.entropy_weight = tune_scales, entropy_weight
        self.accumulate, self.scaler = accumulate, scaler
        hyper.raw_scale.requires_grad_(tune_scales)

    def hyper_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.eval()
        draw = hyper.current()
        if self.tune_scales:
            # The perturbation acts through the response; the values themselves stay the current ones.
            draw = replace(draw, h=hyper.perturbed(task.batch_size, differentiable=True).h)
        batch = task.batch("valid")
        with frozen(task.model):
            prediction = task.predict(batch, draw)
            loss = task.loss(prediction, batch, draw)
            objective = loss.objective
            if not objective.requires_grad:
                respond = f"build layers that respond to them, with num_hyper={hyper.num_tuned}, and pass them draw.h"
                raise ValueError(f"the validation loss does not depend on the tuned hyperparameters: {respond}")
            if self.tune_scales:
                objective = objective - self.entropy_weight * hyper.entropy()
            norm = self.updates["hyper"](objective, loss.part)
        task.carry(batch, prediction)
        return step_of([loss._replace(objective=objective)], norm)

    def share_among(self, ranks: Ranks) -> None:
        """From now on sum gradients over ranks."""
        for update in self.updates.values():
            update.sum_over_ranks = GradientSum(update.parameters, ranks)

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Optimizer | GradScaler]:
        """Each optimizer once, by the name of the first update that it is for."""
        parts: dict[str, Any] = {} if self.scaler is None else {"scaler": self.scaler}
        for name, update in self.updates.items():
            if update.optimizer not in parts.values():
                parts[name] = update.optimizer
        return parts


class STN(BestResponseMethod):
    """The self-tuning network (MacKay et al. 2019, algorithm 1).

    A weight step minimizes the training loss L_T(λ + ε, ŵ(λ + ε)) over the weights, by SGD; for the hyperparameter step
    and its options see `BestResponseMethod`.

    optimizer: of the weights, in place of an SGD with lr, momentum and weight_decay. clip: largest norm of the weights'
    gradient; clip_value: or largest absolute value of its entries.

    Both steps take a task, which says what a mini-batch, a prediction and a loss are; whose loop it is does not matter:

    >>> import stn
    >>> class Regression(stn.StreamTask):
    ...     batch_size = 8
    ...     def __init__(self, model, train, valid):
    ...         self.model = model
    ...         self.streams = {"train": stn.Shuffled(train, 8), "valid": stn.Shuffled(valid, 8)}
    ...     def predict(self, batch, draw):
    ...         return self.model(batch[0], draw.h)
    ...     def loss(self, prediction, batch, draw):
    ...         loss = (prediction - batch[1]).square().mean()
    ...         return stn.Loss(loss, loss.detach(), len(prediction))
    >>> hyper = stn.Hyperparameters(rate=stn.Tuned(0.5, range=(0, 1)))
    >>> train, valid = ((torch.randn(16, 3), torch.randn(16, 1)) for _ in range(2))
    >>> task = Regression(stn.HyperLinear(3, 1, hyper.num_tuned), train, valid)
    >>> method = STN(task.model, hyper, lr=0.1)
    >>> for _ in range(10):
    ...     done = method.weight_step(task, hyper), method.weight_step(task, hyper), method.hyper_step(task, hyper)
    >>> done[0].targets, done[0].data.isfinite().item()
    (8, True)
    """

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyperparameters,
        *,
        lr: float = math.nan,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: Optimizer | None = None,
        clip: float = math.inf,
        clip_value: float = math.inf,
        **options: Any,
    ):
        super().__init__(model, hyper, **options)
        if optimizer is None:
            require_rate(lr)
            optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, fused=True)
        self.updates["weights"] = Update(optimizer, clip, scaler=self.scaler, clip_value=clip_value)
        require_all(self.updates["weights"], model.parameters())

    @property
    def main_update(self) -> Update:
        return self.updates["weights"]

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.train()
        update, losses = self.main_update, []
        update.begin()
        for _ in range(self.accumulate):
            draw = hyper.perturbed(task.batch_size)
            batch = task.batch("train")
            prediction = task.predict(batch, draw)
            losses.append(task.loss(prediction, batch, draw))
            update.add(losses[-1].objective, self.accumulate, losses[-1].part)
            task.carry(batch, prediction)
        return step_of(losses, update.end())

    def set_learning_rate(self, value: float) -> None:
        self.updates["weights"].set_learning_rate(value)


def require_rate(lr: float) -> None:
    """Raise ValueError for what is no learning rate."""
    if not lr >= 0:
        raise ValueError(f"lr is {lr}: give a learning rate, or an optimizer")


def require_all(update: Update, parameters: Iterable[nn.Parameter]) -> None:
    """Raise ValueError where the optimizer of an update lacks some of the parameters that are trained."""
    has = {parameter for group in update.optimizer.param_groups for parameter in group["params"]}
    lacking = [parameter for parameter in parameters if parameter.requires_grad and parameter not in has]
    if lacking:
        raise ValueError(
            f"the optimizer lacks {len(lacking)} of the network's parameters that are trained: build it of "
            "net.parameters(), of the converted network where there is one"
        )


def clip_gradient(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The norm of the gradient, which is scaled down to `clip` where it is larger."""
    if clip < math.inf:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


@contextmanager
def frozen(module: nn.Module | Iterable[nn.Parameter]) -> Iterator[None]:
    """While this lasts, the module's parameters, or the ones given, take no gradients.

    So a hyperparameter step by hand, on a mini-batch of the validation data, reaches λ through the best response alone:

    >>> import stn
    >>> hyper = stn.Hyperparameters(rate=stn.Tuned(0.5, range=(0, 1)))
    >>> net, x, y = stn.HyperLinear(3, 1, hyper.num_tuned), torch.ones(4, 3), torch.zeros(4, 1)
    >>> tuner = torch.optim.Adam(hyper.parameters(), lr=0.01)
    >>> before = hyper.current()["rate"].item()
    >>> with frozen(net):
    ...     (net(x, hyper.current().h) - y).square().mean().backward()
    >>> tuner.step()
    >>> net.weight.grad is None and hyper.current()["rate"].item() != before
    True
    """
    parameters = module.parameters() if isinstance(module, nn.Module) else module
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def step_of(losses: Sequence[Loss], norm: Tensor) -> Step:
    """The record of a step that minimized the mean of these losses' objectives, whose gradient had this norm."""
    losses = [loss if loss.part == 1 else _partial(loss) for loss in losses]
    data, objective, targets, accuracy = losses[0].data, losses[0].objective, losses[0].targets, losses[0].accuracy
    if len(losses) > 1:
        data = torch.stack([loss.data for loss in losses]).mean()
        objective = torch.stack([loss.objective.detach() for loss in losses]).mean()
        targets = sum(loss.targets for loss in losses)
        accuracy = None if accuracy is None else torch.stack([loss.accuracy for loss in losses]).mean()
    data, objective = data.detach(), objective.detach()
    return Step(data, objective - data, objective + norm, targets, accuracy)


def _partial(loss: Loss) -> Loss:
    """What a rank's loss adds to the whole mini-batch's."""
    accuracy = None if loss.accuracy is None else loss.accuracy * loss.part
    return loss._replace(objective=loss.objective * loss.part, data=loss.data * loss.part, accuracy=accuracy)
