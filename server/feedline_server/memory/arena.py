"""The arena: shared memory that batches are assembled in, allocated as slots.

Slots never overlap; with what is free they are the whole arena. It is one memfd, so nothing has a name in /dev/shm, a
small /dev/shm in a container does not matter, and a kill -9 leaves nothing behind.
"""

import bisect
import contextlib
import itertools
import mmap
import operator
import os
from dataclasses import dataclass

GRAIN = 4096
"""Slots start on and fill whole pages, so two workers never write to the same page; far above the wire's alignment."""

ARENA = 0
"""The number of the loader's own memory; others are trainers' (memory.trainer)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of the arena, or of a trainer's memory, for one batch; `nbytes` is whole grains."""

    start: int
    nbytes: int
    memory: int = ARENA

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.nbytes

    def overlaps(self, other: "Slot") -> bool:
        """The two have a byte in common."""
        return self.memory == other.memory and self.start < other.end and other.start < self.end


class FirstFit:
    """Allocates slots of any size out of a fixed number of bytes. Not locked."""

    def __init__(self, nbytes: int, memory: int = ARENA) -> None:
        self.nbytes = max(nbytes // GRAIN, 1) * GRAIN
        self._memory_number = memory
        self._free = [Slot(0, self.nbytes)]  # in order of address, never two that touch
        self._allocated: set[Slot] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} allocated={self.allocated_nbytes}/{self.nbytes} slots={len(self._allocated)}>"

    @property
    def allocated_nbytes(self) -> int:
        """Bytes in slots now."""
        return self.nbytes - sum(slot.nbytes for slot in self._free)

    def allocate(self, nbytes: int, *, outside: Slot | None = None) -> Slot | None:
        """A slot of at least `nbytes` that touches nothing of `outside`, or None while no free piece is long enough.

        First fit from the lowest address: pages already written are used again before new ones are touched.
        """
        wanted = _whole_grains(nbytes)
        for index, free in enumerate(self._free):
            for start, end in ((free.start, free.end),) if outside is None else _parts(free, outside):
                if end - start >= wanted:
                    left = Slot(free.start, start - free.start), Slot(start + wanted, free.end - start - wanted)
                    self._free[index : index + 1] = filter(_NBYTES, left)
                    slot = Slot(start, wanted, self._memory_number)
                    self._allocated.add(slot)
                    return slot
        return None

    def emptiest(self, nbytes: int) -> Slot:
        """The region of `nbytes` where the least is allocated: it is free the soonest, if nothing more comes there."""
        wanted = _whole_grains(nbytes)
        if wanted > self.nbytes:
            raise ValueError(f"a region of {nbytes} bytes is wanted; the arena has {self.nbytes}")
        slots = sorted(self._allocated, key=lambda slot: slot.start)
        starts = [slot.start for slot in slots]
        before = [0, *itertools.accumulate(slot.nbytes for slot in slots)]

        def below(address: int) -> int:
            index = bisect.bisect_left(starts, address)
            return before[index] - (max(slots[index - 1].end - address, 0) if index else 0)

        # What is allocated in a region changes its slope only where a slot begins or ends, at either end of the region.
        edges = {0, self.nbytes, *starts, *(slot.end for slot in slots)}
        candidates = {start for edge in edges for start in (edge, edge - wanted) if 0 <= start <= self.nbytes - wanted}
        best = min(candidates, key=lambda start: (below(start + wanted) - below(start), start))
        return Slot(best, wanted)

    def release(self, slot: Slot) -> None:
        """Make a slot free again. Raises ValueError if it is not allocated."""
        if slot not in self._allocated:
            raise ValueError(f"{slot} is not allocated")
        self._allocated.remove(slot)
        index = bisect.bisect(self._free, slot.start, key=operator.attrgetter("start"))
        start, end = slot.start, slot.end
        if index < len(self._free) and self._free[index].start == end:
            end = self._free.pop(index).end
        if index and self._free[index - 1].end == start:
            index -= 1
            start = self._free.pop(index).start
        self._free.insert(index, Slot(start, end - start))


class Arena(FirstFit):
    """Slots of shared memory out of a fixed budget; pages count against memory once they are first written.

    Allocator and taking back are not locked here: one owner (scheduler) does both under its own lock.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.fd = os.memfd_create("feedline-arena", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.nbytes)
        self._memory = mmap.mmap(self.fd, self.nbytes)

    def memory(self, slot: Slot, nbytes: int) -> memoryview:
        """The slot's first `nbytes` bytes; release the view before the slot is taken back."""
        return memoryview(self._memory)[slot.start : slot.start + nbytes]

    def close(self) -> None:
        """Unmap and close. Idempotent. Workers keep their own mapping until they end."""
        if self.fd >= 0:
            with contextlib.suppress(BufferError):  # a sender that was cut off may hold a view until it is collected
                self._memory.close()
            os.close(self.fd)
            self.fd = -1


_NBYTES = operator.attrgetter("nbytes")


def _whole_grains(nbytes: int) -> int:
    return max(-(-nbytes // GRAIN), 1) * GRAIN


def _parts(free: Slot, outside: Slot) -> tuple[tuple[int, int], ...]:
    """The parts of a free piece, start and end, before and behind what is kept out of."""
    if outside.end <= free.start or free.end <= outside.start:
        return ((free.start, free.end),)
    return ((free.start, outside.start), (outside.end, free.end))
