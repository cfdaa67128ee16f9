"""A network with nothing but loopback, for programs that listen on every address they find."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
"""sched.h."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """This thread, and all processes and threads that it starts, are in one. PermissionError where that needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(CLONE_NEWNET):
            raise PermissionError(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
