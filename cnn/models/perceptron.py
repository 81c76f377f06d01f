"""The multilayer perceptron of MARTHE's experiments."""

import math
from itertools import pairwise

from torch import nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape


class Perceptron(PlainClassifier):
    """The multilayer perceptron of Donini et al. 2020: hidden layers of 512 and 256 rectifiers.

    hidden: their sizes, first to last.
    """

    def __init__(self, classes: int = 10, shape: Shape = COLOUR, hidden: tuple[int, ...] = (512, 256)):
        super().__init__(classes, shape, hidden=hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise((math.prod(self.shape), *hidden)):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], classes))
