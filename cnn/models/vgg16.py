"""VGG-16."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cnn.models.convnet import ConvNet


class VGG16(ConvNet):
    """Configuration D of Simonyan & Zisserman 2015 for 32 x 32 images, as Bae & Grosse 2020 trained it.

    Weights of convolutions and of their response start from N(0, 2/(9·out)), elementary biases at 0, the response's at
    0.001; fully connected layers as in every network here.

    batch_norm: normalize what each convolution gives. These layers do not respond to hyperparameters. Their running
    statistics count each forward pass in training, but of the Δ-STN's two only that at the current hyperparameters.
    """

    CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6)
    STRIDES = (1,) * 13
    POOLED = tuple(layer in (1, 3, 6, 9, 12) for layer in range(13))
    FULLY_CONNECTED = (512, 512, 512)

    def __init__(self, num_hyper: int, dtype: torch.dtype | None = None, *, batch_norm: bool = False, **arguments: Any):
        super().__init__(num_hyper, dtype, **arguments)
        self.arguments["batch_norm"] = batch_norm
        sizes = [convolution.out_channels for convolution in self.convolutions]
        self.normalizations = nn.ModuleList(map(nn.BatchNorm2d, sizes) if batch_norm else ())
        for convolution in self.convolutions:
            deviation = math.sqrt(2 / (self.KERNEL**2 * convolution.out_channels))
            nn.init.normal_(convolution.weight, std=deviation)
            nn.init.zeros_(convolution.bias)
            if num_hyper:
                nn.init.normal_(convolution.response_weight, std=deviation)
                nn.init.constant_(convolution.response_bias, 0.001)

    def convolved(self, layer: int, x: Tensor, h: Tensor | None) -> Tensor:
        y = super().convolved(layer, x, h)
        return self.normalizations[layer](y) if self.normalizations else y
