"""Finished batches in the arena, by key: a stream that wants the same one is given it, and nothing is assembled.

A batch that no stream reads is kept only while streams are seen to want the same keys, never beyond a part of the
arena, and is the first to go when memory is needed: a batch is a pure function of its key, so evicting one costs an
assembly and nothing else. Not an LRU over everything: keeping what is not wanted again walks through cold memory, which
cost up to 1.4 times the loader's CPU with four trainers of the same keys (docs/design.md).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from feedline_server.memory.arena import Slot
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEPT_PART = 2
"""At most one in so many bytes of the arena is kept for no stream. The other half is what a single stream may hold
(fairness.share_of), so keeping takes nothing from any."""

REMEMBERED = 4096
"""Keys remembered beyond their batches, to see that they are wanted again: 1.5 MB."""

KEEP_ON = 512
"""Batches of one order that are kept after one of them was wanted again. Trainers of one sweep want each of them; ranks
of one training, and trainers with seeds of their own, never want one twice, and then nothing is kept: the slot used
last is used next, while the processor's cache still has it."""

Family: TypeAlias = tuple[str, bytes, str, str, int]
"""What keys of one order have in common: dataset, fingerprint, view, order and seed."""


@dataclass(eq=False, slots=True)
class _Sharing:
    """A family whose keys several streams want."""

    left: int
    """Batches that are kept yet, if none of them is wanted again."""
    times: int
    """How often a key was wanted at most: by then every stream that wants it has it."""


@dataclass(frozen=True, slots=True)
class CachedBatch:
    """A finished batch."""

    key: Key
    slot: Slot
    layout: Layout


class BatchCache:
    """`put` and `find` batches; `acquire` a slot to read it and `release` it after its last reader. Not locked."""

    def __init__(self, most_nbytes: int) -> None:
        self._most_nbytes = most_nbytes
        self._by_key: dict[Key, CachedBatch] = {}
        self._by_slot: dict[Slot, CachedBatch] = {}
        self._idle: OrderedDict[Slot, None] = OrderedDict()  # the longest unread first
        self._requests: OrderedDict[Key, int] = OrderedDict()  # how often each was wanted, the oldest first
        self._sharing: dict[Family, _Sharing] = {}
        self.idle_nbytes = 0
        """Bytes of batches that no stream reads."""

    def __repr__(self) -> str:
        return f"<BatchCache batches={len(self._by_key)} idle={self.idle_nbytes}/{self._most_nbytes}>"

    def note_request(self, key: Key) -> None:
        """A stream gets this key, whether it is assembled, is being assembled or lies here."""
        times = self._requests[key] = self._requests.get(key, 0) + 1
        if len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)
        if times > 1:
            family = _family(key)
            known = self._sharing.get(family)
            if known is None and len(self._sharing) >= REMEMBERED:  # seeds are the trainers' to choose
                self._sharing.clear()
            self._sharing[family] = _Sharing(KEEP_ON, max(times, known.times if known else 0))

    def is_shared(self, key: Key) -> bool:
        """A stream got this key before, or several are seen to want keys of its family."""
        return key in self._requests or _family(key) in self._sharing

    def find(self, key: Key) -> CachedBatch | None:
        """The batch, if it lies here; `acquire` its slot to read it."""
        return self._by_key.get(key)

    def put(self, key: Key, slot: Slot, layout: Layout) -> None:
        """A batch is finished, and a stream reads it."""
        if key in self._by_key:  # assembled twice: a reservation kept the first from getting more readers
            return
        self._by_key[key] = self._by_slot[slot] = CachedBatch(key, slot, layout)
        family = _family(key)
        if (sharing := self._sharing.get(family)) is not None:
            sharing.left -= 1
            if not sharing.left:
                del self._sharing[family]

    def acquire(self, slot: Slot) -> None:
        """A stream reads it, again or beside others."""
        if slot in self._idle:
            del self._idle[slot]
            self.idle_nbytes -= slot.nbytes

    def release(self, slot: Slot) -> list[Slot]:
        """No stream reads this slot any more: the slots that are free now, its own or those evicted to keep it."""
        cached = self._by_slot.get(slot)
        if cached is None or not self._is_worth_keeping(cached):
            self._forget(cached)
            return [slot]
        self._idle[slot] = None
        self.idle_nbytes += slot.nbytes
        free: list[Slot] = []
        while self.idle_nbytes > self._most_nbytes and (evicted := self.evict()) is not None:
            free.append(evicted)
        return free

    def evict(self) -> Slot | None:
        """Free the batch that is unread for the longest time; None if each is read."""
        if not self._idle:
            return None
        slot, _ = self._idle.popitem(last=False)
        self.idle_nbytes -= slot.nbytes
        self._forget(self._by_slot[slot])
        return slot

    def _is_worth_keeping(self, cached: CachedBatch) -> bool:
        """Another stream is likely to want it."""
        sharing = self._sharing.get(_family(cached.key))
        return sharing is not None and self._requests.get(cached.key, 0) < sharing.times

    def _forget(self, cached: CachedBatch | None) -> None:
        if cached is not None:
            del self._by_slot[cached.slot]
            del self._by_key[cached.key]


def _family(key: Key) -> Family:
    return (key.dataset, key.fingerprint, key.view, key.order, key.seed)
