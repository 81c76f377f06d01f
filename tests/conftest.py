"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read as torch is imported: test processes share the cores

import numpy
import pytest
import torch

from stn.datasets import builtin_images
from stn.scripts.signals import ENDING, give_back

GOLDEN = Path(__file__).parent / "golden"

# A shell has what it starts in the background ignore Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def double():
    """float64 as the default dtype, for the duration of a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def golden():
    """golden(group): the group's golden tensors by name; the numbers are float64."""

    def load(group):
        with numpy.load(GOLDEN / ("delta.npz" if group == "delta" else "layers.npz")) as numbers:
            prefix = f"{group}/"
            return {
                name.removeprefix(prefix): torch.as_tensor(numbers[name])
                for name in numbers.files
                if name.startswith(prefix)
            }

    return load


@pytest.fixture
def folder(tmp_path):
    """Where a run may be started."""
    return tmp_path / "logs" / "2024-01-02"


@pytest.fixture(autouse=True)
def same_signals():
    """A script that was started within a test leaves nothing behind that a signal would do to the next ones."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    give_back(before)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def few_images():
    """200 built-in images to train on and 60 to test on, in place of all."""
    pair = builtin_images.builtin_images(200, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin_images, "builtin_images", lambda: pair)
        yield


@pytest.fixture
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
