"""MNIST (LeCun et al. 1998): handwritten digits."""

from pathlib import Path

from stn.datasets.idx import load_idx
from stn.datasets.images import Images, Normalization

MNIST_CLASSES = tuple("0123456789")
MNIST_NORMALIZATION = Normalization((0.1307,), (0.3081,))
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_mnist(folder: Path) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images of MNIST, (N, 1, 28, 28), white on black, from the four files.

    Raises UserError where the folder or a file is missing, unreadable, truncated or not the published one.
    """
    return load_idx(folder, "mnist", MNIST_SHA256)
