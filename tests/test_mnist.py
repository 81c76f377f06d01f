"""stn.datasets.mnist: idx files by hand; every bad input named in one line."""

import hashlib
import struct

import pytest
import torch
from run_folders import refused

from stn.datasets import mnist
from stn.datasets.images import load_image_sets
from stn.datasets.mnist import MNIST_CLASSES, MNIST_FILES, MNIST_NORMALIZATION, load_mnist

TRAIN, TEST = 3, 2
NAMES = tuple(MNIST_FILES)


def pixels_of(count, start):
    """Every pixel another than its neighbours and than the same of the next image."""
    shades = [[3 * row + column for column in range(28)] for row in range(28)]
    return [[[(start + 7 * n + shade) % 256 for shade in row] for row in shades] for n in range(count)]


def idx(*sizes, content):
    """A file of the idx layout."""
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(content)


def flat(images):
    return [value for image in images for row in image for value in row]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four small files, recorded as the published ones."""
    contents = (
        idx(TRAIN, 28, 28, content=flat(pixels_of(TRAIN, 0))),
        idx(TRAIN, content=[5, 0, 9]),
        idx(TEST, 28, 28, content=flat(pixels_of(TEST, 100))),
        idx(TEST, content=[7, 2]),
    )
    for name, content in zip(NAMES, contents, strict=True):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setitem(mnist.MNIST_FILES, name, (len(content), hashlib.sha256(content).hexdigest()))
    return tmp_path


def test_sizes_are_those_of_the_published_numbers_of_images():
    sizes = {name: size for name, (size, _) in MNIST_FILES.items()}
    counts = {"train": 60_000, "t10k": 10_000}
    for name, size in sizes.items():
        split, what, *_ = name.split("-")
        assert size == (16 + counts[split] * 784 if what == "images" else 8 + counts[split])
    assert (MNIST_CLASSES, len(sizes)) == (tuple("0123456789"), 4)


def test_images_and_labels_are_those_of_the_files(folder):
    train, test = load_mnist(str(folder))
    for images, count, start, labels in ((train, TRAIN, 0, [5, 0, 9]), (test, TEST, 100, [7, 2])):
        assert images.pixels.shape == (count, 1, 28, 28)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert images.pixels[:, 0].tolist() == pixels_of(count, start)
        assert images.labels.tolist() == labels


def test_what_is_read_may_be_changed(folder):
    train, _ = load_mnist(folder)
    train.pixels.zero_()
    assert load_mnist(folder)[0].pixels.any()


def test_splits_keep_shape_and_normalization_and_have_a_checksum(folder):
    sets = load_image_sets(*load_mnist(folder), 0.5, MNIST_CLASSES, MNIST_NORMALIZATION)
    assert [len(split) for split in (sets.train, sets.valid, sets.test)] == [1, 2, 2]
    assert sets.valid.pixels.shape == (2, 1, 28, 28)
    assert sets.normalization.mean == (0.1307,) and sets.normalization.deviation == (0.3081,)
    rows = zip([5, 0, 9, 7, 2], [*pixels_of(TRAIN, 0), *pixels_of(TEST, 100)], strict=True)
    content = b"".join(bytes([label, *flat([image])]) for label, image in rows)
    assert sets.checksum == hashlib.sha256(content).hexdigest()


REMEDY = "run ./getdata.sh mnist, which fills data/mnist"


@pytest.mark.parametrize("name", NAMES)
def test_missing_truncated_and_altered_files_are_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(lambda: load_mnist(folder), f"{path} has {len(content) - 1} bytes instead of {len(content)}: {REMEDY}")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(lambda: load_mnist(folder), f"{path} is not the published file (its SHA-256 differs): {REMEDY}")
    path.unlink()
    refused(lambda: load_mnist(folder), f"{path} is missing: {REMEDY}")
    path.mkdir()
    refused(lambda: load_mnist(folder), f"{path} is a folder", REMEDY)


def test_what_is_no_folder(folder):
    refused(lambda: load_mnist(folder / "none"), f"{folder / 'none'} does not exist: {REMEDY}")
    refused(lambda: load_mnist(folder / NAMES[0]), f"{folder / NAMES[0]} is not a folder: {REMEDY}")
