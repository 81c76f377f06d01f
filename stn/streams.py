"""Endless streams of mini-batches, of data sets in memory and of any loaders, that go on where they were."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stn.errors import UserError


class Shuffled:
    """Mini-batches of examples, in a new order for each pass; a pass's last one may be smaller.

    tensors: of one data set, example after example: inputs and targets, for instance. device: where they go to. seed:
    of a generator of its own for the orders (default: PyTorch's common one). Raises ValueError for tensors of different
    lengths, or a batch of none.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        if not isinstance(tensors, tuple | list) or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise TypeError(
                f"a data set is a tuple of tensors, such as (inputs, targets), not {type(tensors).__name__}"
            )
        if len(lengths := {len(tensor) for tensor in tensors}) != 1 or 0 in lengths:
            raise ValueError(
                f"the tensors of a data set have {sorted(lengths)} examples: all need the same number, at least one"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: it must be a whole number above 0")
        self.tensors = tuple(tensor.to(device) for tensor in tensors)
        self.batch_size = batch_size
        self.epochs = self.position = 0  # passes completed, examples read of the one under way
        self.seed = seed
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.order = self.shuffled()

    def another(self) -> "Shuffled":
        seed = None if self.seed is None else self.seed + 1  # so that the two read in different orders
        return Shuffled(self.tensors, self.batch_size, self.tensors[0].device, seed)

    def shuffled(self) -> Tensor:
        # Drawn on the CPU, so that a seed gives the same order on every device.
        return torch.randperm(len(self.tensors[0]), generator=self.generator)

    @property
    def steps(self) -> tuple[int, int]:
        """Mini-batches of this pass: done, and in all."""
        done, whole = (-(-count // self.batch_size) for count in (self.position, len(self.order)))
        return done, whole

    def next(self) -> tuple[Tensor, ...]:
        """The next mini-batch of each tensor."""
        chosen = self.order[self.position : self.position + self.batch_size].to(self.tensors[0].device)
        self.position += len(chosen)
        if self.position == len(self.order):
            self.epochs, self.position, self.order = self.epochs + 1, 0, self.shuffled()
        return tuple(tensor[chosen] for tensor in self.tensors)

    def state_dict(self) -> dict:
        own = {} if self.generator is None else {"generator": self.generator.get_state()}
        return {"epochs": self.epochs, "position": self.position, "order": self.order, **own}

    def load_state_dict(self, state: dict) -> None:
        if len(state["order"]) != len(self.order):
            raise ValueError(f"the checkpoint is of {len(state['order'])} examples, not of {len(self.order)}")
        self.epochs, self.position, self.order = state["epochs"], state["position"], state["order"]
        if self.generator is not None:
            self.generator.set_state(state["generator"])


class LoaderStream:
    """The mini-batches of a loader, pass after pass.

    name: of the loader, for messages. loader: can be gone through again. batches: of a pass; such a loader is gone on
    with from pass to pass, and started again where it ends. Otherwise a pass is as long as the loader. On resuming, the
    loader goes again through the mini-batches since it was last started, from the random numbers that it had then,
    PyTorch's or those of its own generator.

    Raises UserError for a loader without mini-batches, one whose number is not known, or one that can be gone through
    but once.
    """

    def __init__(self, name: str, loader: Iterable, batches: int | None = None):
        self.name, self.loader, self.endless = name, loader, batches is not None
        refuse_spent(name, loader)
        try:
            self.length = len(loader) if batches is None else batches
        except TypeError:
            remedy = f'give batches={{"{name}": N}}, the number of its mini-batches that make a pass'
            raise UserError(f"the {name} loader has no length: {remedy}") from None
        if self.length < 1:
            raise UserError(f"the {name} loader has no mini-batch: give it more data, or smaller mini-batches")
        self.epochs = self.done = 0
        self.taken = 0  # mini-batches since the loader was started
        self.began = self._random()
        self.iterator: Iterator | None = None

    def another(self) -> "LoaderStream":
        return LoaderStream(self.name, self.loader, self.length if self.endless else None)

    @property
    def steps(self) -> tuple[int, int]:
        """Mini-batches of this pass: done, and in all."""
        return self.done, self.length

    def next(self) -> Any:
        batch = self._take()
        self.done += 1
        if self.done == self.length:
            self.epochs, self.done = self.epochs + 1, 0
            if not self.endless:
                self.iterator, self.taken = None, 0
        return batch

    def _take(self) -> Any:
        if self.iterator is None:
            self.began, self.iterator, self.taken = self._random(), iter(self.loader), 0
        try:
            batch = next(self.iterator)
        except StopIteration:
            if not (self.endless and self.taken):
                found = f"ended after {self.taken} mini-batches, not {self.length}"
                raise UserError(f"the {self.name} loader {found}: give one that can be gone through again") from None
            self.iterator = None
            return self._take()
        self.taken += 1
        return batch

    def _random(self) -> dict[str, Tensor]:
        """The states of PyTorch's generator, and of the loader's own where it has one."""
        return {name: generator.get_state() for name, generator in self._generators().items()}

    def _set_random(self, states: dict[str, Tensor]) -> None:
        for name, generator in self._generators().items():
            generator.set_state(states[name])

    def _generators(self) -> dict[str, torch.Generator]:
        own = getattr(self.loader, "generator", None)
        return {"common": torch.default_generator} | ({"own": own} if isinstance(own, torch.Generator) else {})

    def state_dict(self) -> dict:
        names = ("epochs", "done", "taken", "began")
        return {name: getattr(self, name) for name in names} | {"now": self._random()}

    def load_state_dict(self, state: dict) -> None:
        """Leaves PyTorch's generator as it is: its state is not the stream's."""
        if state["done"] >= self.length:
            raise ValueError(
                f"the checkpoint is of {state['done']} mini-batches and more, the loader has {self.length}"
            )
        self.iterator, self.taken = None, 0
        common = torch.get_rng_state()
        if state["taken"]:
            self._set_random(state["began"])
            for _ in range(state["taken"]):
                self._take()
        self._set_random({**state["now"], "common": common})
        self.epochs, self.done, self.began = state["epochs"], state["done"], state["began"]


def refuse_spent(name: str, loader: Iterable) -> None:
    """Raise UserError for what can be gone through only once, or not twice at a time, as evaluation needs it."""
    if isinstance(loader, Iterator):
        raise UserError(
            f"the {name} loader is a {type(loader).__name__}, which is gone through once: give a DataLoader"
        )
    if name != "train" and getattr(loader, "persistent_workers", False):
        told = f"the {name} loader has persistent workers, which cannot go through it twice at a time"
        raise UserError(f"{told}: build it with persistent_workers=False")
