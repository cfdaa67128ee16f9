"""A batch that was asked for, what became of it, and the record of its being asked of one loader.

A pending batch has one outcome: the first that any loader gives. Others that were asked need not
answer.
"""

import math
from dataclasses import dataclass

from feedline.connection.buffers import Received
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key


@dataclass(eq=False, slots=True)
class PendingBatch:
    """A key that was asked for, and what became of it. Changed by the fleet alone, under its lock."""

    ticket: int
    key: Key
    nbytes: int
    """Expected until the batch is there, then what it takes."""
    outcome: Received | FeedlineError | None = None
    took_s: float = 0.0
    """From asking the loader that answered to its answer."""
    asked: int = 0
    """Loaders at which it is in flight: mostly one; two if the first is late; none while it waits to be placed."""
    refusal: FeedlineError | None = None
    """The last one."""
    again_at: float = math.inf
    """When loaders that refused it are asked again."""
    is_awaited: bool = False
    """A thread waits for the outcome, or did."""

    def __repr__(self) -> str:
        outcome = "pending" if self.outcome is None else "ready" if self.is_ready else repr(self.outcome)
        return f"<PendingBatch {self.key} {outcome}>"

    @property
    def is_ready(self) -> bool:
        """The batch is there."""
        return isinstance(self.outcome, Received)


@dataclass(eq=False, slots=True)
class InFlight:
    """A pending batch at one loader, under its ticket."""

    pending: PendingBatch
    at: float
    """When it was asked for."""
    nbytes: int
    """As expected then: what it counts for in the loader's books."""
    was_alone: bool
    """The loader owed nothing else, so the time it takes is the line's and not the queue's."""
