"""Densely connected networks."""

import torch
from torch import Tensor, nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape, activation, convolution, head


class DenseLayer(nn.Module):
    """A bottleneck of 1 x 1 and a 3 x 3 convolution: x (B, before, H, W) -> x and `growth` new channels."""

    def __init__(self, before: int, growth: int):
        super().__init__()
        bottleneck = 4 * growth
        self.new = nn.Sequential(
            *(activation(before), convolution(before, bottleneck, 1)),
            *(activation(bottleneck), convolution(bottleneck, growth)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.new(x)), 1)


class DenseNet(PlainClassifier):
    """DenseNet-BC (Huang et al. 2017), without dropout.

    depth: 6 n + 4 for n layers, of two convolutions each, in each of three blocks. growth: channels that a layer adds.
    compression: the fraction of the channels that are left after each of the first two blocks.

    Raises ValueError for another depth.
    """

    def __init__(
        self,
        classes: int = 10,
        shape: Shape = COLOUR,
        depth: int = 100,
        growth: int = 12,
        compression: float = 0.5,
    ):
        super().__init__(classes, shape, depth=depth, growth=growth, compression=compression)
        layers_of_a_block, rest = divmod(depth - 4, 6)
        if rest or layers_of_a_block < 1:
            raise ValueError(f"DenseNet takes a depth of 6 n + 4, such as 100: found {depth}")
        channels = 2 * growth
        layers: list[nn.Module] = [convolution(self.shape[0], channels)]
        for block in range(3):
            if block > 0:
                kept = int(compression * channels)
                layers += [activation(channels), convolution(channels, kept, 1), nn.AvgPool2d(2)]
                channels = kept
            for _ in range(layers_of_a_block):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.layers = nn.Sequential(*layers, activation(channels), head(channels, classes))
