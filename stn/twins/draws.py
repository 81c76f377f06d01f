"""How the layers of a converted network, which are called without a draw, find the one of the call under way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

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
                f"{layer or 'a layer'} of a converted network is called without a draw: call the network as "
                "net(…, draw=hyper.perturbed(B)), or hyper.current(), or inside `with net.using(draw):`, which must "
                "last until the backward pass is over where activations are recomputed in it (checkpointing)"
            )
        return draw


@dataclass
class Place:
    """What a twin knows of its network and of itself.

    layer: its name. plain_class: what it was. batch_axis: of its inputs and outputs. draws: of its network. rate: the
    hyperparameter that is its dropout rate, if it has one. response: the names of the parameters that it was given.
    """

    layer: str
    plain_class: type[nn.Module]
    batch_axis: int
    draws: Draws
    rate: str | None
    response: frozenset[str] = frozenset()


class Twin(nn.Module):
    """Base class of twins: a layer of torch.nn, in its place, with its parameters and its keys."""

    place: Place
    num_hyper: int

    def add_response(self, num_hyper: int) -> None:
        """Register the response's parameters: W' random, the gates 0."""
        raise NotImplementedError

    def folded(self, h: Tensor) -> dict[str, Tensor]:
        """The plain layer's parameters that respond to h (1, H), by name."""
        raise NotImplementedError

    def current(self) -> Draw:
        """The draw of the call under way."""
        return self.place.draws.current(self.place.layer)

    def rate(self, own: float) -> float | Tensor:
        """The dropout rate: the layer's own where no hyperparameter is."""
        return own if self.place.rate is None else self.current()[self.place.rate]

    def draw_for(self, x: Tensor, least: int = 1) -> Draw:
        """The draw, of as many rows as x has examples, or of one. least: the dimensions that x has at least.

        Raises ValueError for inputs of other dimensions, or a draw of other rows.
        """
        place, draw = self.place, self.current()
        rows, axis = len(draw.h), place.batch_axis
        named = f"{place.layer or 'the network'} ({place.plain_class.__name__})"
        if x.dim() < least or x.dim() <= axis:
            raise ValueError(f"{named} is given {shown(x.shape)}, which has no batch: give it batches")
        if rows != 1 and x.shape[axis] != rows:
            raise ValueError(
                f"{named} is given {shown(x.shape)}, whose axis {axis} should be the batch of the draw's {rows} "
                "examples: draw as many as the batch has; if the batch is another axis here, say so to stn.convert "
                "with batch_axis=; if it is none, as in a table of positions, leave the layer plain with respond="
            )
        return draw

    def along_batch(self, rows: Tensor, dims: int) -> Tensor:
        """(B or 1, F) -> as it broadcasts over a tensor of so many dimensions, batch at its axis, F the last one."""
        shape = [1] * dims
        shape[self.place.batch_axis], shape[-1] = rows.shape
        return rows.reshape(shape)


def same_kind(weight: Tensor, *shape: int, bound: float) -> nn.Parameter:
    """A parameter like this weight, of type and device, drawn from the uniform distribution on [−bound, bound]."""
    return nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device).uniform_(-bound, bound))
