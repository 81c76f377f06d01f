"""How the layers of a converted network, which are called without a draw, find the one of the call under way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from stn.hyperparameters import Draw
from stn.layers import shown

# Of each network that is being called. A thread has its own, so that calls in several do not mix.
_current: ContextVar[Mapping["Draws", Draw]] = ContextVar("draws", default={})  # noqa: B039 (never changed in place)


class Draws:
    """Those of one converted network. A copy of the network has its own."""

    @contextmanager
    def using(self, draw: Draw) -> Iterator[None]:
        """While this lasts, the network's layers use this draw."""
        token = _current.set({**_current.get(), self: draw})
        try:
            yield
        finally:
            _current.reset(token)

    def current(self, layer: str) -> Draw:
        """Raises RuntimeError where the network is called without one."""
        draw = _current.get().get(self)
        if draw is None:
            raise RuntimeError(
                f"{layer} of a converted network is called without a draw: call the network as "
                "net(…, draw=hyper.perturbed(B)), or hyper.current(), or inside `with net.using(draw):`"
            )
        return draw


class Twin(nn.Module):
    """Base class of twins: a layer of torch.nn, in place, with its parameters and its keys.

    plain_class: what the layer was. layer: its name in the network. batch_axis: of its inputs and outputs. draws: of
    its network. rate: the hyperparameter that is its dropout rate, if it has one.
    """

    plain_class: type[nn.Module]
    layer: str
    batch_axis: int
    draws: Draws
    rate: str | None

    def draw_for(self, x: Tensor) -> Draw:
        """The draw, of as many rows as x has examples, or of one. Raises ValueError where it has other rows."""
        draw = self.draws.current(self.layer)
        rows, axis = len(draw.h), self.batch_axis
        if rows != 1 and (x.dim() <= axis or x.shape[axis] != rows):
            raise ValueError(
                f"{self.layer} ({self.plain_class.__name__}) is given {shown(x.shape)}, whose axis {axis} should be "
                f"the batch of the draw's {rows} examples: draw as many as the batch has; or, where the batch is "
                f'another axis, state it: stn.convert(…, batch_axis={{"{self.layer}": 1}})'
            )
        return draw

    def along_batch(self, rows: Tensor, dims: int) -> Tensor:
        """(B or 1, F) -> as it broadcasts over a tensor of so many dimensions, batch at its axis, F the last one."""
        shape = [1] * dims
        shape[self.batch_axis], shape[-1] = rows.shape
        return rows.reshape(shape)


def same_kind(weight: Tensor, *shape: int, bound: float) -> nn.Parameter:
    """A parameter like this weight, of type and device, drawn from the uniform distribution on [−bound, bound]."""
    return nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device).uniform_(-bound, bound))
