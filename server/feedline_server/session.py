"""One trainer's stream: what it wants, what is being assembled for it, what is ready to be sent.

All of it is changed by dispatch alone, under dispatch's lock; `changed` is a condition on that lock that the stream's
sender waits on.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

from feedline_server.slots import Slot
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key
from feedline_wire.tensors import Layout


@dataclass(frozen=True, slots=True)
class Want:
    """A key the trainer asked for, under its own ticket; `nbytes` is what the batch takes."""

    ticket: int
    key: Key
    nbytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """An assembled batch in its slot."""

    ticket: int
    layout: Layout
    slot: Slot


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no batch for this ticket, and why."""

    ticket: int
    error: FeedlineError


Delivery = Batch | Refusal


@dataclass(eq=False, slots=True)
class Session:
    """A stream's books."""

    peer: str
    changed: threading.Condition
    waiting: deque[Want] = field(default_factory=deque)
    assembling: set[int] = field(default_factory=set)
    """Tickets."""
    ready: deque[Delivery] = field(default_factory=deque)
    lent: int = 0
    """Bytes of the arena it holds: assembling, ready and being sent."""
    served: float = 0.0
    """Bytes lent so far on the fair clock: whoever has the least goes first."""
    batches: int = 0
    nbytes: int = 0
    closed: bool = False
    wants_ended: bool = False
    """The trainer has said that it will want nothing more."""

    def __repr__(self) -> str:
        return (
            f"<Session {self.peer} waiting={len(self.waiting)} assembling={len(self.assembling)} "
            f"ready={len(self.ready)} sent={self.batches}>"
        )

    @property
    def unanswered(self) -> int:
        """Keys in its window."""
        return len(self.waiting) + len(self.assembling) + len(self.ready)
