"""VGG-11 with batch normalization."""

from torch import nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape, activation, convolution


class VGG(PlainClassifier):
    """Configuration A of Simonyan & Zisserman 2015 with batch normalization and one fully connected layer.

    width: channels of the first convolution.
    """

    BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # channels in units of the width; a block ends in pooling

    def __init__(self, classes: int = 10, shape: Shape = COLOUR, width: int = 64):
        super().__init__(classes, shape, width=width)
        layers, channels = [], self.shape[0]
        for block in self.BLOCKS:
            for factor in block:
                layers += [convolution(channels, factor * width), activation(factor * width)]
                channels = factor * width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # a single pixel is left of 28 x 28, too
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))
