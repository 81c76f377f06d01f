"""What the self-tuning convolutional networks share."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.dropout import channel_dropout
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.layers import HyperConv2d, check_tensor

CLASSES = 10  # of every self-tuning network


class ConvNet(nn.Module):
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
        x = images.to(of_products(self.dtype), memory_format=self.MEMORY_FORMAT)
        for layer, (convolution, pooled) in enumerate(zip(self.convolutions, self.POOLED, strict=True)):
            x = convolution(x, draw.h)
            if pooled:
                x = F.max_pool2d(x, 2)
            x = F.relu(x)  # the same as before pooling, on a quarter of the entries
            if self.training:
                x = channel_dropout(x, draw["dropout" if "dropout" in draw else f"dropout{layer}"])
        return x.flatten(1)
