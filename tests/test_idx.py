"""stn.datasets.idx: idx files by hand, of each data set that has them; every bad input named in one line."""

import hashlib
import struct
from types import SimpleNamespace

import pytest
import torch
from run_folders import refused

from stn.datasets import fashion_mnist, idx, mnist

TRAIN, TEST = 3, 2
NAMES = tuple(idx.BYTES)
LOADERS = {
    "mnist": (mnist.MNIST_SHA256, mnist.load_mnist),
    "fashion_mnist": (fashion_mnist.FASHION_MNIST_SHA256, fashion_mnist.load_fashion_mnist),
}


def pixels_of(count, start):
    """Every pixel another than its neighbours and than the same of the next image."""
    shades = [[3 * row + column for column in range(28)] for row in range(28)]
    return [[[(start + 7 * n + shade) % 256 for shade in row] for row in shades] for n in range(count)]


def file_of(*sizes, content):
    """A file of the idx layout."""
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(content)


def flat(images):
    return [value for image in images for row in image for value in row]


def write_small(folder, digests, monkeypatch):
    """Four small files, recorded as the published ones."""
    contents = (
        file_of(TRAIN, 28, 28, content=flat(pixels_of(TRAIN, 0))),
        file_of(TRAIN, content=[5, 0, 9]),
        file_of(TEST, 28, 28, content=flat(pixels_of(TEST, 100))),
        file_of(TEST, content=[7, 2]),
    )
    for name, content in zip(NAMES, contents, strict=True):
        (folder / name).write_bytes(content)
        monkeypatch.setitem(idx.BYTES, name, len(content))
        monkeypatch.setitem(digests, name, hashlib.sha256(content).hexdigest())


@pytest.fixture(params=LOADERS)
def small(request, tmp_path, monkeypatch):
    """The folder of four small files, their reader, and what its messages end in."""
    digests, load = LOADERS[request.param]
    write_small(tmp_path, digests, monkeypatch)
    remedy = f"run ./getdata.sh {request.param}, which fills data/{request.param}, the default --data"
    return SimpleNamespace(folder=tmp_path, load=load, remedy=remedy)


def test_sizes_are_those_of_the_published_numbers_of_images():
    counts = {"train": 60_000, "t10k": 10_000}
    for name, size in idx.BYTES.items():
        split, what, *_ = name.split("-")
        assert size == (16 + counts[split] * 784 if what == "images" else 8 + counts[split])
    assert all(tuple(digests) == NAMES for digests, _ in LOADERS.values()) and len(NAMES) == 4


def test_images_and_labels_are_those_of_the_files(small):
    train, test = small.load(str(small.folder))
    for images, count, start, labels in ((train, TRAIN, 0, [5, 0, 9]), (test, TEST, 100, [7, 2])):
        assert images.pixels.shape == (count, 1, 28, 28)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert images.pixels[:, 0].tolist() == pixels_of(count, start)
        assert images.labels.tolist() == labels


def test_what_is_read_may_be_changed(small):
    train, _ = small.load(small.folder)
    train.pixels.zero_()
    assert small.load(small.folder)[0].pixels.any()


@pytest.mark.parametrize("name", NAMES)
def test_missing_truncated_and_altered_files_are_named(small, name):
    path = small.folder / name
    content = path.read_bytes()

    def is_refused(*words):
        refused(lambda: small.load(small.folder), *words, small.remedy)

    path.write_bytes(content[:-1])
    is_refused(f"{path} has {len(content) - 1} bytes instead of {len(content)}: ")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    is_refused(f"{path} is not the published file (its SHA-256 differs): ")
    path.unlink()
    is_refused(f"{path} is missing: ")
    path.mkdir()
    is_refused(f"{path} is a folder")


def test_what_is_no_folder(small):
    none, file = small.folder / "none", small.folder / NAMES[0]
    refused(lambda: small.load(none), f"{none} does not exist: {small.remedy}")
    refused(lambda: small.load(file), f"{file} is not a folder: {small.remedy}")
