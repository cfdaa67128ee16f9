"""What happens on a connection, as its thread tells the fleet: one small value a meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from feedline.connection.buffers import Received
from feedline.connection.description import Description
from feedline.connection.outbox import Outbox
from feedline_wire.errors import FeedlineError, LoaderUnavailable

Answer: TypeAlias = tuple[int, Received | FeedlineError]
"""(ticket, what became of it)."""


class SameLoader(LoaderUnavailable):
    """Another connection goes to the same loader; this one is tried again later, or when the other is lost."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The loader described itself: keys may be put in the outbox, also those that were in an outbox before."""

    description: Description
    outbox: Outbox


@dataclass(frozen=True, slots=True)
class Heard:
    """The loader gave a sign of life: something of an answer came."""


@dataclass(slots=True)  # made for every batch: frozen would cost each 1 us
class Answered:
    """These tickets have an outcome, which is a sign of life as well."""

    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Draining:
    """The loader takes no new keys; some of those it has may still be answered."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The loader cannot be reached, or refuses, and why; it is tried again."""

    reason: FeedlineError


ConnectionEvent: TypeAlias = Joined | Heard | Answered | Draining | Lost

HEARD = Heard()
"""Made once: it happens for every message."""
