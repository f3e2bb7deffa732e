"""Give memory that was freed back to the system."""

import contextlib
import ctypes
import sys


def returned() -> None:
    """Give freed memory back where the C library keeps it, as glibc does with what lies between arrays still in use.

    Gradients as large as the parameters come and go in both frameworks, in pieces that fit no gap of each other's:
    without this a process holds half as much again as it needs.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
