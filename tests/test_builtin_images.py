"""stn.datasets.builtin_images: the same drawings everywhere, balanced, and neither trivial nor noise."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import stn.datasets.builtin_images
from stn.datasets.builtin_images import CLASSES, GREY_NORMALIZATION, builtin_grey_images, builtin_images
from stn.datasets.images import load_image_sets

ROOT = Path(__file__).resolve().parents[1]
DIGEST = "aa435ccc5b3aeb585d3d1028b5637e9a93325b4b09c36f9a82b0f6cbb89dd96c"


@pytest.fixture(scope="module")
def sets():
    return builtin_images(2_000, 1_000)


def digest(*sets):
    return hashlib.sha256(
        b"".join(part.pixels.numpy().tobytes() + bytes(part.labels.tolist()) for part in sets)
    ).hexdigest()


def test_shapes_and_types(sets):
    for images, count in zip(sets, (2_000, 1_000), strict=True):
        assert len(images) == count
        assert images.pixels.shape == (count, 3, 32, 32)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert images.pixels.min() < 10 and images.pixels.max() > 245


def test_defaults():
    assert builtin_images.__defaults__ == (10_000, 2_000)
    assert len(CLASSES) == len(set(CLASSES)) == 10


def test_recorded_digest():
    assert digest(*builtin_images(200, 100)) == DIGEST


def test_another_process_draws_the_same(sets):
    script = "import sys; sys.path[:0] = ['tests']; from test_builtin_images import *"
    script += "; print(digest(*builtin_images(2_000, 1_000)))"
    settings = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=settings, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == digest(*sets)


def test_a_call_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    builtin_images(10, 10)
    assert torch.equal(before, torch.get_rng_state())


def test_grey_images_are_the_inner_pixels_luma(sets, monkeypatch):
    monkeypatch.setattr(stn.datasets.builtin_images, "builtin_images", lambda: sets)
    for grey, colour in zip(builtin_grey_images(), sets, strict=True):
        assert (grey.pixels.shape, grey.pixels.dtype) == ((len(colour), 1, 28, 28), torch.uint8)
        assert torch.equal(grey.labels, colour.labels)
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # ITU-R BT.601
        luma = torch.einsum("nchw,c->nhw", colour.pixels.double(), weights)[:, 2:30, 2:30]
        assert (grey.pixels[:, 0].double() - luma).abs().max() <= 0.5 + 1e-9
        assert grey.pixels.max() > 240
    train = builtin_grey_images()[0].pixels.double() / 255
    assert (train.mean().item(), train.std().item()) == pytest.approx(
        (*GREY_NORMALIZATION.mean, *GREY_NORMALIZATION.deviation), abs=0.01
    )


def test_classes_are_balanced_and_shuffled(sets):
    for images in sets:
        assert images.labels.bincount().tolist() == [len(images) // 10] * 10
        for half in images.labels.chunk(2):
            assert half.bincount(minlength=10).min() > 0.6 * len(half) / 10
        assert (images.labels[1:] == images.labels[:-1]).float().mean() < 0.2


@pytest.mark.parametrize("count", [0, 1, 7, 23])
def test_any_count(count):
    train, test = builtin_images(count, 1)
    assert (len(train), len(test)) == (count, 1)
    sizes = train.labels.bincount(minlength=10)
    assert sizes.max() - sizes.min() <= 1


def test_no_image_occurs_twice(sets):
    drawn = [image.numpy().tobytes() for images in sets for image in images.pixels]
    assert len(set(drawn)) == len(drawn) == 3_000


def test_train_and_test_are_other_draws_from_the_same_classes():
    train, test = builtin_images(300, 300)
    assert not torch.equal(train.labels, test.labels)
    means = [images.pixels.double().mean((0, 2, 3)) for images in (train, test)]
    assert not torch.equal(*means)
    torch.testing.assert_close(*means, rtol=0, atol=15)


def accuracy(sets, features):
    """Of ridge regression on the features."""
    (x, y), (x_test, y_test) = ((features(images.pixels.float() / 255), images.labels) for images in sets)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, x_test = (functional.pad((part - mean) / scale, (0, 1), value=1.0) for part in (x, x_test))
    targets = functional.one_hot(y, 10).float()
    weights = torch.linalg.solve(x.T @ x + 0.3 * len(x) * torch.eye(x.shape[1]), x.T @ targets)
    return ((x_test @ weights).argmax(1) == y_test).float().mean().item()


def test_random_filters_tell_classes_apart_but_far_from_all(sets):
    filters = torch.randn(200, 3, 5, 5)
    filters -= filters.mean((2, 3), keepdim=True)

    def features(pixels):
        return functional.adaptive_avg_pool2d(functional.conv2d(pixels, filters, stride=2).relu(), 2).flatten(1)

    assert 0.2 < accuracy(sets, features) < 0.6


def test_colours_say_nothing_of_the_class(sets):
    assert accuracy(sets, lambda pixels: pixels.mean((2, 3))) < 0.15


def test_they_serve_as_image_sets(sets):
    splits = load_image_sets(*sets, 0.2, CLASSES)
    assert [len(splits.train), len(splits.valid), len(splits.test)] == [1_600, 400, 1_000]
