"""Data sets in memory as endless streams of mini-batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Shuffled:
    """Mini-batches of examples, in a new order for each pass; a pass's last one may be smaller.

    tensors: of one data set, example after example: inputs and targets, for instance. device: where they go to. Raises
    ValueError for tensors of different lengths, or a batch of none.
    """

    def __init__(self, tensors: Sequence[Tensor], batch_size: int, device: torch.device | str = "cpu"):
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
        self.order = self.shuffled()

    def shuffled(self) -> Tensor:
        # Drawn on the CPU, so that a seed gives the same order on every device.
        return torch.randperm(len(self.tensors[0]))

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
        return {"epochs": self.epochs, "position": self.position, "order": self.order}

    def load_state_dict(self, state: dict) -> None:
        if len(state["order"]) != len(self.order):
            raise ValueError(f"the checkpoint is of {len(state['order'])} examples, not of {len(self.order)}")
        self.epochs, self.position, self.order = state["epochs"], state["position"], state["order"]
