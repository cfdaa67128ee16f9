"""Keeps the C library from giving the memory of every message back to the kernel.

gRPC allocates and frees some megabytes for each frame. By default glibc returns such memory at once and takes it again
for the next
frame: every page of every frame is faulted in and zeroed anew. With freed memory kept, one stream moved 1.8 times the
bytes at 0.4 of the
trainer's CPU time (docs/design.md). The price is that up to KEEP_NBYTES of freed memory stay with the process.
"""

import ctypes
import functools
import os
import sys

SWITCH = "FEEDLINE_KEEP_FREED_MEMORY"
"""Set to 0 in the environment to leave the C library as it is."""

KEEP_NBYTES = 128 << 20
"""Freed memory kept at the end of the heap: many times a frame, little beside a trainer's own."""

MMAP_NBYTES = 32 << 20
"""Blocks below this come from the heap; above it (a user's big arrays) they are mapped one by one, as before."""

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


@functools.cache
def keep_freed_memory() -> bool:
    """Do so in this process, once; False where it is switched off or the C library is not glibc."""
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others
        return False
    settings = ((_M_MMAP_THRESHOLD, MMAP_NBYTES), (_M_TRIM_THRESHOLD, KEEP_NBYTES), (_M_TOP_PAD, KEEP_NBYTES // 4))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
