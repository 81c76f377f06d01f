"""Wide residual networks."""

from torch import Tensor, nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape, activation, convolution, head


class Block(nn.Module):
    """Two 3 x 3 convolutions, each activated before, beside a shortcut.

    x (B, before, H, W) -> (B, after, H / stride, W / stride). A shortcut that changes the shape starts from
    the activated input, as published.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.activation = activation(before)
        self.residual = nn.Sequential(
            convolution(before, after, 3, stride), activation(after), convolution(after, after)
        )
        self.projection = None if before == after and stride == 1 else convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        return self.residual(active) + (x if self.projection is None else self.projection(active))


class WideResNet(PlainClassifier):
    """WRN-depth-width (Zagoruyko & Komodakis 2016), without dropout.

    depth: 6 n + 4 for n blocks in each of three stages. width: the factor of the stages' 16, 32 and 64 channels.

    Raises ValueError for another depth.
    """

    STRIDES = (1, 2, 2)  # of each stage's first block

    def __init__(self, classes: int = 10, shape: Shape = COLOUR, depth: int = 28, width: int = 10):
        super().__init__(classes, shape, depth=depth, width=width)
        blocks_of_a_stage, rest = divmod(depth - 4, 6)
        if rest or blocks_of_a_stage < 1:
            raise ValueError(f"WideResNet takes a depth of 6 n + 4, such as 28: found {depth}")
        blocks, channels = [], 16
        for stage, stride in enumerate(self.STRIDES):
            after = 16 * width * 2**stage
            blocks += [Block(channels, after, stride), *(Block(after, after, 1) for _ in range(1, blocks_of_a_stage))]
            channels = after
        stem = convolution(self.shape[0], 16)
        self.layers = nn.Sequential(stem, *blocks, activation(channels), head(channels, classes))
