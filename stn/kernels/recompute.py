"""Activation checkpointing (Chen et al. 2016): memory for time.

A part of a network keeps its inputs alone for the backward pass, which computes the part again when it comes there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Any, enabled: bool = True, buffers: Sequence[Tensor] = ()) -> Any:
    """function(*inputs), of which the backward pass computes anew what it needs.

    Gradients, and tangents of `torch.autograd.forward_ad`, are those of function(*inputs), to the last bit where the
    same operations round alike each time. The backward pass is not taken within a dual level.

    function: returns a tensor or a tuple of tensors. It draws no random numbers, since no generator is set back, and
        finds its context variables, such as that of `at_centre`, as they were.
    inputs: tensors, which may be dual, and anything else. Other tensors that it uses, such as parameters, are not dual.
    enabled: False calls the function and does nothing else. buffers: tensors that it may write to, such as the
        statistics of a normalization, as only the first computation does in the end.
    """
    if not enabled:
        return function(*inputs)
    # A dual tensor lives no longer than its level: what is kept are its parts, and each computation joins them anew.
    parts = [_parted(value) for value in inputs]
    linear = any(tangent is not None for _, tangent in parts)
    context, done = copy_context(), False

    def compute(*kept: Any) -> Any:
        nonlocal done
        with ExitStack() as stack:
            if done:
                stack.enter_context(restoring(buffers))
            if done and linear:
                stack.enter_context(forward_ad.dual_level())
            done = True
            outputs = context.copy().run(function, *map(_joined, kept[::2], kept[1::2]))
            return [*map(_parted, outputs)] if isinstance(outputs, tuple) else _parted(outputs)

    kept = [value for pair in parts for value in pair]
    outputs = checkpoint(compute, *kept, use_reentrant=False, preserve_rng_state=False)
    return tuple(_joined(*pair) for pair in outputs) if isinstance(outputs, list) else _joined(*outputs)


@contextmanager
def restoring(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Give the tensors the values back that they have now."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def _parted(value: Any) -> tuple[Any, Tensor | None]:
    """The primal and the tangent, None where there is none."""
    return tuple(forward_ad.unpack_dual(value)) if isinstance(value, Tensor) else (value, None)


def _joined(primal: Any, tangent: Tensor | None) -> Any:
    return primal if tangent is None else forward_ad.make_dual(primal, tangent)
