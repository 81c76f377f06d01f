"""AlexNet."""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn.models.convnet import CLASSES, ConvNet
from stn.dropout import dropout
from stn.hyperparameters import Draw
from stn.layers import HyperLinear


class AlexNet(ConvNet):
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
