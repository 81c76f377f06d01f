"""stn.datasets.fashion_mnist among the scripts' data sets; its files are read in test_idx."""

import pytest
from test_idx import write_small

import cnn.datasets
from stn.datasets import builtin_images
from stn.datasets.builtin_images import GREY_NORMALIZATION
from stn.datasets.fashion_mnist import FASHION_MNIST_CLASSES, FASHION_MNIST_SHA256


@pytest.fixture
def few_grey(monkeypatch):
    few = builtin_images.builtin_images(20, 10)
    monkeypatch.setattr(builtin_images, "builtin_images", lambda: few)


def of(normalization):
    return normalization.mean, normalization.deviation, normalization.white


def test_classes_are_the_published_ones_in_their_order():
    known = "T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot"
    assert ", ".join(FASHION_MNIST_CLASSES) == known


def test_it_is_read_where_it_is(tmp_path, monkeypatch):
    """From the folder that is named, or else from the default one."""
    write_small(tmp_path, FASHION_MNIST_SHA256, monkeypatch)
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    found = cnn.datasets.locate("fashion_mnist", str(tmp_path))
    assert found == (str(tmp_path), f"FashionMNIST in {tmp_path}")
    sets = cnn.datasets.load("fashion_mnist", str(tmp_path), 0.5)
    assert [len(split) for split in (sets.train, sets.valid, sets.test)] == [1, 2, 2]
    assert sets.classes == FASHION_MNIST_CLASSES
    own = tmp_path / "data" / "fashion_mnist"
    own.mkdir(parents=True)
    assert cnn.datasets.locate("fashion_mnist", None) == (str(own), f"FashionMNIST in {own}")


def test_pixels_have_mean_0_and_deviation_1_where_they_are_normalized(tmp_path, monkeypatch, few_grey):  # noqa: ARG001
    write_small(tmp_path, FASHION_MNIST_SHA256, monkeypatch)
    for data, wanted in ((str(tmp_path), ((0.2860,), (0.3530,), 1.0)), ("builtin", of(GREY_NORMALIZATION))):
        for plain in (False, True):
            assert of(cnn.datasets.load("fashion_mnist", data, 0.5, plain).normalization) == wanted


def test_grey_images_stand_in_for_it(tmp_path, monkeypatch, few_grey):  # noqa: ARG001
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    data, told = cnn.datasets.locate("fashion_mnist", None)
    remedy = "./getdata.sh fashion_mnist fetches it"
    assert told == f"no data/fashion_mnist ({remedy}): using the built-in grey images"
    assert cnn.datasets.locate("fashion_mnist", data) == (data, "built-in grey images")
    sets = cnn.datasets.load("fashion_mnist", data, cnn.datasets.DATA_SETS["fashion_mnist"].percent_valid)
    assert [len(split) for split in (sets.train, sets.valid, sets.test)] == [17, 3, 10]
    assert sets.train.pixels.shape == (17, 1, 28, 28) and sets.classes == builtin_images.CLASSES
