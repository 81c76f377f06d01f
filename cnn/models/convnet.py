"""What the self-tuning convolutional networks share."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.dropout import channel_dropout, dropout
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.kernels.recompute import recomputed
from stn.layers import HyperConv2d, HyperLinear, check_tensor

CLASSES = 10  # of every self-tuning network


def scaled(sizes: tuple[int, ...], width: float) -> tuple[int, ...]:
    """The sizes of layers, each times the width and rounded, at least 1."""
    return tuple(max(1, round(width * size)) for size in sizes)


class ConvNet(nn.Module):
    """Base class: convolutions, some of them pooled, and fully connected layers, all but the last with rectifiers.

    In training a network drops what the draw has a rate for: `indropout2d`, whole channels of the input;
    `dropout<layer>`, those that a convolution gives, pooled, or one `dropout` for all; `fcdropout<layer>`, single
    inputs of a fully connected layer, the classifier's too.

    dtype: of activations and products (default: the weights' dtype, which logits always have).
    elementary_scale: as in stn/layers.py, of every layer that responds to hyperparameters when some are tuned.
    width: a factor of every layer's channels.
    checkpoint_activations: of a convolution, and what follows up to the rectifiers, keep the input alone for the
        backward pass, which computes the rest again.

    arguments: what it was made with, from which `stn.load_model` makes it again.
    """

    SHAPE: tuple[int, int, int] = (3, 32, 32)
    CHANNELS: tuple[int, ...]  # the input's first
    STRIDES: tuple[int, ...]
    POOLED: tuple[bool, ...]
    FULLY_CONNECTED: tuple[int, ...]  # inputs of the fully connected layers
    KERNEL = 3
    LAST_RESPONDS = True
    MEMORY_FORMAT = torch.contiguous_format

    def __init__(
        self,
        num_hyper: int,
        dtype: torch.dtype | None = None,
        *,
        elementary_scale: bool = False,
        width: float = 1.0,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        self.arguments = {"num_hyper": num_hyper, "dtype": dtype, "elementary_scale": elementary_scale, "width": width}
        self.arguments["checkpoint_activations"] = self.checkpoint_activations = checkpoint_activations
        self.dtype = dtype or torch.get_default_dtype()
        images, *channels = self.CHANNELS
        channels = images, *scaled(tuple(channels), width)
        pixels = self.FULLY_CONNECTED[0] // self.CHANNELS[-1]  # of each channel that is left
        flat = channels[-1] * pixels, *scaled(self.FULLY_CONNECTED[1:], width)
        made = {"num_hyper": num_hyper, "elementary_scale": elementary_scale}
        convolution = partial(HyperConv2d, kernel_size=self.KERNEL, padding=self.KERNEL // 2, **made)
        self.convolutions = nn.ModuleList(
            convolution(*sizes, stride=stride) for sizes, stride in zip(pairwise(channels), self.STRIDES, strict=True)
        )
        self.hidden = nn.ModuleList(HyperLinear(*sizes, **made) for sizes in pairwise(flat))
        self.classifier = HyperLinear(flat[-1], CLASSES, **(made if self.LAST_RESPONDS else {"num_hyper": 0}))

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, *SHAPE) -> logits (B, 10). Raises TypeError or ValueError for other images."""
        check_tensor(type(self).__name__, "images", images, "B", *self.SHAPE)
        x = images.to(of_products(self.dtype), memory_format=self.MEMORY_FORMAT)
        x = self.dropped(x, draw, "indropout2d", channel_dropout)
        options = {"enabled": self.checkpoint_activations, "buffers": [*self.buffers()]}
        for layer in range(len(self.convolutions)):
            x = recomputed(partial(self.rectified, layer), x, draw.h, **options)
            x = self.dropped(x, draw, "dropout" if "dropout" in draw else f"dropout{layer}", channel_dropout)
        x = x.flatten(1)
        for layer, linear in enumerate(self.hidden):
            x = F.relu(linear(self.dropped(x, draw, f"fcdropout{layer}", dropout), draw.h))
        x = self.dropped(x, draw, f"fcdropout{len(self.hidden)}", dropout)
        return self.classifier(x, draw.h).to(self.classifier.weight.dtype)

    def rectified(self, layer: int, x: Tensor, h: Tensor | None) -> Tensor:
        """What a convolution makes of its input, pooled where it is to be, and rectified."""
        y = self.convolved(layer, x, h)
        if self.POOLED[layer]:
            y = F.max_pool2d(y, 2)
        return F.relu(y)  # the same as before pooling, on a quarter of the entries

    def convolved(self, layer: int, x: Tensor, h: Tensor | None) -> Tensor:
        """What a convolution makes of its input."""
        return self.convolutions[layer](x, h)

    def dropped(self, x: Tensor, draw: Draw, name: str, drop: Callable[[Tensor, Any], Tensor]) -> Tensor:
        """x, in training dropped at the rate of this name, if the draw has it."""
        return drop(x, draw[name]) if self.training and name in draw else x
