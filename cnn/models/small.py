"""A small convolutional network."""

import torch
from torch import Tensor

from cnn.models.convnet import CLASSES, ConvNet
from stn.hyperparameters import Draw
from stn.layers import HyperLinear


class SmallCNN(ConvNet):
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
