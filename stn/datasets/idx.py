"""Image sets in four files of the idx layout, as MNIST's: images and labels, to train on and to test on.

Such a file is a header and then unsigned bytes, row by row. The header is two zeros, 8 for the type, the number of
dimensions, and each dimension as a big-endian integer of four bytes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy
import torch

from stn.datasets.images import Images, read_published

BYTES = {  # of 60,000 and 10,000 images of 28 x 28 pixels
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def load_idx(folder: Path, name: str, digests: Mapping[str, str]) -> tuple[Images, Images]:
    """The training and the test images, (N, 1, 28, 28), of the data set that getdata.sh calls by this name.

    digests: the SHA-256 of each of the files in `BYTES`.

    Raises UserError where the folder or a file is missing, unreadable, truncated or not the published one.
    """
    remedy = f"run ./getdata.sh {name}, which fills data/{name}, the default --data of --dataset {name}"
    files = {file: (size, digests[file]) for file, size in BYTES.items()}
    train_pixels, train_labels, test_pixels, test_labels = map(_parse, read_published(folder, files, remedy))
    return _images(train_pixels, train_labels), _images(test_pixels, test_labels)


def _parse(content: bytes) -> numpy.ndarray:
    """uint8, of the shape that the header says."""
    dimensions = content[3]
    shape = numpy.frombuffer(content, ">i4", dimensions, offset=4)
    return numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _images(pixels: numpy.ndarray, labels: numpy.ndarray) -> Images:
    return Images(torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(labels.astype(numpy.int64)))
