"""stn.datasets.cifar100: rows of bytes by hand; every bad input named in one line."""

import pytest
import torch
from run_folders import refused

import cnn.datasets
from cnn.models import MODELS
from stn.datasets import builtin_images, cifar100
from stn.datasets.cifar100 import CIFAR100_CLASSES, CIFAR100_NORMALIZATION, CIFAR100_ROWS, load_cifar100

LABELS = {"train.bin": [(11, 49), (0, 99), (19, 0)], "test.bin": [(3, 7), (18, 58)]}  # coarse, fine
REMEDY = "run ./getdata.sh cifar100, which fills data/cifar100"


def planes(number):
    """Red, green and blue, each another than the next image's."""
    return [[(number + shade * place) % 256 for place in range(1024)] for shade in (1, 3, 7)]


def content_of(labels):
    rows = (bytes(pair) + b"".join(map(bytes, planes(number))) for number, pair in enumerate(labels))
    return b"".join(rows)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two small files."""
    for name, labels in LABELS.items():
        (tmp_path / name).write_bytes(content_of(labels))
        monkeypatch.setitem(cifar100.CIFAR100_ROWS, name, len(labels))
    return tmp_path


def test_numbers_of_images_are_the_published_ones():
    """Of which getdata.sh has the sizes."""
    assert {name: 3074 * rows for name, rows in CIFAR100_ROWS.items()} == {
        "train.bin": 153_700_000,
        "test.bin": 30_740_000,
    }


def test_classes_are_a_hundred_in_alphabetical_order():
    assert len({*CIFAR100_CLASSES}) == 100 and list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    known = {0: "apple", 1: "aquarium_fish", 19: "cattle", 33: "forest", 49: "mountain", 58: "pickup_truck", 99: "worm"}
    assert {number: CIFAR100_CLASSES[number] for number in known} == known


def test_images_and_fine_labels_are_those_of_the_files(folder):
    for images, labels in zip(load_cifar100(str(folder)), LABELS.values(), strict=True):
        assert images.pixels.shape == (len(labels), 3, 32, 32)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert images.labels.tolist() == [fine for _, fine in labels]
        assert images.pixels.flatten(2).tolist() == [planes(number) for number in range(len(labels))]


def test_what_is_read_may_be_changed(folder):
    train, _ = load_cifar100(folder)
    train.pixels.zero_()
    assert load_cifar100(folder)[0].pixels.any()


@pytest.mark.parametrize("name", LABELS)
def test_missing_truncated_and_longer_files_are_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for bad in (content[:-1], content + b"\0", content + content[:3074], b""):
        path.write_bytes(bad)
        refused(lambda: load_cifar100(folder), f"{path} has {len(bad)} bytes instead of {len(content)}: {REMEDY}")
    path.unlink()
    refused(lambda: load_cifar100(folder), f"{path} is missing: {REMEDY}")
    path.mkdir()
    refused(lambda: load_cifar100(folder), f"{path} is a folder", REMEDY)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("label", [100, 255])
def test_a_label_of_no_class_is_named(folder, name, label):
    path = folder / name
    path.write_bytes(content_of([*LABELS[name][:-1], (0, label)]))
    number = len(LABELS[name]) - 1
    refused(lambda: load_cifar100(folder), f"label {label} of image {number} in {path} is none of 0 to 99: {REMEDY}")


def test_what_is_no_folder(folder):
    refused(lambda: load_cifar100(folder / "none"), f"{folder / 'none'} does not exist: {REMEDY}")
    refused(lambda: load_cifar100(folder / "test.bin"), f"{folder / 'test.bin'} is not a folder: {REMEDY}")


# Among the scripts' data sets


def test_it_is_read_where_it_is(folder, tmp_path, monkeypatch):
    """From the folder that is named, or else from the default one."""
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    assert cnn.datasets.locate("cifar100", str(folder)) == (str(folder), f"CIFAR-100 in {folder}")
    sets = cnn.datasets.load("cifar100", str(folder), 0.5)
    assert [len(split) for split in (sets.train, sets.valid, sets.test)] == [1, 2, 2]
    assert (sets.classes, sets.normalization) == (CIFAR100_CLASSES, CIFAR100_NORMALIZATION)
    plain = cnn.datasets.load("cifar100", str(folder), 0.5, plain=True).normalization
    assert (plain.mean, plain.deviation) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    own = tmp_path / "data" / "cifar100"
    own.mkdir(parents=True)
    assert cnn.datasets.locate("cifar100", None) == (str(own), f"CIFAR-100 in {own}")


def test_images_that_stand_in_for_it_are_said_to_be_of_10_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    few = builtin_images.builtin_images(20, 10)
    monkeypatch.setattr(builtin_images, "builtin_images", lambda: few)
    data, told = cnn.datasets.locate("cifar100", None)
    assert told == "no data/cifar100 (./getdata.sh cifar100 fetches it): using the built-in images of 10 classes"
    assert cnn.datasets.locate("cifar100", data) == (data, "built-in images of 10 classes")
    assert len(cnn.datasets.load("cifar100", data, 0.2).classes) == 10


def test_no_self_tuning_network_is_for_it():
    assert all("cifar100" not in cnn.datasets.datasets_of(model) for model in MODELS)
