"""LeNet-5."""

from torch import nn

from cnn.models.plain import COLOUR, PlainClassifier, Shape


class LeNet(PlainClassifier):
    """LeNet-5 (LeCun et al. 1998) with rectifiers and max pooling; images of 28 x 28 pixels are padded to 32 x 32."""

    def __init__(self, classes: int = 10, shape: Shape = COLOUR):
        super().__init__(classes, shape)
        channels, height, _ = self.shape
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 6, 5, padding=(32 - height) // 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, classes),
        )
