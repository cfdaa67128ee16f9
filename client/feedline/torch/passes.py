"""Where each pass of a DataLoader's workers begins: for all of them at one place, and the next pass behind it.

A DataLoader does not tell its dataset that a pass begins; it only gives all workers of one a common seed. So the worker
that comes first notes where the pass of that seed begins, and the others find it there. The notes are a file without a
name, under a lock: forked and spawned workers share it, and nothing is left when the last process ends.
"""

import contextlib
import json
import tempfile
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any, TypeAlias

from feedline.reading.state import State

Notes: TypeAlias = dict[str, Any]  # Any: as JSON gives it

REMEMBERED = 64
"""Passes. More than one is under way only where a program begins a DataLoader again while it reads it."""


class Passes:
    """Notes shared with forked and spawned children. Any other copy has notes of its own."""

    def __init__(self, fd: int | None = None) -> None:
        self._file = tempfile.TemporaryFile(buffering=0) if fd is None else open(fd, "r+b", buffering=0)  # noqa: PTH123, SIM115
        weakref.finalize(self, self._file.close)

    @property
    def upcoming(self) -> State | None:
        """Where the next pass begins, if that was noted."""
        with self._notes() as notes:
            return notes.get("upcoming")

    @property
    def were_begun(self) -> bool:
        """Workers have begun passes, since a place was named."""
        with self._notes() as notes:
            return bool(notes.get("were_begun"))

    def stand_at(self, place: State | None) -> None:
        """Let the next pass begin there; None: where its workers are when they start."""
        with self._notes() as notes:
            notes |= {"upcoming": place, "were_begun": False}

    def begin(self, seed: str, *, at: State | None, start: State, after: Callable[[State], State]) -> State:
        """Where the pass of `seed` begins: `at`, else where it was noted to, else `upcoming`, else `start`."""
        with self._notes() as notes:
            notes["were_begun"] = True
            begun: dict[str, State] = notes.setdefault("begun", {})
            if at is not None or seed not in begun:
                begun[seed] = at or notes.get("upcoming") or start
                notes["upcoming"] = after(begun[seed])
                notes["begun"] = dict(list(begun.items())[-REMEMBERED:])
            return begun[seed]

    @contextlib.contextmanager
    def _notes(self) -> Iterator[Notes]:
        with _locked(self._file.fileno()):
            self._file.seek(0)
            notes: Notes = json.loads(self._file.read() or b"{}")
            yield notes
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(notes).encode())

    def __reduce__(self) -> tuple[object, ...]:
        if get_spawning_popen() is None:
            return Passes, ()
        return _of_parent, (reduction.DupFd(self._file.fileno()),)


def _of_parent(duplicate: Any) -> Passes:  # noqa: ANN401  # what DupFd gives
    return Passes(duplicate.detach())


@contextlib.contextmanager
def _locked(fd: int) -> Iterator[None]:
    import fcntl

    fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
