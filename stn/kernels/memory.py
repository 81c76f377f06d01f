"""Memory: freed memory is kept for reuse, and running out of it is explained."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from stn.errors import UserError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt(3)
_INT_MAX = 2**31 - 1
# In plain RuntimeErrors of torch: the CPU's memory is full, a size exceeds all addresses, other processes fill the GPU.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "Storage size calculation overflowed", "CUDA error: out of memory")


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next allocation, in the whole process; returns whether it does.

    By default glibc returns a large tensor's memory to the system when the tensor is freed, and the system has to
    provide every page anew for the next one: some 9 % of a training step's time at paper size.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _INT_MAX, _TOP_PAD: 64 * 2**20}
    return sys.platform == "linux" and all(mallopt(option, value) == 1 for option, value in options.items())


@contextlib.contextmanager
def explaining_out_of_memory(refusal: str) -> Iterator[None]:
    """Raise UserError with this message if memory runs out, on the CPU or a GPU; other errors pass unchanged."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or any(words in str(error) for words in _OUT_OF_MEMORY):
            raise UserError(refusal) from error
        raise
