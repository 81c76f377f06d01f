"""What a weight step computed, to be computed again: its mini-batches and draws, with the same random numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stn.bilevel import Task
from stn.hypergradients.gradients import gradients_of
from stn.hyperparameters import Draw
from stn.kernels.precision import full_precision


class Forward(NamedTuple):
    """A forward pass's arguments, and the generators' states before it."""

    batch: Any
    draw: Draw
    random: list[Tensor]


class Recorded:
    """A task that remembers the forward passes of the weight step under way, while it is told to."""

    def __init__(self, task: Task):
        self.task, self.recording = task, False
        self.passes: list[Forward] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def begin(self) -> None:
        self.passes, self.recording = [], True

    def end(self) -> None:
        self.passes, self.recording = [], False

    def predict(self, batch: Any, draw: Draw) -> Any:
        if self.recording:
            self.passes.append(Forward(batch, draw, random_state()))
        return self.task.predict(batch, draw)

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Of the mean objective of these passes, at the weights as they are now; products of matrices in float32.

        A parameter on which it does not depend has zeros. Random numbers and running statistics stay as they are.
        """
        total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        with kept_random_state(), kept_buffers(self.model), full_precision():
            for batch, draw, random in self.passes:
                set_random_state(random)
                objective = self.task.loss(self.task.predict(batch, draw), batch, draw).objective
                for own, part in gradients_of(objective / len(self.passes), parameters).items():
                    total[own] += part
        return [*total.values()]


def random_state() -> list[Tensor]:
    """Of PyTorch's generators, the CPU's first."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """What forward passes within this context do to buffers, such as running statistics, leaves no trace."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Random numbers that are drawn within this context leave no trace."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
