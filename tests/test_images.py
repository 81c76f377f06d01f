"""stn.datasets.images and the decoder of sheets: bytes by hand; every bad input named in one line."""

import hashlib
import json
import os
import sys

import pytest
import torch
from PIL import Image

from stn.datasets import cifar10_sheets, images
from stn.datasets.images import (
    CIFAR10_CLASSES,
    Images,
    load_cifar10,
    load_image_sets,
    write_binary,
)
from stn.errors import UserError

ROWS = 3


def made_up(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(10, (count,), generator=generator))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six small files, recorded as the published ones."""
    names = list(images.CIFAR10_SHA256)
    for number, name in enumerate(names):
        write_binary(made_up(ROWS, number), tmp_path / name)
    monkeypatch.setattr(images, "CIFAR10_ROWS", ROWS)
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr(images, "CIFAR10_SHA256", digests)
    return tmp_path


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_binary(path):
    return images.parse_binary(path.read_bytes())


def assert_equal(some, others):
    assert torch.equal(some.pixels, others.pixels)
    assert torch.equal(some.labels, others.labels)


# ---- the binary layout


def test_row_is_label_then_red_green_and_blue_plane(tmp_path):
    content = bytes([7]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 992 + bytes(range(100, 132))
    (tmp_path / "file").write_bytes(content + bytes(3073))
    found = read_binary(tmp_path / "file")
    assert found.labels.tolist() == [7, 0]
    assert found.pixels.shape == (2, 3, 32, 32)
    assert (found.pixels.dtype, found.labels.dtype) == (torch.uint8, torch.int64)
    assert [plane.unique().tolist() for plane in found.pixels[0, :2]] == [[10], [20]]
    assert found.pixels[0, 2, 31].tolist() == list(range(100, 132))
    assert not found.pixels[1].any()
    write_binary(found, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content + bytes(3073)


def test_what_is_read_may_be_changed(tmp_path):
    write_binary(made_up(2, seed=0), tmp_path / "file")
    found = read_binary(tmp_path / "file")
    found.pixels.zero_()
    assert_equal(read_binary(tmp_path / "file"), made_up(2, seed=0))


# ---- load_cifar10


def test_five_files_train_in_order_and_one_tests(folder):
    train, test = load_cifar10(folder)
    assert len(train) == 5 * ROWS
    for number in range(5):
        part = slice(number * ROWS, (number + 1) * ROWS)
        assert_equal(Images(train.pixels[part], train.labels[part]), made_up(ROWS, number))
    assert_equal(test, made_up(ROWS, 5))
    assert len(CIFAR10_CLASSES) == 10


def test_folder_may_be_a_string_and_must_be_there(folder):
    assert len(load_cifar10(str(folder))[1]) == ROWS
    message = error_of(load_cifar10, folder / "none")
    assert "does not exist: run ./getdata.sh cifar10, which fills data/cifar10" in message
    assert "is not a folder" in error_of(load_cifar10, folder / "test_batch.bin")


@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin"])
def test_missing_truncated_and_altered_files_are_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    cases = {"bytes instead of": content[:-1], "SHA-256": content[:-1] + bytes([content[-1] ^ 1])}
    for words, bad in cases.items():
        path.write_bytes(bad)
        message = error_of(load_cifar10, folder)
        assert str(path) in message and words in message and "./getdata.sh cifar10" in message
    path.unlink()
    assert f"{path} is missing: run ./getdata.sh cifar10" in error_of(load_cifar10, folder)
    path.mkdir()
    assert f"{path} is a folder" in error_of(load_cifar10, folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(folder):
    (folder / "test_batch.bin").chmod(0)
    assert "permissions" in error_of(load_cifar10, folder)


def test_file_that_the_system_refuses(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.Path, "read_bytes", refuse)
    message = error_of(load_cifar10, folder)
    assert "data_batch_1.bin" in message and "Permission denied" in message


# ---- load_image_sets


@pytest.mark.parametrize(("percent_valid", "num_train"), [(0.2, 8), (0.25, 7), (0.5, 5), (0.01, 9)])
def test_last_images_validate(percent_valid, num_train):
    train, test = made_up(10, seed=1), made_up(4, seed=2)
    sets = load_image_sets(train, test, percent_valid, CIFAR10_CLASSES)
    assert_equal(sets.train, Images(train.pixels[:num_train], train.labels[:num_train]))
    assert_equal(sets.valid, Images(train.pixels[num_train:], train.labels[num_train:]))
    assert_equal(sets.test, test)
    assert sets.classes == CIFAR10_CLASSES


@pytest.mark.parametrize("percent_valid", [0, 1, -0.1, 20, float("nan")])
def test_percent_valid_is_a_fraction(percent_valid):
    message = error_of(load_image_sets, made_up(10, 1), made_up(1, 2), percent_valid, CIFAR10_CLASSES)
    assert "--percent_valid" in message and "between 0 and 1" in message


@pytest.mark.parametrize(("count", "percent_valid"), [(10, 0.95), (1, 0.2), (0, 0.5)])
def test_empty_split(count, percent_valid):
    message = error_of(load_image_sets, made_up(count, 1), made_up(1, 2), percent_valid, CIFAR10_CLASSES)
    assert "--percent_valid" in message and "none for training" in message


def test_empty_validation_split():
    # 1 - 1e-17 rounds to 1.
    message = error_of(load_image_sets, made_up(3, 1), made_up(1, 2), 1e-17, CIFAR10_CLASSES)
    assert "none for validation" in message


def test_checksum_is_of_all_bytes_in_the_binary_layout(tmp_path):
    train, test = made_up(6, seed=1), made_up(2, seed=2)
    write_binary(train, tmp_path / "train")
    write_binary(test, tmp_path / "test")
    content = (tmp_path / "train").read_bytes() + (tmp_path / "test").read_bytes()
    checksums = {load_image_sets(train, test, share, CIFAR10_CLASSES).checksum for share in (0.2, 0.5)}
    assert checksums == {hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("what", ["pixels", "labels"])
def test_checksum_notices_one_change(what):
    before, after, test = made_up(6, seed=1), made_up(6, seed=1), made_up(2, seed=2)
    getattr(after, what).view(-1)[-1] ^= 1
    checksums = {load_image_sets(train, test, 0.5, CIFAR10_CLASSES).checksum for train in (before, after)}
    assert len(checksums) == 2


# ---- sheets


@pytest.fixture
def sheets(tmp_path):
    folder = tmp_path / "sheets"
    folder.mkdir()
    labels = []
    for number, name in enumerate(images.CIFAR10_SHA256):
        batch = made_up(ROWS, number)
        picture = batch.pixels.flatten(2).transpose(1, 2).contiguous().numpy()  # (N, 1024, 3)
        Image.fromarray(picture).save(folder / name.replace(".bin", ".png"))
        labels += batch.labels.tolist()
    (folder / "train_lables.json").write_text(json.dumps(labels[:-ROWS]))
    (folder / "test_lables.json").write_text(json.dumps(labels[-ROWS:]))
    return folder


def test_sheets_decode_to_the_same_bytes(sheets, folder):
    published = {name: (folder / name).read_bytes() for name in images.CIFAR10_SHA256}
    for name in published:
        (folder / name).unlink()
    cifar10_sheets.convert(sheets, folder)
    assert {name: (folder / name).read_bytes() for name in published} == published


@pytest.mark.parametrize("labels", ["[1, 2]", "[1, 2, 3, 4]", "{}", "[", '["a"]', "3"])
def test_labels_that_do_not_fit(sheets, tmp_path, labels):
    (sheets / "test_lables.json").write_text(labels)
    assert "test_lables.json" in error_of(cifar10_sheets.convert, sheets, tmp_path)


def test_sheets_that_are_missing_damaged_or_of_another_size(sheets, tmp_path, monkeypatch, capsys):
    path = sheets / "data_batch_2.png"
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    assert str(path) in error_of(cifar10_sheets.convert, sheets, tmp_path)
    Image.new("RGB", (32, 32)).save(path)
    assert "32 pixels wide" in error_of(cifar10_sheets.convert, sheets, tmp_path)
    path.unlink()
    monkeypatch.setattr(sys, "argv", ["cifar10_sheets", str(sheets), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cifar10_sheets.main()
    assert str(path) in str(ended.value)
    assert not capsys.readouterr().out
