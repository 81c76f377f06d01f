"""ResNet-18."""

from torch import Tensor, nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape, activation, convolution, head


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: x (B, before, H, W) -> (B, after, H / stride, W / stride)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *(convolution(before, after, 3, stride), activation(after)),
            *(convolution(after, after), nn.BatchNorm2d(after)),
        )
        projection = nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if before == after and stride == 1 else projection

    def forward(self, x: Tensor) -> Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


class ResNet(PlainClassifier):
    """ResNet-18 (He et al. 2016) for small images: the first convolution is 3 x 3 of stride 1, without pooling.

    width: channels of the first stage; they double from stage to stage.
    """

    STRIDES = (1, 2, 2, 2)  # of each stage's first block

    def __init__(self, classes: int = 10, shape: Shape = COLOUR, width: int = 64):
        super().__init__(classes, shape, width=width)
        blocks, channels = [], width
        for stage, stride in enumerate(self.STRIDES):
            after = width * 2**stage
            blocks += [Block(channels, after, stride), Block(after, after, 1)]
            channels = after
        stem = convolution(self.shape[0], width), activation(width)
        self.layers = nn.Sequential(*stem, *blocks, head(channels, classes))
