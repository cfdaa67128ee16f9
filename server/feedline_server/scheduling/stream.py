"""One trainer's stream: the keys it wants, what is being assembled for it, what is ready and what is being sent.

The scheduler alone changes it, under its lock. `changed` is a condition on that lock; the stream's sender waits on it.
"""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from feedline_server.access.tokens import ANYBODY, Caller
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.memory.arena import ARENA, Slot
from feedline_server.memory.trainer import TrainerMemory
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key
from feedline_wire.tensors import Layout


@dataclass(frozen=True, slots=True)
class Want:
    """A key that the trainer asked for at `since`, under its own ticket; the batch takes `nbytes`."""

    ticket: int
    key: Key
    nbytes: int
    since: float


@dataclass(frozen=True, slots=True)
class _Wanted:
    want: Want

    @property
    def ticket(self) -> int:
        """The trainer's name for it."""
        return self.want.ticket


@dataclass(frozen=True, slots=True)
class Batch(_Wanted):
    """An assembled batch in its slot."""

    layout: Layout
    slot: Slot

    @property
    def nbytes(self) -> int:
        """Bytes of its body."""
        return self.layout.nbytes

    @property
    def is_in_arena(self) -> bool:
        """It lies in the loader's memory; else in the trainer's own."""
        return self.slot.memory == ARENA

    @property
    def unsent_nbytes(self) -> int:
        """Bytes that its sender has to move: none, if it lies in the trainer's memory."""
        return self.nbytes if self.is_in_arena else 0


@dataclass(frozen=True, slots=True)
class FileBatch(_Wanted):
    """A batch that is sent from the files where its rows lie: no worker assembles it, and it takes no memory."""

    source: ZeroCopySource

    @property
    def nbytes(self) -> int:
        """Bytes of its body, all of which its sender has to move."""
        return self.want.nbytes

    unsent_nbytes = nbytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no batch for this ticket, and why."""

    ticket: int
    error: FeedlineError
    unsent_nbytes: int = 0


Delivery = Batch | FileBatch | Refusal


@dataclass(eq=False, slots=True)
class Stream:
    """What the scheduler knows about one stream."""

    peer: str
    changed: threading.Condition
    caller: Caller = ANYBODY
    memory: TrainerMemory | None = None
    """The trainer's own, if it is on this host: batches are assembled there and take nothing of the arena."""
    sends_from_files: bool = False
    """It has a lane over which a batch can be sent from many places."""
    waiting: deque[Want] = field(default_factory=deque)
    assembling: set[int] = field(default_factory=set)
    """Tickets."""
    ready: deque[Delivery] = field(default_factory=deque)
    sending: list[Batch] = field(default_factory=list)
    """At the sender, which has not copied all of them out."""
    unread_since: float | None = None
    """When the network was given the frame that it has not taken yet; None while the sender is at work or waits."""
    held_nbytes: int = 0
    """Bytes of the arena it holds: assembling, ready and being sent."""
    virtual_time: float = 0.0
    """What its batches have cost; see fairness."""
    batches: int = 0
    nbytes: int = 0
    is_checksummed: bool = False
    """Every message of the stream ends with a checksum; its first message says so, before anything is sent."""
    closed: bool = False
    wants_ended: bool = False
    """The trainer has said that it will want nothing more."""
    error: FeedlineError | None = None
    """Why the loader ended the stream."""

    def __repr__(self) -> str:
        return (
            f"<Stream {self.peer} waiting={len(self.waiting)} assembling={len(self.assembling)} "
            f"ready={len(self.ready)} sent={self.batches}>"
        )

    @property
    def unanswered(self) -> int:
        """Keys in its window."""
        return len(self.waiting) + len(self.assembling) + len(self.ready)

    @property
    def unsent(self) -> list[Batch]:
        """Batches that nothing reads or writes now: while the sender waits for the network those being sent, then those
        ready."""
        ready = [delivery for delivery in self.ready if isinstance(delivery, Batch)]
        return ready if self.unread_since is None else [*self.sending, *ready]

    def deliver(self, delivery: Delivery) -> None:
        """Something is ready for the sender."""
        self.ready.append(delivery)
        self.changed.notify()

    def take(self, nbytes: int) -> list[Delivery]:
        """The next delivery, and as many more as fit into `nbytes` with it. Something must be ready."""
        taken: list[Delivery] = []
        while self.ready and (not taken or self.ready[0].unsent_nbytes <= nbytes):
            taken.append(self.ready.popleft())
            nbytes -= taken[-1].unsent_nbytes
        self.sending += [delivery for delivery in taken if isinstance(delivery, Batch)]
        return taken

    def cancel(self, tickets: Collection[int]) -> list[Batch]:
        """Forget keys, wherever they are but at the sender; the batches among them that were ready."""
        self.waiting = deque(want for want in self.waiting if want.ticket not in tickets)
        self.assembling.difference_update(tickets)
        cancelled = [delivery for delivery in self.ready if delivery.ticket in tickets]
        self.ready = deque(delivery for delivery in self.ready if delivery.ticket not in tickets)
        return [delivery for delivery in cancelled if isinstance(delivery, Batch)]

    def forget(self, batch: Batch) -> None:
        """One that is ready, or being sent, will not be sent."""
        if batch in self.sending:
            self.sending.remove(batch)
        else:
            self.ready.remove(batch)

    def drain(self) -> None:
        """Forget what was not begun, here or elsewhere."""
        self.waiting.clear()
        self.ready = deque(delivery for delivery in self.ready if not isinstance(delivery, FileBatch))
        self.changed.notify_all()

    def end(self, error: FeedlineError | None) -> list[Batch]:
        """Forget everything; the batches to release. What is just being copied is released by its sender."""
        self.closed, self.error = True, error
        unsent = self.unsent
        self.waiting.clear()
        self.assembling.clear()
        self.ready.clear()
        if self.unread_since is not None:
            self.sending.clear()
        self.changed.notify_all()
        return unsent
