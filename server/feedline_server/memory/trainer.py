"""Memory of a trainer on this host, in which its batches are assembled or copied.

A slot is the loader's until it is published to the trainer, and then the trainer's until it returns it. Nothing that
lies here is believed: the trainer may write to all of it at any time, so one byte a batch is all that is ever read.
Processes of the loader map it, so it must be memory that can never become shorter: touching a mapping of what was cut
off ends a process. Its pages count as memory of who touches them first, so only those are used that the trainer has
taken, from its beginning on: none is charged to the loader's control group.
"""

import fcntl
import functools
import itertools
import mmap
import os
import threading

from feedline_server.memory.arena import FirstFit, Slot
from feedline_wire.lane import RETURNED_NBYTES

MOST_NBYTES = 1 << 36
"""Of a trainer: far more than any reads ahead, and every worker can map that of two thousand (x86-64 has 47 bits)."""

STAT_BLOCK_NBYTES = 512
"""Of `st_blocks`, whatever the pages are (stat(2))."""

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
"""What must be sealed: its length downwards, and the seals. The second keeps a trainer from forbidding writes later."""

NO_SEALS = fcntl.F_SEAL_WRITE | 0x10
"""What must not be: writing, now or (F_SEAL_FUTURE_WRITE, which Python has no name for) by later mappings."""

_numbers = itertools.count(1)  # 0 is the arena


class TrainerMemory:
    """One trainer's. `allocate` a slot, then `publish` or `release` it. Thread-safe."""

    def __init__(self, fd: int) -> None:
        """Owns the descriptor, also if it raises OSError: it is not memory, or could become shorter."""
        self.fd = fd
        self.number = next(_numbers)
        """Its name between the front and its workers."""
        self._lock = threading.Lock()
        self._taken_nbytes = 0  # by the trainer, as far as is known
        try:
            self._space = FirstFit(_checked_nbytes(fd), self.number)
            self._first_page = mmap.mmap(fd, RETURNED_NBYTES)
        except BaseException:
            os.close(fd)
            raise
        self._space.allocate(RETURNED_NBYTES)  # the first page is the trainer's to write
        self._free = list(reversed(range(RETURNED_NBYTES)))
        self._unpublished: dict[Slot, int] = {}
        self._published: dict[int, Slot] = {}

    def __repr__(self) -> str:
        return (
            f"<TrainerMemory {self.number} unpublished={len(self._unpublished)} published={len(self._published)} "
            f"{self._space!r}>"
        )

    def allocate(self, nbytes: int) -> Slot | None:
        """A place for a batch; None while there is no room, and when this is closed."""
        with self._lock:
            if self.fd < 0:
                return None
            self._release_returned()
            slot = self._space.allocate(nbytes) if self._free else None
            if slot is not None and not self._is_taken(slot):
                self._space.release(slot)
                return None
            if slot is not None:
                number = self._unpublished[slot] = self._free.pop()
                self._first_page[number] = 0
            return slot

    def put(self, body: memoryview) -> Slot | None:
        """Copy a batch here; None while there is no room. OSError if it cannot be written."""
        slot = self.allocate(len(body))
        if slot is not None:
            at = slot.start
            while body:
                count = os.pwrite(self.fd, body, at)
                body, at = body[count:], at + count
        return slot

    def publish(self, slot: Slot) -> int:
        """The slot is the trainer's from now on; the number under which it returns it."""
        with self._lock:
            number = self._unpublished.pop(slot)
            self._published[number] = slot
            return number

    def release(self, slot: Slot) -> None:
        """The slot is free again. Does nothing to one that was published: the trainer returns it."""
        with self._lock:
            number = self._unpublished.pop(slot, None)
            if number is not None:
                self._free.append(number)
                self._space.release(slot)

    def _is_taken(self, slot: Slot) -> bool:
        """The trainer has taken the pages of the slot, the first that is free and long enough."""
        if slot.end > self._taken_nbytes:
            self._taken_nbytes = os.fstat(self.fd).st_blocks * STAT_BLOCK_NBYTES
        return slot.end <= self._taken_nbytes

    def _release_returned(self) -> None:
        for number in [number for number in self._published if self._first_page[number]]:
            self._space.release(self._published.pop(number))
            self._free.append(number)

    def close(self) -> None:
        """Unmap and close. Idempotent."""
        with self._lock:
            if self.fd >= 0:
                self._first_page.close()
                os.close(self.fd)
                self.fd = -1


def _checked_nbytes(fd: int) -> int:
    """How large it is, if it is memory that can be mapped without danger."""
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # OSError of a file, a pipe, a socket
    if seals & SEALS != SEALS or seals & NO_SEALS:
        raise OSError("the trainer's memory is not sealed against becoming shorter, or is sealed against writing")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise OSError("the trainer's memory came without the right to write to it")
    status = os.fstat(fd)
    if status.st_dev != _device_of_memory():
        raise OSError("the trainer's memory is not of ordinary pages: huge ones may be missing when they are touched")
    if not RETURNED_NBYTES < status.st_size <= MOST_NBYTES:
        raise OSError(f"the trainer's memory has {status.st_size} bytes")
    return status.st_size


@functools.cache
def _device_of_memory() -> int:
    """What the kernel has all ordinary memory without a name on; that of huge pages is on another."""
    fd = os.memfd_create("feedline-kind", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
