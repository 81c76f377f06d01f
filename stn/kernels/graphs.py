"""CUDA graphs: the kernels that a function launches on a GPU are recorded once, and later calls launch them together.

A recurrence is hundreds of kernels so small that launching one takes longer than running it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stn.errors import UserError

MOST_RECORDINGS = 16  # of a function; each keeps as much memory as one call needs

Results = tuple[Tensor | None, ...]
Function = Callable[..., Results]


def graphed(function: Function) -> Function:
    """The function with a keyword argument `cuda_graphs`: whether to record it, once per signature of its arguments.

    It is recorded only where all its tensors lie on one GPU. It takes tensors, None and hashable values, and returns
    a tuple of tensors and None. The kernels that it launches must follow from the arguments' signature (shapes,
    dtypes, devices, values of other types): it draws no random numbers, reads no tensor's values on the host and
    writes to no argument.

    Raises UserError if the GPU cannot record it.
    """
    recordings: dict[tuple, Recording] = {}

    @functools.wraps(function)
    def call(*arguments: Any, cuda_graphs: bool) -> Results:
        gpu = gpu_of(arguments) if cuda_graphs else None
        if gpu is None:
            return function(*arguments)
        key = tuple((a.shape, a.dtype, a.device) if isinstance(a, Tensor) else a for a in arguments)
        with torch.cuda.device(gpu):  # streams and graphs belong to the current device
            # Taken out and put back, so that the least recently used comes first.
            recordings[key] = recording = recordings.pop(key, None) or Recording(function, arguments)
            if len(recordings) > MOST_RECORDINGS:
                del recordings[next(iter(recordings))]
            return recording(arguments)

    return call


def gpu_of(arguments: Sequence[Any]) -> torch.device | None:
    """The GPU that all tensors lie on, or None."""
    devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
    return devices.pop() if [device.type for device in devices] == ["cuda"] else None


class Recording:
    """A recorded function: its kernels work on tensors of its own, so arguments are copied in and results out."""

    def __init__(self, function: Function, arguments: Sequence[Any]):
        self.arguments = _copies(arguments)
        self.replay, self.results = record(function, self.arguments)

    def __call__(self, arguments: Sequence[Any]) -> Results:
        for own, given in zip(self.arguments, arguments, strict=True):
            if isinstance(own, Tensor):
                own.copy_(given)
        self.replay()
        return _copies(self.results)  # the next replay overwrites them


def record(function: Function, arguments: Sequence[Any]) -> tuple[Callable[[], None], Results]:
    """A call that repeats the function on these very tensors, and the tensors to which it writes the results."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*arguments)  # libraries set themselves up in their first call, which cannot be recorded
    torch.cuda.current_stream().wait_stream(stream)
    try:
        with torch.cuda.graph(graph, stream=stream):
            results = function(*arguments)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise UserError(f"this GPU cannot record a CUDA graph ({cause}): give --no_cuda_graphs") from error
    return graph.replay, results


def _copies(values: Sequence[Any]) -> tuple:
    return tuple(value.detach().clone() if isinstance(value, Tensor) else value for value in values)
