"""A network with nothing but loopback: for programs that listen on every address they find, and as a thin line."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.consumer import MissingError

CLONE_NEWNET = 0x40000000
"""sched.h."""

BURST_NBYTES, QUEUE_NBYTES = 256 << 10, 64 << 20
"""Of a thin line: what may pass at once (loopback's packets have up to 64 KiB), and what waits before any is lost."""


@contextlib.contextmanager
def alone(mb_per_s: float | None = None) -> Iterator[None]:
    """This thread, and all processes and threads that it starts, are in one. MissingError where that cannot be.

    With `mb_per_s` the kernel lets no more pass (tc-tbf(8)), of all connections together and in both directions.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(CLONE_NEWNET):
            raise MissingError(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
        try:
            _run("ip", "link", "set", "lo", "up")
            if mb_per_s is not None:
                rate = ("rate", f"{mb_per_s * 8:g}mbit", "burst", str(BURST_NBYTES), "limit", str(QUEUE_NBYTES))
                _run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *rate)
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MissingError(f"there is no {command[0]!r} (iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise MissingError(f"{' '.join(command)}: {error.stderr.strip()}") from error
