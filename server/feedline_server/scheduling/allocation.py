"""Who gets memory of the arena, and from whom it is taken when it is short.

A key whose turn it is gets its slot in bounded time, however large it is. What stalled readers hold is dropped for it;
where others still have to be sent what they hold, a region is reserved for it, and the others go on beside that. A slot
may have several readers. It is free when the last of them has left it and the cache does not keep it. Not locked: the
scheduler calls all of this under its own lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.scheduling.cache import KEPT_PART, BatchCache, CachedBatch
from feedline_server.scheduling.fairness import choose_victim, cost, is_stalled
from feedline_server.scheduling.stream import Batch, Stream, Want
from feedline_wire.key import Key
from feedline_wire.tensors import Layout


@dataclass(frozen=True, slots=True)
class Reservation:
    """A region of the arena where nothing more is lent until `want` fits."""

    stream: Stream
    want: Want
    region: Slot

    def is_needed(self, now: float) -> bool:
        """Its stream still waits for this key, and reads."""
        stream = self.stream
        is_next = bool(stream.waiting) and stream.waiting[0] is self.want
        return is_next and not stream.closed and not is_stalled(stream, now)


class Allocator:
    """Lends the arena to streams."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.reclaimed = 0
        """Batches dropped unsent because their trainer did not read and another needed the room."""
        self._reservation: Reservation | None = None
        self._readers: dict[Slot, int] = {}  # of every slot lent and not kept
        self._cache = BatchCache(arena.nbytes // KEPT_PART)

    def __repr__(self) -> str:
        return f"<Allocator {self.arena!r} reserved={self._reservation.region if self._reservation else None}>"

    @property
    def is_short(self) -> bool:
        """A key waits for memory."""
        return self._reservation is not None

    @property
    def kept_nbytes(self) -> int:
        """Bytes of batches that nobody reads, kept for whoever wants them next."""
        return self._cache.idle_nbytes

    def allocate(
        self, stream: Stream, want: Want, streams: Sequence[Stream], now: float, *, is_placed: bool = False
    ) -> Slot | None:
        """A slot for the key whose turn it is; None if it has to wait until others have been sent.

        It is in the trainer's own memory where there is one with room, unless others want such keys too: what lies
        there is that trainer's alone.
        """
        if stream.memory is not None and is_placed and not self.is_shared(want.key):
            placed = stream.memory.allocate(want.nbytes)
            if placed is not None:
                return placed
        kept = self._reservation
        if kept is not None and not kept.is_needed(now):
            kept = self._reservation = None
        outside = kept.region if kept is not None and kept.want is not want else None
        while (slot := self.arena.allocate(want.nbytes, outside=outside)) is None:
            if (unread := self._cache.evict()) is not None:
                self.arena.release(unread)
                continue
            given = choose_victim(streams, now)
            if given is None:
                # It keeps a place, and others go on beside it: passing it over would starve large batches for ever, and
                # if all waited with it, all would wait for the slowest reader.
                if kept is None:
                    self._reservation = Reservation(stream, want, self.arena.emptiest(want.nbytes))
                return None
            self._reclaim(*given)
        if outside is None:
            self._reservation = None
        self._readers[slot] = 1
        stream.held_nbytes += slot.nbytes
        return slot

    def join(self, stream: Stream, slot: Slot) -> None:
        """A stream takes part in what was lent to another. It counts for it as if it had been lent to it alone."""
        self._cache.acquire(slot)
        self._readers[slot] = self._readers.get(slot, 0) + 1
        stream.held_nbytes += slot.nbytes

    def is_shared(self, key: Key) -> bool:
        """Somebody was given this key before, or several are seen to want keys of its kind."""
        return self._cache.is_shared(key)

    def note_given(self, key: Key) -> None:
        """A stream gets this key, shared or not; only of keys that may be shared."""
        self._cache.note_given(key)

    def find(self, key: Key) -> CachedBatch | None:
        """A finished batch that somebody reads, or that is kept; `join` its slot."""
        cached = self._cache.find(key)
        if cached is not None and self._reservation is not None and self._reservation.region.overlaps(cached.slot):
            # One reader after the other would keep whoever waits for this region waiting for ever.
            return None
        return cached

    def finished(self, key: Key, slot: Slot, layout: Layout) -> None:
        """A batch lies in its slot, for whoever wants it."""
        self._cache.put(key, slot, layout)

    def release(self, stream: Stream, slot: Slot) -> None:
        """What was lent to a stream is no longer read by it; the slot is free if it was the last and it is not kept."""
        if slot.memory != ARENA:
            if stream.memory is not None:
                stream.memory.release(slot)
            return
        stream.held_nbytes -= slot.nbytes
        self._readers[slot] -= 1
        if self._readers[slot]:
            return
        del self._readers[slot]
        if not self._cache.leave(slot):
            self.arena.release(slot)
        while self._cache.is_overfull and (unread := self._cache.evict()) is not None:
            self.arena.release(unread)

    def drop(self, stream: Stream, batch: Batch) -> None:
        """Forget a batch that is ready, or being sent while the sender waits for the network."""
        if batch in stream.sending:
            stream.sending.remove(batch)
        else:
            stream.ready.remove(batch)
        self.release(stream, batch.slot)

    def _reclaim(self, stream: Stream, batch: Batch) -> None:
        """Drop a batch that its trainer does not read: its key waits again, before the others of that trainer."""
        self.drop(stream, batch)
        stream.waiting.appendleft(batch.want)
        stream.virtual_time -= cost(batch.want)
        self.reclaimed += 1
