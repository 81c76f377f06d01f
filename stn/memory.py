"""What a process does with memory that it no longer needs."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt(3)
_MOST = 2**31 - 1


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
