"""What is open in this process: closed when it ends, left to the parent where it is forked.

In a forked child nothing that was opened before the fork is used, closed or finalised. Its threads are the
parent's, and gRPC would talk to threads that do not exist.
"""

import atexit
import os
import weakref
from typing import Protocol


class Opened(Protocol):
    """Something with threads and connections."""

    def close(self) -> None:
        """End it. Idempotent."""

    def leave_to_parent(self) -> object:
        """Become unusable, in a forked child; what must be kept for ever so that it is not finalised."""


_open: weakref.WeakSet[Opened] = weakref.WeakSet()
_inherited: list[object] = []
_forks = 0


def opened(one: Opened) -> None:
    """Have it closed at the end of the process."""
    _open.add(one)


def closed(one: Opened) -> None:
    """It was closed."""
    _open.discard(one)


def is_forked() -> bool:
    """Something was open when this process was forked from another."""
    return bool(_inherited)


def forks() -> int:
    """Of this process and of those it was forked from, until now: memory held before the last may be held elsewhere."""
    return _forks


def _close_all() -> None:
    for one in list(_open):
        one.close()


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a fact of the process
    _forks += 1


def _leave_all_to_parent() -> None:
    _count_fork()
    _inherited.extend([one.leave_to_parent() for one in list(_open)])
    _open.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # Windows has neither it nor forks
    os.register_at_fork(after_in_parent=_count_fork, after_in_child=_leave_all_to_parent)
