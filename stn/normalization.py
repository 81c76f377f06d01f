"""Batch normalization where a mini-batch is gone through more than once a step."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


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
