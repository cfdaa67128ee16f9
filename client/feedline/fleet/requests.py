"""What is wanted: a key that was asked for, of whom, and what became of it.

The law: a want has one outcome, the first that anybody gives; whoever was asked beside is told that it is not needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from feedline.connection.buffers import Received
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key

if TYPE_CHECKING:
    from feedline.fleet.endpoint import Endpoint


class Asker(Protocol):
    """Who a key was wanted from: the fleet."""

    def wait(self, wanted: "PendingBatch", timeout_s: float) -> Received:
        """See `PendingBatch.result`."""
        ...

    def cancel(self, wanted: "Iterable[PendingBatch]") -> None:
        """See `PendingBatch.cancel`."""


class PendingBatch:
    """A key that was asked for, and what became of it."""

    __slots__ = (
        "_asker",
        "asked_of",
        "key",
        "nbytes",
        "outcome",
        "refusal",
        "refused_at",
        "refused_by",
        "ticket",
        "waiting",
    )

    def __init__(self, asker: "Asker", ticket: int, key: Key, nbytes: int) -> None:
        self._asker = asker
        self.ticket = ticket
        self.key = key
        self.nbytes = nbytes
        """Expected until it is there, then what it takes."""
        # The rest is the fleet's, and changed under its lock.
        self.outcome: Received | FeedlineError | None = None
        self.asked_of: tuple[Endpoint, ...] = ()
        """Who has it among its outstanding: mostly one, two if the first is late, none if nobody can take it."""
        self.refused_by: tuple[Endpoint, ...] = ()
        """Who said to ask another one, since it was connected."""
        self.refusal: FeedlineError | None = None
        """What the last of them said."""
        self.refused_at = 0.0
        self.waiting = 0

    def __repr__(self) -> str:
        outcome = "wanted" if self.outcome is None else "ready" if self.is_ready else repr(self.outcome)
        return f"<PendingBatch {self.key} {outcome}>"

    @property
    def is_ready(self) -> bool:
        """The batch is there."""
        return isinstance(self.outcome, Received)

    @property
    def has_failed(self) -> bool:
        """There will be no batch; ask again with a new want."""
        return isinstance(self.outcome, FeedlineError)

    def result(self, timeout_s: float) -> Received:
        """The batch; waits for it.

        Raises what the loader says is wrong with it; LoaderStalled or LoaderUnavailable when `timeout_s` have passed,
        after which it may be waited for again; Closed as soon as the fleet is closed or the want is cancelled.
        """
        return self._asker.wait(self, timeout_s)

    def cancel(self) -> None:
        """Want it no longer."""
        self._asker.cancel((self,))


@dataclass(eq=False, slots=True)
class InFlight:
    """A key at one loader, under the want's ticket."""

    wanted: PendingBatch
    at: float
    nbytes: int
    """As expected when it was asked for: what it counts for in the loader's books."""
    was_alone: bool
    """The loader owed nothing else, so the time it takes is the line's and not the queue's."""
    is_duplicate: bool = False
    """Something of an answer came after another loader's; it was counted."""
