"""Image classification as tasks for the training loop: shuffled mini-batches, augmented where they train."""

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn.augmentation import affine, cropped, cutout, flipped, input_scaling, jitter
from cnn.hyperparameters import AFFINE, AUGMENTATION, DECAY
from cnn.models import PLAIN
from cnn.models.plain import PlainClassifier
from stn.bilevel import Loss, Score, StreamTask
from stn.datasets.images import CIFAR10_NORMALIZATION, ImageSets, Normalization
from stn.dropout import dropout
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.streams import Shuffled
from stn.weight_decay import WeightDecay

EVALUATION_BATCH = 1000
TUNED_HOLES = 4  # the most that a tuned number is rounded down to; a fixed one may be larger


class Batch(NamedTuple):
    """pixels (B, C, H, W) uint8, labels (B,). part: of the whole mini-batch, where ranks have shared it."""

    pixels: Tensor
    labels: Tensor
    part: float = 1.0


class ImageClassification(StreamTask):
    """Train and validate a network on image sets; validation and test images are never augmented.

    In training the weights are penalized where the draw has a weight decay. flip: turn training images from left to
    right with probability one half, alike in every pass on a mini-batch. seed: of the images' order, which is drawn
    apart then.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: ImageSets,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        flip: bool = False,
        seed: int | None = None,
    ):
        self.model, self.batch_size, self.normalization = model, batch_size, sets.normalization
        self.flip = flip
        pairs = {
            split: (images.pixels, images.labels) for split, images in (("train", sets.train), ("valid", sets.valid))
        }
        self.streams = {split: Shuffled(pair, batch_size, device, seed) for split, pair in pairs.items()}
        self.evaluation = {"valid": sets.valid.to(device), "test": sets.test.to(device)}

    def batch(self, split: str) -> Batch:
        whole = super().batch(split)
        batch = Batch(*map(self.ranks.share, whole), part=self.ranks.own(len(whole[0])) / len(whole[0]))
        return batch._replace(pixels=flipped(batch.pixels)) if self.flip and split == "train" else batch

    def predict(self, batch: Batch, draw: Draw) -> Tensor:
        """Logits (B, classes)."""
        draw = draw.first(len(batch.labels))
        return self.logits(self.prepared(batch.pixels, draw), draw)

    def logits(self, images: Tensor, draw: Draw) -> Tensor:
        """The network's, of its input (B, C, H, W)."""
        return self.model(images, draw)

    def prepared(self, pixels: Tensor, draw: Draw) -> Tensor:
        """The network's input, augmented in training if the draw has hyperparameters of that."""
        if self.model.training and any(name in draw for name in AUGMENTATION):
            return augmented(pixels, draw, self.normalization)
        return normalized(scaled(pixels), self.normalization)

    def loss(self, prediction: Tensor, batch: Batch, draw: Draw) -> Loss:
        loss = F.cross_entropy(prediction, batch.labels)
        accuracy = (prediction.argmax(1) == batch.labels).float().mean()
        penalized = self.model.training and DECAY in draw
        objective = loss + self.decay(draw.first(len(batch.labels))) if penalized else loss
        targets = len(batch.labels) if batch.part else 0
        return Loss(objective, loss.detach(), targets, accuracy, batch.part)

    @cached_property
    def decay(self) -> WeightDecay:
        return WeightDecay(self.model, DECAY)

    def evaluate(self, split: str, draw: Draw) -> Score:
        images = self.evaluation[split]
        loss = right = torch.zeros((), dtype=torch.float64, device=images.labels.device)
        own = (self.ranks.part(whole).split(EVALUATION_BATCH) for whole in (images.pixels, images.labels))
        for pixels, labels in zip(*own, strict=True):
            logits = self.logits(normalized(scaled(pixels), self.normalization), draw)
            loss = loss + F.cross_entropy(logits, labels, reduction="sum")
            right = right + (logits.argmax(1) == labels).sum()
        count = self.ranks.own(len(images))
        return Score(loss.item() / max(count, 1), right.item() / max(count, 1), count)


class PlainClassification(ImageClassification):
    """The same with a network that responds to no hyperparameters, as in the experiments of Donini et al. 2020.

    In training, images in colour are cropped at random from a black margin of 4 pixels and flipped with probability one
    half. A network with batch normalization counts each forward pass in training into its running statistics.

    dtype: of the network's products: that of its weights, or bfloat16 by autocast, with weights and logits in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: ImageSets,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(model, sets, batch_size, device)
        self.dtype = dtype

    def logits(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002
        dtype = of_products(self.dtype)
        if dtype != torch.bfloat16:
            return self.model(images.to(dtype))
        with torch.autocast(images.device.type, dtype):
            return self.model(images).float()

    def prepared(self, pixels: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002
        """The network's input, augmented in training if the images are in colour."""
        in_colour = pixels.shape[1] == 3
        if self.model.training and in_colour:
            pixels = flipped(cropped(pixels))
        return normalized(scaled(pixels), self.normalization)


def plain_network(name: str, sets: ImageSets, **architecture: Any) -> PlainClassifier:
    """The network of this name in `cnn.models.PLAIN`, for the classes and the shape of these images.

    architecture: its further arguments, such as `width`.
    """
    return PLAIN[name](len(sets.classes), tuple(sets.train.pixels.shape[1:]), **architecture)


def augmented(pixels: Tensor, draw: Draw, by: Normalization = CIFAR10_NORMALIZATION) -> Tensor:
    """pixels (B, C, H, W) uint8 -> the network's input, each example augmented by its own values, what is missing off.

    Jitter is for images in colour.
    """

    def value(name: str) -> float | Tensor:
        return draw[name] if name in draw else 0.0  # noqa: SIM401, as a draw is no dict

    images = affine(scaled(pixels), *map(value, AFFINE))
    images = normalized(jitter(images, *map(value, ("bright", "contrast", "sat", "hue"))), by)
    holes = whole(value("cutholes"))
    most = TUNED_HOLES if isinstance(holes, Tensor) else max(TUNED_HOLES, int(holes))
    images = cutout(images, holes, whole(value("cutlength")), most)
    return input_scaling(dropout(images, value("indropout")), value("inscale"))


def whole(value: float | Tensor) -> float | Tensor:
    """Rounded down: a schedule that is replayed holds the unrounded value."""
    return value.floor() if isinstance(value, Tensor) else float(math.floor(value))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 -> float in [0, 1]."""
    return pixels.float() / 255


def normalized(images: Tensor, by: Normalization = CIFAR10_NORMALIZATION) -> Tensor:
    """Images in [0, 1] (B, C, H, W) -> of mean about 0 and deviation about 1."""
    mean, deviation = _channels(images, by)
    return (images - mean) / deviation


def unnormalized(images: Tensor, by: Normalization = CIFAR10_NORMALIZATION) -> Tensor:
    """The inverse of `normalized`."""
    mean, deviation = _channels(images, by)
    return images * deviation + mean


def _channels(images: Tensor, by: Normalization) -> tuple[Tensor, ...]:
    """The channels' means and deviations, each (C, 1, 1)."""
    return tuple(images.new_tensor(channels)[:, None, None] / by.white for channels in (by.mean, by.deviation))
