"""FashionMNIST (Xiao et al. 2017): articles of clothing, in files like MNIST's."""

from pathlib import Path

from stn.datasets.idx import load_idx
from stn.datasets.images import Images, Normalization

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
FASHION_MNIST_NORMALIZATION = Normalization((0.2860,), (0.3530,))
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load_fashion_mnist(folder: Path) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images of FashionMNIST, (N, 1, 28, 28), light on black, from its files.

    Raises UserError where the folder or a file is missing, unreadable, truncated or not the published one.
    """
    return load_idx(folder, "fashion_mnist", FASHION_MNIST_SHA256)
