"""CUDA graphs: what a function launches on a GPU is recorded once, and from then on launched as one.

A recurrence is hundreds of kernels so small that launching one takes longer than running it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stn.errors import UserError

MOST_RECORDINGS = 16  # of a function; each holds on to as much memory as one call takes

_enabled = True

Results = tuple[Tensor | None, ...]
Function = Callable[..., Results]


def enable(on: bool) -> None:
    """Whether functions are recorded, for the whole process; they are unless told otherwise."""
    global _enabled
    _enabled = on


def graphed(function: Function) -> Function:
    """Has a function be recorded, once for each signature of its arguments; on a CPU it is called as it is.

    It takes tensors, None and hashable values and gives a tuple of tensors and None. What it does must depend on
    nothing but its arguments' signature: no random numbers, no look at a tensor's values, no argument written to.

    Raises UserError where the GPU cannot record it.
    """
    recordings: dict[tuple, Recording] = {}

    @functools.wraps(function)
    def call(*arguments: Any) -> Results:
        gpu = gpu_of(arguments)
        if gpu is None:
            return function(*arguments)
        key = tuple(map(_signature, arguments))
        with torch.cuda.device(gpu):  # streams, and with them graphs, are the current device's
            # The last used comes last.
            recordings[key] = recording = recordings.pop(key, None) or Recording(function, arguments)
            if len(recordings) > MOST_RECORDINGS:
                del recordings[next(iter(recordings))]
            return recording(arguments)

    return call


def gpu_of(arguments: Sequence[Any]) -> torch.device | None:
    """The GPU that all tensors lie on; None where there is none such, or recording is switched off."""
    devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
    alone = devices.pop() if _enabled and len(devices) == 1 else None
    return alone if alone is not None and alone.type == "cuda" else None


class Recording:
    """A function's kernels at work on tensors of their own, into which arguments are copied, and results out of."""

    def __init__(self, function: Function, arguments: Sequence[Any]):
        self.arguments = _copies(arguments)
        self.replay, self.results = record(function, self.arguments)

    def __call__(self, arguments: Sequence[Any]) -> Results:
        for mine, given in zip(self.arguments, arguments, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given)
        self.replay()
        return _copies(self.results)  # the next replay overwrites them


def record(function: Function, arguments: Sequence[Any]) -> tuple[Callable[[], None], Results]:
    """What repeats the function on these very tensors, and the tensors that its results are written to."""
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        function(*arguments)  # what libraries set up when they are first used cannot be recorded
    torch.cuda.current_stream().wait_stream(aside)
    try:
        with torch.cuda.graph(graph, stream=aside):
            results = function(*arguments)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise UserError(f"this GPU cannot record a CUDA graph ({cause}): go on without, by --no_cuda_graphs") from error
    return graph.replay, results


def _signature(argument: Any) -> Any:
    return (argument.shape, argument.dtype, argument.device) if isinstance(argument, Tensor) else argument


def _copies(values: Sequence[Any]) -> tuple:
    return tuple(value.detach().clone() if isinstance(value, Tensor) else value for value in values)
