"""Batches that lie finished in the arena, by key: whoever wants the same one is given it, and nothing is assembled.

The law: what nobody reads is kept only while trainers are seen to want the same keys, never beyond a stated part of
the arena, and goes as soon as anybody needs the memory. A batch is a pure function of its key, so giving one up costs
an assembly and nothing else.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from feedline_server.memory.arena import Slot
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEPT_PART = 2
"""At most one in so many bytes of the arena is kept for nobody in particular. The other half is what a single trainer
may hold (turns.share_of), so keeping takes nothing from anybody."""


def capacity(arena_nbytes: int) -> int:
    """Bytes of an arena that may be kept."""
    return arena_nbytes // KEPT_PART


REMEMBERED = 4096
"""Keys remembered beyond their batches, to see that they are wanted again: 1.5 MB."""

KEEP_ON = 512
"""Batches of one order that are kept after one of them was wanted again. Trainers of one sweep want each of them; ranks
of one training, and trainers with seeds of their own, never want one twice, and then nothing is kept: the slot used
last is used next, while the processor's cache still has it."""

Family: TypeAlias = tuple[str, bytes, str, str, int]
"""What trainers have in common that may want the same keys: a key but its place."""


@dataclass(eq=False, slots=True)
class _Sharing:
    """A family whose keys are wanted by several."""

    left: int
    """Batches that are kept yet, if none of them is wanted again."""
    times: int
    """How often a key was given: what has been given so often is not waited for any more."""


@dataclass(frozen=True, slots=True)
class CachedBatch:
    """A finished batch."""

    key: Key
    slot: Slot
    layout: Layout


class BatchCache:
    """Finished batches. `put`, `find`; `keep` and `evict` those that nobody reads. Not locked."""

    def __init__(self, kept_nbytes: int) -> None:
        self._most_nbytes = kept_nbytes
        self._by_key: dict[Key, CachedBatch] = {}
        self._by_slot: dict[Slot, CachedBatch] = {}
        self._idle: OrderedDict[Slot, None] = OrderedDict()  # the longest unread first
        self._given: OrderedDict[Key, int] = OrderedDict()  # how often, the last first given last
        self._sharing: dict[Family, _Sharing] = {}
        self.idle_nbytes = 0
        """Kept, and read by nobody."""

    def __repr__(self) -> str:
        return f"<BatchCache batches={len(self._by_key)} idle={self.idle_nbytes}/{self._most_nbytes}>"

    def find(self, key: Key) -> CachedBatch | None:
        """The batch, if it lies here; `acquire` its slot to read it."""
        return self._by_key.get(key)

    def is_shared(self, key: Key) -> bool:
        """Somebody was given this key before, or several are seen to want keys of its kind."""
        return key in self._given or _family(key) in self._sharing

    def acquire(self, slot: Slot) -> None:
        """Somebody reads it, again or beside others."""
        if slot in self._idle:
            del self._idle[slot]
            self.idle_nbytes -= slot.nbytes

    def note_request(self, key: Key) -> None:
        """A stream gets this key, whether it is assembled, is being assembled or lies here."""
        times = self._given[key] = self._given.get(key, 0) + 1
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        if times > 1:
            family = _family(key)
            known = self._sharing.get(family)
            if known is None and len(self._sharing) >= REMEMBERED:  # seeds are the trainers' to choose
                self._sharing.clear()
            self._sharing[family] = _Sharing(KEEP_ON, max(times, known.times if known else 0))

    def put(self, key: Key, slot: Slot, layout: Layout) -> None:
        """A batch is finished, and somebody reads it."""
        if key in self._by_key:  # assembled twice, because the first may get no more readers
            return
        self._by_key[key] = self._by_slot[slot] = CachedBatch(key, slot, layout)
        family = _family(key)
        if (sharing := self._sharing.get(family)) is not None:
            sharing.left -= 1
            if not sharing.left:
                del self._sharing[family]

    def keep(self, slot: Slot) -> bool:
        """Nobody reads it any more: whether it lies on for whoever wants it next. If not it is gone from here."""
        cached = self._by_slot.get(slot)
        if cached is None:
            return False
        sharing = self._sharing.get(_family(cached.key))
        is_kept = (
            sharing is not None and self._given.get(cached.key, 0) < sharing.times and slot.nbytes <= self._most_nbytes
        )
        if is_kept:
            self._idle[slot] = None
            self.idle_nbytes += slot.nbytes
        else:
            self._forget(cached)
        return is_kept

    @property
    def is_overfull(self) -> bool:
        """More is kept than may be: one is to be given up."""
        return self.idle_nbytes > self._most_nbytes

    def evict(self) -> Slot | None:
        """One that nobody reads, the longest unread first; it is gone from here. None if there is none."""
        if not self._idle:
            return None
        slot, _ = self._idle.popitem(last=False)
        self.idle_nbytes -= slot.nbytes
        self._forget(self._by_slot[slot])
        return slot

    def _forget(self, cached: CachedBatch) -> None:
        del self._by_slot[cached.slot]
        del self._by_key[cached.key]


def _family(key: Key) -> Family:
    return (key.dataset, key.fingerprint, key.view, key.order, key.seed)
