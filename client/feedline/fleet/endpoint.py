"""One loader as a fleet sees it: its state, the table of what each event makes of that, its books; and who is asked.

Values and decisions. The tracker changes the books, under the fleet's lock; nothing here waits, logs or does I/O.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from operator import attrgetter

from feedline.connection.connection import Connection
from feedline.connection.description import Description
from feedline.connection.events import SameLoader
from feedline.connection.outbox import Outbox
from feedline.fleet.rates import RateEstimator
from feedline.fleet.requests import InFlight, PendingBatch
from feedline_wire.errors import FeedlineError, LoaderDraining, LoaderUnavailable
from feedline_wire.key import Key

CONFIRM_S = 0.05
"""Between finding a loader silent and acting on it. When this process itself stood still (a garbage collection, a long
call that holds the GIL, a laptop that slept) every loader looks silent, until its thread has run again."""

NEARLY = 1.5
"""Loaders that are expected to answer within half as much time again as the best count as equally good. Otherwise the
noise in what was learnt would let one of two equal loaders do all the work while there is little of it."""

UNPROVEN = 2
"""Keys that a loader has at once until it has answered one, where others have. It may be full and say so only then, or
be stopped; the rest of the window should not wait for that."""

BROKEN_TOLD = 3
"""Connections in a row that broke before a batch was whole, from which on an error says so; one or two are a restart.
"""

FEW = 4
"""Loaders that owe small batches at a time, as long as that is enough. What comes from one loader comes together: small
batches of 64 loaders, one by one, cost a trainer eight times the CPU of those of four (docs/autoscale.md)."""

SMALL_NBYTES = 64 << 10
"""Of a batch: with larger ones, bytes cost more than messages."""

QUICK_S = 0.005
"""FEW loaders that owe the usual sixteen batches and answer within this give 3,200 a second, all that one takes."""

SOON_S = 0.5
"""The same for a trainer whose batches are there before it asks for them, but for a few now and then (`Supply`)."""

MANY = 16
"""Of more loaders than this so many are compared for a batch, others for each: the best of several is nearly as good as
the best of all (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing). From here on small batches are
asked of the same few again and again, and the streams of the others end until they are wanted."""

SUPERSEDED_REMEMBERED = 1024
"""Tickets that may still be answered, of one stream: as many as a loader lets it want at once."""


class State(StrEnum):
    """What a loader is to this trainer."""

    AWAY = "away"
    """Not connected: unreachable, busy or not asked yet. Tried again and again."""
    REFUSED = "refused"
    """Not connected, for a reason that does not pass by itself. Tried again as well."""
    SAME_LOADER = "same loader"
    """Another connection goes to the same loader; this one waits until that is lost."""
    CONNECTED = "connected"
    """The only state in which it gets keys."""
    DRAINING = "draining"
    """It is going away and may not answer what it has, which is asked of others at once."""
    LEAVING = "leaving"
    """The target no longer names it: it answers what it has, and goes."""
    LEFT = "left"
    """It belongs to the fleet no longer."""


class Event(Enum):
    """What happens to a loader."""

    JOINED = auto()
    DRAINING = auto()
    LOST = auto()
    REFUSED = auto()
    DOUBLED = auto()
    """Lost, because another connection goes to the same loader."""
    UNNAMED = auto()
    """The target has not named its address for long."""
    NAMED = auto()
    IDLE = auto()
    """It owes no batch that is still to come."""


def _table() -> dict[State, dict[Event, State]]:
    away, refused, double, connected, draining, leaving, left = State
    rows = {
        #          JOINED     DRAINING  LOST  REFUSED  DOUBLED UNNAMED   NAMED      IDLE
        away:      (connected, away,     away, refused, double, left,     away,      away),
        refused:   (connected, refused,  away, refused, double, left,     refused,   refused),
        double:    (connected, double,   away, refused, double, left,     double,    double),
        connected: (connected, draining, away, refused, double, leaving,  connected, connected),
        draining:  (connected, draining, away, refused, double, draining, draining,  draining),
        leaving:   (leaving,   draining, left, left,    left,   leaving,  connected, left),
    }  # fmt: skip
    return {state: dict(zip(Event, row, strict=True)) for state, row in rows.items()}


AFTER = _table()
"""The state after an event, by the state before it. Nothing happens any more to one that was left."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """The books of one connection."""

    connection: Connection
    state: State = State.AWAY
    description: Description | None = None
    """None while it is not connected."""
    outbox: Outbox | None = None
    drained: str = ""
    """The loader (its replica id) here that is going away. It describes itself until it is gone."""
    unnamed_since: float | None = None
    """Since when its address was not named where it had been."""
    reason: FeedlineError | None = None
    """Why it is, or last was, not connected."""
    is_streaming: bool = False
    """It was asked for something since it was connected, or since its stream came to rest: the stream is open."""
    tie: float = 0.0
    """Which of several is asked that are equal in everything else: another one by each trainer."""
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    """What it owes, by ticket, oldest first."""
    nbytes: int = 0
    """Of what is in flight."""
    in_vain: int = 0
    """How many of them another loader has answered: not for their batches are they left, but for its first word."""
    refused: set[int] = field(default_factory=set)
    """Tickets that it refused and another loader may answer, since it was connected."""
    superseded: set[int] = field(default_factory=set)
    """Tickets that another loader has answered, and whose batch may be on its way from here."""
    rate: RateEstimator = field(default_factory=RateEstimator)
    heard_at: float = 0.0
    """When anything last came from it."""
    answered_at: float = 0.0
    owing_since: float = 0.0
    """When it began to owe anything, if it does."""
    suspected_at: float | None = None
    """When it was first found silent, if it still is."""
    most: float = math.inf
    """Keys that it has at once. What breaks twice in a row before a batch was whole has half of what it owed from then
    on at every break, and one more for each answer since: what is cut again and again is asked batch by batch."""
    broken: int = 0
    """Connections in a row that broke while it owed batches, before one was whole."""
    renewed: int = 0
    """How often its stream was given up since it last gave a sign of life."""
    longest_gap_s: float = 0.0
    """Between two signs of life, since its last answer."""
    asked: int = 0
    """Keys it was asked for."""
    answered: int = 0
    """Of these, answered first."""
    duplicates: int = 0
    """Answers that came when another loader had answered. Counted by its connection's thread, without the lock."""
    has_answered: bool = False
    """Since it was connected: what is lost without is no news, it never was of use."""
    refusal_logged: str = ""
    """What was last logged about its refusing to serve this trainer."""

    @property
    def address(self) -> str:
        """Where it is."""
        return self.connection.address

    @property
    def is_connected(self) -> bool:
        """It is there, whether it gets new keys or not."""
        return self.description is not None

    @property
    def is_idle(self) -> bool:
        """It owes no batch that is still to come."""
        return len(self.in_flight) == self.in_vain

    @property
    def last_words(self) -> str:
        """Where it is and, if it is not connected, why, as far as is known."""
        if self.is_connected:
            return self.address
        words = "no answer yet" if self.reason is None else str(self.reason)
        words = words if self.address in words else f"{self.address}: {words}"
        if self.broken >= BROKEN_TOLD:
            words += (
                f" (connected {self.broken} times, and lost each time before one batch was whole: something on the way "
                f"cuts connections, or the loader ends; look at what is between, or make batches smaller)"
            )
        return words

    def can_take(self, pending: PendingBatch) -> bool:
        """It may be asked for this now."""
        there = self.description
        return (
            self.state is State.CONNECTED
            and there is not None
            and len(self.in_flight) < min(self.most, there.max_window)
            and pending.ticket not in self.refused
            and pending.ticket not in self.in_flight
            and there.may_give(pending.key, pending.nbytes)
        )

    def may_rest(self, endpoints: Sequence["Endpoint"]) -> bool:
        """Its stream may end until something is wanted of it: of many loaders, all but a few.

        Of few loaders streams stay open, so that nothing is opened anew after each pause of a training.
        """
        return (
            len(endpoints) > MANY
            and self.state is State.CONNECTED
            and not self.in_flight
            and sum(one.is_streaming for one in endpoints) > FEW
        )

    def refusal(self, key: Key, nbytes: int) -> FeedlineError | None:
        """Why it will not answer a key, whose batch takes so much, as far as is known; None if it may."""
        if self.description is None:
            return None if isinstance(self.reason, LoaderUnavailable) else self.reason
        return self.description.refusal(key, nbytes, self.address)

    def silent_s(self, now: float) -> float:
        """How long it has owed an answer without a sign of life."""
        return now - max(self.heard_at, self.owing_since) if self.in_flight else 0.0

    def expected_s(self, nbytes: int, now: float) -> float:
        """How long it takes for so many bytes after what it owes; inf while nothing is known."""
        rate = self.rate.bytes_per_s(now)
        return (self.nbytes + nbytes) / rate if rate else math.inf

    def is_surely_silent(self, now: float, after_s: float) -> bool:
        """It was silent for too long, and was found so before; that it was found so now is noted."""
        if self.silent_s(now) <= after_s:
            return False
        if self.suspected_at is None:
            self.suspected_at = now
        return now - self.suspected_at >= CONFIRM_S

    def heard(self, now: float) -> None:
        """It gave a sign of life. On its connection's thread, which alone changes these; without the lock."""
        self.longest_gap_s = max(self.longest_gap_s, self.silent_s(now))
        self.heard_at = now
        self.suspected_at = None
        self.renewed = 0

    def take(self, pending: PendingBatch, now: float) -> None:
        """Note that it is asked for this."""
        was_alone = not self.in_flight
        if was_alone:
            self.owing_since = now
        self.is_streaming = True
        self.in_flight[pending.ticket] = InFlight(pending, now, pending.nbytes, was_alone)
        self.nbytes += pending.nbytes
        self.asked += 1
        pending.asked += 1

    def release(self, ticket: int) -> InFlight | None:
        """Note that it owes this no longer; None if it did not."""
        asked = self.in_flight.pop(ticket, None)
        if asked is not None:
            self.nbytes -= asked.nbytes
            asked.pending.asked -= 1
        return asked

    def reset(self) -> list[PendingBatch]:
        """Note that its connection begins or ends: it owes nothing. What is in flight nowhere else."""
        lost = []
        for asked in self.in_flight.values():
            asked.pending.asked -= 1
            if asked.pending.outcome is None and not asked.pending.asked:
                lost.append(asked.pending)
        self.is_streaming = False
        self.in_flight, self.refused, self.superseded = {}, set(), set()
        self.nbytes = self.in_vain = 0
        self.suspected_at = None
        return lost

    def breaks(self, lost: int) -> None:
        """Note that its connection broke, and that nobody else was asked for so many batches that it owed."""
        if lost:
            self.broken += not self.has_answered
            if self.broken > 1 or self.most < math.inf:
                self.most = max(lost // 2, 1)

    def supersede(self, ticket: int) -> None:
        """Another loader answered what is in flight here."""
        if len(self.superseded) >= SUPERSEDED_REMEMBERED:
            self.superseded.clear()
        self.superseded.add(ticket)

    def note_duplicate(self, ticket: int) -> None:
        """Something of an answer came that another loader has given: it is counted once. On the connection's thread."""
        if ticket in self.superseded:
            self.superseded.discard(ticket)
            self.duplicates += 1


_ANSWERED_AT, _LEAST = attrgetter("answered_at"), attrgetter("nbytes", "asked", "tie")


def choose(
    endpoints: Sequence[Endpoint], pending: PendingBatch, *, now: float, silent_after_s: float, is_ample: bool = False
) -> Endpoint | None:
    """Who is asked: of those that can be and gave a sign of life lately, the one expected to answer first.

    `is_ample`: batches are there before they are asked for, and no loader has to be quick.
    """
    if len(endpoints) > FEW and pending.nbytes <= SMALL_NBYTES:
        few = [endpoint for endpoint in endpoints if endpoint.in_flight]
        if len(few) < FEW and len(endpoints) > MANY:
            few = sorted((one for one in endpoints if one.is_streaming), key=_ANSWERED_AT)[-FEW:]
        if len(few) >= FEW:
            found = _of_these(few, pending, now, silent_after_s)
            if found is not None and found.expected_s(pending.nbytes, now) <= (SOON_S if is_ample else QUICK_S):
                return found
    if len(endpoints) > MANY:
        begin = pending.ticket * MANY % len(endpoints)
        some = (*endpoints[begin : begin + MANY], *endpoints[: max(begin + MANY - len(endpoints), 0)])
        if (found := _of_these(some, pending, now, silent_after_s)) is not None:
            return found
    return _of_these(endpoints, pending, now, silent_after_s)


def _of_these(
    endpoints: Iterable[Endpoint], pending: PendingBatch, now: float, silent_after_s: float
) -> Endpoint | None:
    able = [endpoint for endpoint in endpoints if endpoint.can_take(pending)]
    if len(able) <= 1:
        return able[0] if able else None
    awake = [endpoint for endpoint in able if endpoint.silent_s(now) <= silent_after_s]
    return _soonest(awake or able, pending.nbytes, now)


def choose_second(
    endpoints: Iterable[Endpoint], pending: PendingBatch, *, since: float, now: float, silent_after_s: float
) -> Endpoint | None:
    """Who is asked as well for what is late elsewhere: who owes nothing, or gave a sign of life since it was asked for.

    Where all are slow, the disk that they share may be, and asking more of it does not help.
    """
    quick = [
        endpoint
        for endpoint in endpoints
        if (not endpoint.in_flight or (endpoint.heard_at > since and endpoint.silent_s(now) <= silent_after_s))
        and endpoint.can_take(pending)
    ]
    return _soonest(quick, pending.nbytes, now)


def _soonest(able: Sequence[Endpoint], nbytes: int, now: float) -> Endpoint | None:
    """The one that is expected to have answered so much more first.

    Of several that are nearly as good, the one that owes the least, then the one that was asked the least.
    """
    if any(endpoint.has_answered for endpoint in able):
        able = [endpoint for endpoint in able if endpoint.has_answered or len(endpoint.in_flight) < UNPROVEN]
    if len(able) <= 1:
        return able[0] if able else None
    rates = [endpoint.rate.bytes_per_s(now) for endpoint in able]
    best = max((rate for rate in rates if rate), default=1.0)  # a loader that is new is taken for a good one
    expected_s = [(endpoint.nbytes + nbytes) / (rate or best) for endpoint, rate in zip(able, rates, strict=True)]
    nearly = NEARLY * min(expected_s)
    return min(
        (endpoint for endpoint, seconds in zip(able, expected_s, strict=True) if seconds <= nearly),
        key=_LEAST,
    )


def useless(
    endpoints: Iterable[Endpoint], new: Endpoint, description: Description
) -> SameLoader | LoaderDraining | None:
    """Why a loader that describes itself so on a new connection is not to be asked on it; None if it may be."""
    for other in endpoints:
        if other is new or other.description is None or other.description.replica != description.replica:
            continue
        if other.suspected_at is None:  # where nothing comes on the other, this is another way to the same loader
            return SameLoader(f"{new.address}: the same loader as at {other.address}")
    if description.replica == new.drained:
        return LoaderDraining(f"{new.address}: the loader is going away")
    return None


def lost_by(reason: FeedlineError) -> Event:
    """What it is to a loader that its connection ended for this reason."""
    if isinstance(reason, SameLoader):
        return Event.DOUBLED
    return Event.LOST if isinstance(reason, LoaderUnavailable) else Event.REFUSED
