"""Who gets memory of the arena, and from whom it is taken when it is short.

The law: a key whose turn it is gets its slot in bounded time, however large it is and whoever does not read. What deaf
trainers hold is dropped for it; where others still have to be sent what they hold, it keeps a region free, and
everybody else goes on beside that. A slot may have several readers, and is free when the last of them has left it and
it is not kept for the next. Not locked: dispatch calls all of this under its own lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.scheduling.cache import KEPT_PART, Lying, Shelf
from feedline_server.scheduling.fairness import cost, gives_way, is_deaf
from feedline_server.scheduling.stream import Batch, Session, Want
from feedline_wire.key import Key
from feedline_wire.tensors import Layout


@dataclass(frozen=True, slots=True)
class Reservation:
    """A region of the arena where nothing more is lent until `want` fits."""

    session: Session
    want: Want
    region: Slot

    def is_needed(self, now: float) -> bool:
        """Its stream still waits for this key, and reads."""
        session = self.session
        is_next = bool(session.waiting) and session.waiting[0] is self.want
        return is_next and not session.closed and not is_deaf(session, now)


class Lending:
    """Lends the arena to streams."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.reclaimed = 0
        """Batches dropped unsent because their trainer did not read and another needed the room."""
        self._reservation: Reservation | None = None
        self._readers: dict[Slot, int] = {}  # of every slot lent and not kept
        self._shelf = Shelf(arena.nbytes // KEPT_PART)

    def __repr__(self) -> str:
        return f"<Lending {self.arena!r} reserved={self._reservation.region if self._reservation else None}>"

    @property
    def is_short(self) -> bool:
        """A key waits for memory."""
        return self._reservation is not None

    @property
    def kept_nbytes(self) -> int:
        """Bytes of batches that nobody reads, kept for whoever wants them next."""
        return self._shelf.idle_nbytes

    def lend(
        self, session: Session, want: Want, sessions: Sequence[Session], now: float, *, is_placed: bool = False
    ) -> Slot | None:
        """A slot for the key whose turn it is; None if it has to wait until others have been sent.

        It is in the trainer's own memory where there is one with room, unless others want such keys too: what lies
        there is that trainer's alone.
        """
        if session.memory is not None and is_placed and not self.is_shared(want.key):
            placed = session.memory.lend(want.nbytes)
            if placed is not None:
                return placed
        kept = self._reservation
        if kept is not None and not kept.is_needed(now):
            kept = self._reservation = None
        outside = kept.region if kept is not None and kept.want is not want else None
        while (slot := self.arena.lend(want.nbytes, outside=outside)) is None:
            if (unread := self._shelf.give_up()) is not None:
                self.arena.take_back(unread)
                continue
            given = gives_way(sessions, now)
            if given is None:
                # It keeps a place, and others go on beside it: passing it over would starve large batches for ever, and
                # if all waited with it, all would wait for the slowest reader.
                if kept is None:
                    self._reservation = Reservation(session, want, self.arena.emptiest(want.nbytes))
                return None
            self._reclaim(*given)
        if outside is None:
            self._reservation = None
        self._readers[slot] = 1
        session.lent += slot.nbytes
        return slot

    def join(self, session: Session, slot: Slot) -> None:
        """A stream takes part in what was lent to another. It counts for it as if it had been lent to it alone."""
        self._shelf.take_up(slot)
        self._readers[slot] = self._readers.get(slot, 0) + 1
        session.lent += slot.nbytes

    def is_shared(self, key: Key) -> bool:
        """Somebody was given this key before, or several are seen to want keys of its kind."""
        return self._shelf.is_shared(key)

    def note_given(self, key: Key) -> None:
        """A stream gets this key, shared or not; only of keys that may be shared."""
        self._shelf.note_given(key)

    def find(self, key: Key) -> Lying | None:
        """A finished batch that somebody reads, or that is kept; `join` its slot."""
        lying = self._shelf.find(key)
        if lying is not None and self._reservation is not None and self._reservation.region.overlaps(lying.slot):
            # One reader after the other would keep whoever waits for this region waiting for ever.
            return None
        return lying

    def finished(self, key: Key, slot: Slot, layout: Layout) -> None:
        """A batch lies in its slot, for whoever wants it."""
        self._shelf.put(key, slot, layout)

    def take_back(self, session: Session, slot: Slot) -> None:
        """What was lent to a stream is no longer read by it; the slot is free if it was the last and it is not kept."""
        if slot.memory != ARENA:
            if session.memory is not None:
                session.memory.take_back(slot)
            return
        session.lent -= slot.nbytes
        self._readers[slot] -= 1
        if self._readers[slot]:
            return
        del self._readers[slot]
        if not self._shelf.leave(slot):
            self.arena.take_back(slot)
        while self._shelf.is_overfull and (unread := self._shelf.give_up()) is not None:
            self.arena.take_back(unread)

    def drop(self, session: Session, batch: Batch) -> None:
        """Forget a batch that is ready, or being sent while the sender waits for the network."""
        if batch in session.sending:
            session.sending.remove(batch)
        else:
            session.ready.remove(batch)
        self.take_back(session, batch.slot)

    def _reclaim(self, session: Session, batch: Batch) -> None:
        """Drop a batch that its trainer does not read: its key waits again, before the others of that trainer."""
        self.drop(session, batch)
        session.waiting.appendleft(batch.want)
        session.served -= cost(batch.want)
        self.reclaimed += 1
