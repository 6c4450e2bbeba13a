"""Keep the memory that a training step frees for the next step, instead of handing it back to the system.

A step on a CPU allocates and frees the same buffers over and over. glibc returns the large ones to the kernel each
time, which hands them out again page by page, zeroed: a tenth of a bfloat16 step (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
LARGEST_KEPT = 32 * 2**20  # bytes, the most that glibc takes; larger buffers come and go as before


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed buffers of up to 32 MiB for this process; return whether there is a glibc to tell."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and library.mallopt(TRIM_THRESHOLD, 2**31 - 1))
