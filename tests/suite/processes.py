"""Processes that tests have started."""

import contextlib
from collections.abc import Callable

import psutil


def children(says: Callable[[list[str]], bool], *, recursive: bool = False) -> list[psutil.Process]:
    """Children of this process whose command line says so; not those that have ended, reaped or not."""
    found = []
    for child in psutil.Process().children(recursive=recursive):
        with contextlib.suppress(psutil.NoSuchProcess):  # also raised of a zombie
            if says(child.cmdline()):
                found.append(child)
    return found
