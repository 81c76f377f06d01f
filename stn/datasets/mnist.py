"""MNIST from its four files of the idx layout.

Such a file is a header and then unsigned bytes, row by row. The header is two zeros, 8 for the type, the number of
dimensions, and each dimension as a big-endian integer of four bytes.
"""

from pathlib import Path

import numpy
import torch

from stn.datasets.images import Images, Normalization, read_published

MNIST_CLASSES = tuple("0123456789")
MNIST_NORMALIZATION = Normalization((0.1307,), (0.3081,))
MNIST_FILES = {  # bytes and SHA-256
    "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
_REMEDY = "run ./getdata.sh mnist, which fills data/mnist, the default --data of --dataset mnist"


def load_mnist(folder: Path) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images of MNIST, (N, 1, 28, 28), white on black, from the four files.

    Raises UserError where the folder or a file is missing, unreadable, truncated or not the published one.
    """
    train_pixels, train_labels, test_pixels, test_labels = map(_parse, read_published(folder, MNIST_FILES, _REMEDY))
    return _images(train_pixels, train_labels), _images(test_pixels, test_labels)


def _parse(content: bytes) -> numpy.ndarray:
    """uint8, of the shape that the header says."""
    dimensions = content[3]
    shape = numpy.frombuffer(content, ">i4", dimensions, offset=4)
    return numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _images(pixels: numpy.ndarray, labels: numpy.ndarray) -> Images:
    return Images(torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(labels.astype(numpy.int64)))
