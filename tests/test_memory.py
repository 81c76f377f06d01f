"""Freed memory that is kept costs no page again, counted in processes of their own; what does not fit is said."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stn.errors import UserError
from stn.kernels import memory

ROOT = Path(__file__).resolve().parents[1]
FAULTS = """
import resource, sys, torch
from stn.kernels.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
size = 64 * 2**20
for _ in range(20):  # until the heap holds a free piece with room for the alignment
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(size, dtype=torch.uint8).add_(1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def page_faults(mode):
    """How many pages a tensor of 64 MiB asks the system for, after others of its size."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_kept_memory_needs_no_new_pages():
    assert page_faults("keep") < 10 < page_faults("default")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory() is False


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(2**40, 2**10),  # more than a processor has addresses for
        lambda: torch.empty(2**62),  # more bytes than a number of 64 bits holds
        lambda: bytearray(2**60),
        lambda: raise_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: raise_error(RuntimeError("CUDA error: out of memory")),
    ],
)
def test_what_does_not_fit_is_said_so(work):
    with pytest.raises(UserError, match=r"^lower --nhid$"), memory.explaining_out_of_memory("lower --nhid"):
        work()


def test_other_errors_are_not_blamed_on_memory():
    with pytest.raises(RuntimeError, match="cannot be multiplied"), memory.explaining_out_of_memory("lower --nhid"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
