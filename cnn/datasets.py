"""The data sets that the scripts train on: where they lie, how they are read, and which networks are for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from stn.datasets import builtin_images, cifar100, fashion_mnist, images, mnist
from stn.datasets.images import Images, ImageSets, Normalization, load_image_sets
from stn.scripts.options import ROOT, find

BUILTIN = "builtin"
Pair = tuple[Images, Images]  # to train and to test on


@dataclass(frozen=True)
class Source:
    """title: what messages call it. load: its images, from the place that the settings name.

    plain_normalization: of the plain networks' experiments (Donini et al. 2020), where it is another.
    """

    title: str
    load: Callable[[str], Pair]
    classes: tuple[str, ...]
    normalization: Normalization
    plain_normalization: Normalization | None = None


@dataclass(frozen=True)
class DataSet:
    """models: the self-tuning networks for it, the default one first. percent_valid: as published.

    files: the data set itself; builtin: the images that stand in for it, of its channels and size.
    """

    models: tuple[str, ...]
    percent_valid: float
    files: Source
    builtin: Source


COLOURED = Source(
    "built-in images", lambda _: builtin_images.builtin_images(), builtin_images.CLASSES, images.CIFAR10_NORMALIZATION
)
GREY = Source(
    "built-in grey images",
    lambda _: builtin_images.builtin_grey_images(),
    builtin_images.CLASSES,
    builtin_images.GREY_NORMALIZATION,
)
DATA_SETS = {
    "cifar10": DataSet(
        models=("alexnet", "small", "vgg16"),
        percent_valid=0.2,
        files=Source(
            "CIFAR-10",
            lambda data: images.load_cifar10(find(data, "--data")),
            images.CIFAR10_CLASSES,
            images.CIFAR10_NORMALIZATION,
            Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ),
        builtin=COLOURED,
    ),
    "cifar100": DataSet(
        models=(),
        percent_valid=0.2,
        files=Source(
            "CIFAR-100",
            lambda data: cifar100.load_cifar100(find(data, "--data")),
            cifar100.CIFAR100_CLASSES,
            cifar100.CIFAR100_NORMALIZATION,
            Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ),
        builtin=replace(COLOURED, title="built-in images of 10 classes"),
    ),
    "mnist": DataSet(
        models=("mlp", "simple_cnn"),
        percent_valid=0.15,
        files=Source(
            "MNIST",
            lambda data: mnist.load_mnist(find(data, "--data")),
            mnist.MNIST_CLASSES,
            mnist.MNIST_NORMALIZATION,
        ),
        builtin=GREY,
    ),
    "fashion_mnist": DataSet(
        models=("simple_cnn", "mlp"),
        percent_valid=0.15,
        files=Source(
            "FashionMNIST",
            lambda data: fashion_mnist.load_fashion_mnist(find(data, "--data")),
            fashion_mnist.FASHION_MNIST_CLASSES,
            fashion_mnist.FASHION_MNIST_NORMALIZATION,
        ),
        builtin=GREY,
    ),
}


def datasets_of(model: str) -> list[str]:
    """The data sets that a self-tuning network is for, its own first: the one among whose networks it comes first."""
    names = [name for name, data_set in DATA_SETS.items() if model in data_set.models]
    return sorted(names, key=lambda name: DATA_SETS[name].models.index(model))


def locate(name: str, data: str | None) -> tuple[str, str]:
    """Where the data set lies that --data names, and what to call it."""
    own, default = DATA_SETS[name], ROOT / "data" / name
    if data is None and not default.exists():
        return BUILTIN, f"no data/{name} (./getdata.sh {name} fetches it): using the {own.builtin.title}"
    if data == BUILTIN:
        return BUILTIN, own.builtin.title
    folder = find(data, "--data") if data else default
    return str(folder), f"{own.files.title} in {folder}"


def load(name: str, data: str, percent_valid: float, plain: bool = False) -> ImageSets:
    """The images of a data set that lies there, split. Raises UserError where they cannot be used.

    plain: normalized for the plain networks.
    """
    source = DATA_SETS[name].builtin if data == BUILTIN else DATA_SETS[name].files
    normalization = (plain and source.plain_normalization) or source.normalization
    return load_image_sets(*source.load(data), percent_valid, source.classes, normalization)
