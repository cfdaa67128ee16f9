"""Which stream gets memory of the arena, and from which it is taken when it is short.

A key whose turn it is gets its slot in bounded time, however large it is. What is cached and what stalled readers hold
is dropped for it; where others still have to be sent what they hold, a region is reserved for it, and the others go on
beside that. A slot may have several readers. It is free when the last of them has released it and the cache does not
keep it. Not locked: the scheduler calls all of this under its own lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.scheduling.cache import BatchCache, CachedBatch
from feedline_server.scheduling.fairness import choose_victim, is_stalled, refund
from feedline_server.scheduling.stream import Batch, Stream, Want
from feedline_wire.key import Key


@dataclass(frozen=True, slots=True)
class Reservation:
    """A region of the arena where nothing more is allocated until `want` fits."""

    stream: Stream
    want: Want
    region: Slot

    def is_needed(self, now: float) -> bool:
        """Its stream still waits for this key, and reads."""
        waiting = self.stream.waiting
        return bool(waiting) and waiting[0] is self.want and not is_stalled(self.stream, now)


class Allocator:
    """Allocates the arena to streams."""

    def __init__(self, arena: Arena, cache: BatchCache) -> None:
        self.arena = arena
        self.reclaimed = 0
        """Batches dropped unsent because their trainer did not read and another needed the room."""
        self._cache = cache
        self._reservation: Reservation | None = None
        self._readers: dict[Slot, int] = {}  # of every slot that is allocated and not idle in the cache

    def __repr__(self) -> str:
        return f"<Allocator {self.arena!r} reserved={self._reservation.region if self._reservation else None}>"

    @property
    def is_short(self) -> bool:
        """A key waits for memory."""
        return self._reservation is not None

    @property
    def kept_nbytes(self) -> int:
        """Bytes of batches that nothing reads, kept for the next stream that wants them."""
        return self._cache.idle_nbytes

    def allocate(
        self, stream: Stream, want: Want, streams: Sequence[Stream], now: float, *, in_place: bool
    ) -> Slot | None:
        """A slot for the key whose turn it is; None if it has to wait until others have been sent.

        `in_place`: in the trainer's own memory, where there is one with room.
        """
        if in_place and stream.memory is not None and (slot := stream.memory.allocate(want.nbytes)) is not None:
            return slot
        if self._reservation is not None and not self._reservation.is_needed(now):
            self._reservation = None
        reserved = self._reservation
        outside = reserved.region if reserved is not None and reserved.want is not want else None
        while (slot := self.arena.allocate(want.nbytes, outside=outside)) is None:
            if (evicted := self._cache.evict()) is not None:
                self.arena.release(evicted)
            elif (victim := choose_victim(streams, now)) is not None:
                self._reclaim(*victim)
            else:
                # Passing it over would starve large batches for ever; if all waited with it, all would wait for the
                # slowest reader.
                if reserved is None:
                    self._reservation = Reservation(stream, want, self.arena.emptiest(want.nbytes))
                return None
        if outside is None:
            self._reservation = None
        self._readers[slot] = 1
        stream.held_nbytes += slot.nbytes
        return slot

    def find(self, key: Key) -> CachedBatch | None:
        """A finished batch that a stream reads, or that is kept; `share` its slot."""
        cached = self._cache.find(key)
        # In a reserved region one reader after the other would keep the key that it is reserved for waiting for ever.
        if cached is not None and self._reservation is not None and self._reservation.region.overlaps(cached.slot):
            return None
        return cached

    def share(self, stream: Stream, slot: Slot) -> None:
        """A stream reads what was allocated to another. It counts as if it had been allocated to it alone."""
        self._cache.acquire(slot)
        self._readers[slot] = self._readers.get(slot, 0) + 1
        stream.held_nbytes += slot.nbytes

    def release(self, stream: Stream, slot: Slot) -> None:
        """The stream reads the slot no more; it is free if this was the last reader and the cache does not keep it."""
        if slot.memory != ARENA:
            if stream.memory is not None:
                stream.memory.release(slot)
            return
        stream.held_nbytes -= slot.nbytes
        self._readers[slot] -= 1
        if self._readers[slot]:
            return
        del self._readers[slot]
        for free in self._cache.release(slot):
            self.arena.release(free)

    def _reclaim(self, stream: Stream, batch: Batch) -> None:
        """Drop a batch that its trainer does not read: its key waits again, before the others of that trainer."""
        stream.forget(batch)
        self.release(stream, batch.slot)
        stream.waiting.appendleft(batch.want)
        refund(stream, batch.want)
        self.reclaimed += 1
