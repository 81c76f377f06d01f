"""What the plain image classifiers share."""

from typing import Any

from torch import Tensor, nn

from stn.layers import check_tensor

Shape = tuple[int, int, int]
COLOUR: Shape = (3, 32, 32)
SIZES = (28, 32)


class PlainClassifier(nn.Module):
    """Base class: `layers`, of torch's own modules, from images to logits; it responds to no hyperparameters.

    classes: how many it tells apart. shape: (channels, height, width) of its images, of 28 x 28 or 32 x 32 pixels.
    Weights start as torch's own layers do. Nothing is computed in place, so that gradients can be differentiated.

    arguments: what it was made with, from which `stn.load_model` makes it again.

    Raises ValueError for images of another size.
    """

    layers: nn.Module

    def __init__(self, classes: int, shape: Shape, **architecture: Any):
        super().__init__()
        self.shape = tuple(shape)
        if len(self.shape) != 3 or self.shape[1] != self.shape[2] or self.shape[2] not in SIZES:
            wanted = " or ".join(f"(channels, {size}, {size})" for size in SIZES)
            raise ValueError(f"{type(self).__name__} takes a shape {wanted}: found {self.shape}")
        self.arguments = {"classes": classes, "shape": self.shape, **architecture}

    def forward(self, images: Tensor) -> Tensor:
        """images (B, *shape), normalized -> logits (B, classes). Raises TypeError or ValueError for other images."""
        check_tensor(type(self).__name__, "images", images, "B", *self.shape)
        return self.layers(images)


def convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Keeps height and width, but for the stride; without a bias, which batch normalization would take away again."""
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


def activation(channels: int) -> nn.Sequential:
    """Batch normalization and rectifiers."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def head(channels: int, classes: int) -> nn.Sequential:
    """Each channel's mean (B, C, H, W) -> logits (B, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
