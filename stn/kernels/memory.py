"""Memory: what a process does with what it no longer needs, and what does not fit."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from stn.errors import UserError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt(3)
_MOST = 2**31 - 1
# What torch says in a mere RuntimeError: of the CPU, of a size beyond any address, of a GPU that others have filled.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "Storage size calculation overflowed", "CUDA error: out of memory")


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next allocation, for the whole process; whether it can.

    By default glibc gives each large tensor's memory back to the system when it is freed, and the next one of that
    size pays for every page again: some 9 % of a training step at paper size.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 64 * 2**20}
    return sys.platform == "linux" and all(mallopt(option, value) == 1 for option, value in wanted.items())


@contextlib.contextmanager
def explaining_out_of_memory(refusal: str) -> Iterator[None]:
    """Raise UserError with this message where memory runs out, on the CPU or a GPU; other errors pass as they are."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(refusal) from error


def _is_out_of_memory(error: Exception) -> bool:
    own_kinds = MemoryError, torch.OutOfMemoryError
    return isinstance(error, own_kinds) or any(words in str(error) for words in _OUT_OF_MEMORY)
