"""One trainer's stream: what it wants, what is being assembled for it, what is ready, what is being sent.

All of it is changed by scheduler alone, under scheduler's lock; `changed` is a condition on that lock that the stream's
sender waits on.
"""

import threading
from collections import deque
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
    """A key the trainer asked for at `since`, under its own ticket; `nbytes` is what the batch takes."""

    ticket: int
    key: Key
    nbytes: int
    since: float


@dataclass(frozen=True, slots=True)
class Batch:
    """An assembled batch in its slot."""

    want: Want
    layout: Layout
    slot: Slot

    @property
    def ticket(self) -> int:
        """The trainer's name for it."""
        return self.want.ticket

    @property
    def nbytes(self) -> int:
        """Of its body."""
        return self.layout.nbytes

    @property
    def unsent_nbytes(self) -> int:
        """Bytes that its sender has to move; what lies in the trainer's memory is there already."""
        return self.nbytes if self.slot.memory == ARENA else 0


@dataclass(frozen=True, slots=True)
class FileBatch:
    """A batch that nobody assembles: it will be sent from where its rows lie, and takes nothing until then."""

    want: Want
    scattering: ZeroCopySource

    @property
    def ticket(self) -> int:
        """The trainer's name for it."""
        return self.want.ticket

    @property
    def nbytes(self) -> int:
        """Of its body."""
        return self.want.nbytes

    @property
    def unsent_nbytes(self) -> int:
        """Bytes that its sender has to move."""
        return self.nbytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no batch for this ticket, and why."""

    ticket: int
    error: FeedlineError

    @property
    def unsent_nbytes(self) -> int:
        """None: it is a few words."""
        return 0


Delivery = Batch | FileBatch | Refusal


@dataclass(eq=False, slots=True)
class Stream:
    """A stream's books."""

    peer: str
    changed: threading.Condition
    caller: Caller = ANYBODY
    memory: TrainerMemory | None = None
    """The trainer's own, if it is on this host: batches are assembled right there, and take nothing of the arena."""
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
    """What its batches cost so far on the fair clock: whoever has the least goes first."""
    batches: int = 0
    nbytes: int = 0
    is_checksummed: bool = False
    """Every message of the stream ends with a checksum; said by its first, before anything is sent."""
    closed: bool = False
    wants_ended: bool = False
    """The trainer has said that it will want nothing more."""
    error: FeedlineError | None = None
    """Why the stream was ended by the loader."""

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
    def has_ready_batch(self) -> bool:
        """A batch in the arena waits for its sender."""
        return any(isinstance(delivery, Batch) and delivery.slot.memory == ARENA for delivery in self.ready)

    @property
    def unsent(self) -> list[Batch]:
        """Batches whose slots nobody reads or writes at this moment, as far as they are ready or the sender waits."""
        ready = [delivery for delivery in self.ready if isinstance(delivery, Batch)]
        return ready if self.unread_since is None else [*self.sending, *ready]
