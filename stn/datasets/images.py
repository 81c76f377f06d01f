"""Image sets in memory, split into train, valid and test; CIFAR-10 from its files.

A file of the CIFAR-10 binary layout is a sequence of rows, each of 3073 bytes: the label, then the red, the
green and the blue plane, 32 x 32 bytes each, row by row.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from stn.errors import UserError
from stn.files import read, write_atomically

SHAPE = (3, 32, 32)
ROW_BYTES = 1 + math.prod(SHAPE)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_ROWS = 10_000  # in each of the files
CIFAR10_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_REMEDY = "run ./getdata.sh cifar10, which fills data/cifar10, the default --data"


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of each channel of a data set's training images, on a scale on which white is `white`."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    white: float = 1.0


CIFAR10_NORMALIZATION = Normalization((125.3, 123.0, 113.9), (63.0, 62.1, 66.7), white=255.0)  # as published


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, of C channels (RGB planes, or one of grey), H x W pixels each."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageSets:
    """Three splits; label i is `classes[i]`; `normalization` is the data set's.

    `checksum` is the SHA-256 over the rows of train, valid and test in that order, each the label and the pixels: it
    does not depend on where train ends and valid begins.
    """

    train: Images
    valid: Images
    test: Images
    classes: tuple[str, ...]
    checksum: str
    normalization: Normalization = CIFAR10_NORMALIZATION

    @property
    def description(self) -> str:
        """A line on the numbers of images."""
        train, valid, test = (f"{len(split):,}" for split in (self.train, self.valid, self.test))
        return f"{train} / {valid} / {test} images to train, validate and test, {len(self.classes)} classes"


def load_cifar10(folder: Path) -> tuple[Images, Images]:
    """The 50,000 training and the 10,000 test images of CIFAR-10, from the six files of the binary layout.

    Raises UserError where the folder or a file is missing, unreadable, truncated or not the published one.
    """
    files = {name: (CIFAR10_ROWS * ROW_BYTES, digest) for name, digest in CIFAR10_SHA256.items()}
    *train, test = read_published(folder, files, _REMEDY)
    return parse_binary(b"".join(train)), parse_binary(test)


def read_published(folder: Path, files: Mapping[str, tuple[int, str]], remedy: str) -> Iterator[bytes]:
    """The files of a data set, one after another; `files`: by name, the bytes and the SHA-256 that each has to have.

    Raises UserError, which ends in the remedy, where the folder or a file is not there or not the published one.
    """
    sizes = {name: size for name, (size, _) in files.items()}
    for path, content in read_sized(folder, sizes, remedy):
        _, digest = files[path.name]
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{path} is not the published file (its SHA-256 differs): {remedy}")
        yield content


def read_sized(folder: Path, sizes: Mapping[str, int], remedy: str) -> Iterator[tuple[Path, bytes]]:
    """The files of a data set, one after another; `sizes`: by name, the bytes that each has to have.

    Raises UserError, which ends in the remedy, where the folder or a file is not there or of another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: {remedy}")
    for name, size in sizes.items():
        content = read(path := folder / name, "a file of images", remedy)
        if len(content) != size:
            raise UserError(f"{path} has {len(content)} bytes instead of {size}: {remedy}")
        yield path, content


def load_image_sets(
    train: Images,
    test: Images,
    percent_valid: float,
    classes: tuple[str, ...],
    normalization: Normalization = CIFAR10_NORMALIZATION,
) -> ImageSets:
    """Holds out the last images of `train` for validation: ⌊(1 − percent_valid) N⌋ of its N stay to train on.

    `percent_valid` is a fraction, in (0, 1). Raises UserError where it is not, or where it leaves a split empty.
    """
    if not 0 < percent_valid < 1:
        raise UserError(f"--percent_valid {percent_valid} is not between 0 and 1: 0.2, say, validates on a fifth")
    num_train = math.floor((1 - percent_valid) * len(train))
    empty = "training" if num_train == 0 else "validation" if num_train == len(train) else None
    if empty:
        cause = f"--percent_valid {percent_valid} of {len(train)} images leaves none for {empty}"
        raise UserError(f"{cause}: choose a value nearer to 0.5, or use more images")
    kept = Images(train.pixels[:num_train], train.labels[:num_train])
    valid = Images(train.pixels[num_train:], train.labels[num_train:])
    digest = hashlib.sha256()
    for images in (kept, valid, test):
        digest.update(_rows(images))
    return ImageSets(kept, valid, test, classes, digest.hexdigest(), normalization)


# ---- the binary layout


def write_binary(images: Images, path: Path) -> None:
    """Writes images (N, 3, 32, 32) as a file of the binary layout, whole or not at all.

    Raises UserError where it cannot be written.
    """
    write_atomically(path, lambda file: file.write(_rows(images)))


def _rows(images: Images) -> numpy.ndarray:
    """(N, 1 + C H W) uint8: labels and pixels."""
    labels = images.labels.to(torch.uint8)[:, None]
    return torch.cat((labels, images.pixels.flatten(1)), dim=1).numpy()


def parse_binary(content: bytes, label_bytes: int = 1) -> Images:
    """The images of a file. label_bytes: of each row, the labels before the pixels, of which the last counts."""
    rows = numpy.frombuffer(content, dtype=numpy.uint8).reshape(-1, label_bytes + math.prod(SHAPE))
    pixels, labels = rows[:, label_bytes:].reshape(-1, *SHAPE).copy(), rows[:, label_bytes - 1].astype(numpy.int64)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))
