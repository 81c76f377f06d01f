"""The networks: one definition each, plain or self-tuning by the number of tuned hyperparameters."""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.dropout import channel_dropout, dropout
from stn.hyperparameters import Draw
from stn.layers import HyperConv2d, HyperLinear, check_tensor

CLASSES = 10


class _ConvNet(nn.Module):
    """Base class: 3 x 3 convolutions, each followed by pooling (some), a rectifier and dropout of whole channels.

    In training the draw holds the dropout rates: `dropout<layer>` for each convolution, or one `dropout` for all.

    dtype: of activations and products (default: the weights' dtype, which logits always have).
    elementary_scale: as in stn/layers.py, of every layer that responds to hyperparameters when some are tuned.

    arguments: what it was made with, from which `stn.load_model` makes it again.
    """

    CHANNELS: tuple[int, ...]
    STRIDES: tuple[int, ...]
    POOLED: tuple[bool, ...]
    MEMORY_FORMAT = torch.contiguous_format

    def __init__(self, num_hyper: int, dtype: torch.dtype | None = None, *, elementary_scale: bool = False):
        super().__init__()
        self.arguments = {"num_hyper": num_hyper, "dtype": dtype, "elementary_scale": elementary_scale}
        self.dtype = dtype or torch.get_default_dtype()
        self.convolutions = nn.ModuleList(
            HyperConv2d(fan_in, fan_out, 3, num_hyper, stride, padding=1, elementary_scale=elementary_scale)
            for (fan_in, fan_out), stride in zip(pairwise(self.CHANNELS), self.STRIDES, strict=True)
        )

    def features(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, 3, 32, 32) -> the last convolution's activations, flat for each example.

        Raises TypeError or ValueError for other images.
        """
        check_tensor(type(self).__name__, "images", images, "B", 3, 32, 32)
        x = images.to(self.dtype, memory_format=self.MEMORY_FORMAT)
        for layer, (convolution, pooled) in enumerate(zip(self.convolutions, self.POOLED, strict=True)):
            x = convolution(x, draw.h)
            if pooled:
                x = F.max_pool2d(x, 2)
            x = F.relu(x)  # the same as before pooling, on a quarter of the entries
            if self.training:
                x = channel_dropout(x, draw["dropout" if "dropout" in draw else f"dropout{layer}"])
        return x.flatten(1)


class AlexNet(_ConvNet):
    """AlexNet for 32 x 32 images, as MacKay et al. 2019 trained it: five convolutions, three fully connected layers.

    In training it reads `fcdropout0` and `fcdropout1` too, the dropout rates of the hidden layers' inputs.
    """

    CHANNELS = (3, 64, 192, 384, 256, 256)
    STRIDES = (2, 1, 1, 1, 1)
    POOLED = (True, True, False, False, True)
    FULLY_CONNECTED = (256 * 2 * 2, 4096, 4096)

    def __init__(self, num_hyper: int, dtype: torch.dtype | None = None, *, elementary_scale: bool = False):
        super().__init__(num_hyper, dtype, elementary_scale=elementary_scale)
        linear = partial(HyperLinear, num_hyper=num_hyper, elementary_scale=elementary_scale)
        self.hidden = nn.ModuleList(linear(*sizes) for sizes in pairwise(self.FULLY_CONNECTED))
        self.classifier = linear(self.FULLY_CONNECTED[-1], CLASSES)

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, 3, 32, 32), normalized -> logits (B, 10)."""
        x = self.features(images, draw)
        for layer, linear in enumerate(self.hidden):
            if self.training:
                x = dropout(x, draw[f"fcdropout{layer}"])
            x = F.relu(linear(x, draw.h))
        return self.classifier(x, draw.h).to(self.classifier.weight.dtype)


class SmallCNN(_ConvNet):
    """Three convolutions, each pooled, and one fully connected layer, which as published has no response."""

    CHANNELS = (3, 10, 20, 40)
    STRIDES = (1, 1, 1)
    POOLED = (True, True, True)
    MEMORY_FORMAT = torch.channels_last  # a fifth faster with so few channels; no faster for AlexNet in float32

    def __init__(self, num_hyper: int, dtype: torch.dtype | None = None, *, elementary_scale: bool = False):
        super().__init__(num_hyper, dtype, elementary_scale=elementary_scale)
        self.classifier = HyperLinear(40 * 4 * 4, CLASSES, 0)

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, 3, 32, 32), normalized -> logits (B, 10)."""
        return self.classifier(self.features(images, draw)).to(self.classifier.weight.dtype)


class MLP(nn.Module):
    """The multilayer perceptron for MNIST of Bae & Grosse 2020: two hidden layers of 1200 rectifiers.

    In training it reads `fcdropout0`, `fcdropout1` and `fcdropout2`, the dropout rates of the layers' inputs. Its
    arguments, and `arguments`, are as of the convolutional networks.
    """

    SIZES = (28 * 28, 1200, 1200)

    def __init__(self, num_hyper: int, dtype: torch.dtype | None = None, *, elementary_scale: bool = False):
        super().__init__()
        self.arguments = {"num_hyper": num_hyper, "dtype": dtype, "elementary_scale": elementary_scale}
        self.dtype = dtype or torch.get_default_dtype()
        linear = partial(HyperLinear, num_hyper=num_hyper, elementary_scale=elementary_scale)
        self.hidden = nn.ModuleList(linear(*sizes) for sizes in pairwise(self.SIZES))
        self.classifier = linear(self.SIZES[-1], CLASSES)

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, 1, 28, 28), normalized -> logits (B, 10). Raises TypeError or ValueError for other images."""
        check_tensor(type(self).__name__, "images", images, "B", 1, 28, 28)
        x = images.to(self.dtype).flatten(1)
        for layer, linear in enumerate(self.hidden):
            x = F.relu(linear(self.dropped(x, draw, layer), draw.h))
        return self.classifier(self.dropped(x, draw, len(self.hidden)), draw.h).to(self.classifier.weight.dtype)

    def dropped(self, x: Tensor, draw: Draw, layer: int) -> Tensor:
        """The input (B, F) of a layer, with dropout in training."""
        return dropout(x, draw[f"fcdropout{layer}"]) if self.training else x


MODELS = {"alexnet": AlexNet, "small": SmallCNN, "mlp": MLP}
