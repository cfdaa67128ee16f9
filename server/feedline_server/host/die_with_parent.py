"""A process that ends when the one that started it does, however that one ends.

By the kernel's hand, so also after a kill -9 of the parent, and in the middle of anything.
"""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal this process gets when the thread that started it ends."""


def end_with(parent: int) -> None:
    """Be killed when `parent` ends; the calling process is its child, or was until a moment ago."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)
