"""Where one thread's time goes, stage by stage: some 4 us a batch.

What a read waits is what neither its thread nor the queue of the processor explains: the disk, a server, a lock. A
worker that shares its core with others would else look as if its disk were slow.
"""

import functools
import os
import time

SCHEDSTAT = "/proc/thread-self/schedstat"
"""Of a thread: nanoseconds that it ran, that it waited for a processor, how often."""

WORTH_S = 0.0005
"""A shorter read has waited for nothing that is worth a name: what is measured here is about as exact."""

READ, STORAGE, ASSEMBLE = "read", "storage", "assemble"

OWN_READ = "own_read"
"""Reading by code of the operator's own: a part of READ that faster files do not shorten."""


class Stopwatch:
    """Each lap is added to a stage. One thread, which also makes it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By stage, since `start`."""
        self._at = self._cpu = 0.0
        self._queued = b""

    def start(self) -> None:
        """Begin anew."""
        self.seconds = {}
        self._at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What passed since the last lap was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
        self._at = now

    def begin_read(self) -> None:
        """From here on it reads; what was before is assembling."""
        self.lap(ASSEMBLE)
        self._cpu, self._queued = time.thread_time(), _schedstat()

    def end_read(self, *, is_own: bool = False) -> None:
        """Until here it read, in code of the operator's own or in ours: a part of that it waited."""
        wall = time.perf_counter() - self._at
        stage = OWN_READ if is_own else READ
        self.lap(stage)
        if wall < WORTH_S:
            return
        waited = wall - (time.thread_time() - self._cpu) - _queued_s(self._queued, _schedstat())
        waited = min(max(waited, 0.0), wall)
        self.seconds[stage] -= waited
        self.seconds[STORAGE] = self.seconds.get(STORAGE, 0.0) + waited


def _schedstat() -> bytes:
    fd = _opened()
    return os.pread(fd, 64, 0) if fd is not None else b""


@functools.cache
def _opened() -> int | None:
    try:
        return os.open(SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a kernel or a sandbox without it
        return None


def _queued_s(before: bytes, after: bytes) -> float:
    """How long the thread waited for a processor between two readings."""
    return (int(after.split()[1]) - int(before.split()[1])) / 1e9 if before and after else 0.0
