"""The books of each loader of a fleet, and what is decided from them: who is asked, what a late reader is told.

Values and decisions. The tracker changes the books, under the fleet's lock; nothing here waits, logs or talks to
anybody.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from feedline.connection.connection import Connection, SameLoader
from feedline.connection.description import Description
from feedline.connection.outbox import Outbox
from feedline.fleet.rates import RateEstimator
from feedline.fleet.requests import InFlight, PendingBatch
from feedline_wire.errors import (
    FeedlineError,
    LoaderBusy,
    LoaderStalled,
    LoaderUnavailable,
    NotAllowed,
    NotTrusted,
)
from feedline_wire.key import Key

NEARLY = 1.5
"""Loaders that are expected to answer within half as much time again as the best count as equally good. Otherwise the
noise in what was learnt would let one of two equal loaders do all the work while there is little of it."""

UNPROVEN = 2
"""Keys that a loader has at once until it has answered one, where others have. It may be full and say so only then, or
be stopped; the rest of the window should not wait for that."""


class NotLetIn(LoaderUnavailable):
    """A refusal that may pass: one of the loaders let this trainer in before, so secrets may be under way."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """The books of one connection."""

    replica: Connection
    description: Description | None = None
    """None while it is not connected."""
    outbox: Outbox | None = None
    is_draining: bool = False
    drained: str = ""
    """The loader (its replica id) that said here that it is going away. It describes itself until it is gone."""
    is_leaving: bool = False
    """Its address is none of the target's any more: it gets no new keys, and goes when it owes nothing."""
    missing_since: float | None = None
    """Since when its address was not given where it had been."""
    reason: FeedlineError | None = None
    """Why it is, or last was, not connected."""
    outstanding: dict[int, InFlight] = field(default_factory=dict)
    """By ticket, oldest first."""
    nbytes: int = 0
    """Of the outstanding."""
    in_vain: int = 0
    """How many of them another loader has answered: not for their batches are they left, but for its first word."""
    superseded: set[int] = field(default_factory=set)
    """Tickets that were cancelled because another loader had answered, and whose batch may be on its way."""
    rate: RateEstimator = field(default_factory=RateEstimator)
    heard_at: float = 0.0
    """When anything last came from it."""
    answered_at: float = 0.0
    owing_since: float = 0.0
    """When it began to owe anything, if it does."""
    suspected_at: float | None = None
    """When it was first found silent, if it still is."""
    renewed: int = 0
    """How often its stream was given up since it last gave a sign of life."""
    longest_gap_s: float = 0.0
    """Between two signs of life, since its last answer."""
    asked: int = 0
    """Keys it was asked for."""
    answered: int = 0
    """Of these, answered first."""
    duplicates: int = 0
    """Answers that came when another loader had answered. Counted by its replica's thread alone, without the lock."""
    has_answered: bool = False
    """Since it was connected: what is lost without is no news, it never was of use."""
    refusal_said: str = ""
    """What was last logged about its refusing to serve this trainer."""

    @property
    def address(self) -> str:
        """Where it is."""
        return self.replica.address

    @property
    def is_connected(self) -> bool:
        """It may be asked."""
        return self.description is not None

    @property
    def is_double(self) -> bool:
        """Another connection goes to the same loader, and this one waits until that is lost."""
        return isinstance(self.reason, SameLoader)

    @property
    def last_words(self) -> str:
        """Where it is and why it is not connected, as far as is known."""
        words = str(self.reason) if self.reason is not None else "no answer yet"
        return words if self.address in words else f"{self.address}: {words}"

    def can_take(self, wanted: PendingBatch) -> bool:
        """It may be asked for this now."""
        return (
            self.description is not None
            and not self.is_draining
            and not self.is_leaving
            and len(self.outstanding) < self.description.max_window
            and self not in wanted.refused_by
            and self not in wanted.asked_of
            and self.description.refusal(wanted.key, wanted.nbytes, self.address) is None
        )

    def refusal(self, key: Key, nbytes: int) -> FeedlineError | None:
        """Why it will not answer a key, whose batch takes so much, as far as can be said now; None if it may."""
        if self.description is None:
            return None if isinstance(self.reason, LoaderUnavailable) else self.reason
        return self.description.refusal(key, nbytes, self.address)

    def silent_s(self, now: float) -> float:
        """How long it has owed an answer without a sign of life."""
        return now - max(self.heard_at, self.owing_since) if self.outstanding else 0.0

    def note_duplicate(self, ticket: int) -> None:
        """Something of an answer came that another loader has given: it is counted once. On the replica's thread."""
        asked = self.outstanding.get(ticket)
        if asked is None:
            if ticket in self.superseded:
                self.superseded.discard(ticket)
                self.duplicates += 1
        elif asked.wanted.outcome is not None and not asked.is_duplicate:
            asked.is_duplicate = True
            self.duplicates += 1


def choose(
    endpoints: Iterable[Endpoint], wanted: PendingBatch, *, now: float, silent_after_s: float
) -> Endpoint | None:
    """Who is asked: of those that can be and gave a sign of life lately, the one expected to answer first."""
    able = [endpoint for endpoint in endpoints if endpoint.can_take(wanted)]
    awake = [endpoint for endpoint in able if endpoint.silent_s(now) <= silent_after_s]
    return _soonest(awake or able, wanted.nbytes, now)


def choose_second(
    endpoints: Iterable[Endpoint], wanted: PendingBatch, *, since: float, now: float, silent_after_s: float
) -> Endpoint | None:
    """Who is asked as well for what is late elsewhere: who owes nothing, or gave a sign of life since it was asked for.

    Where all are slow, the disk that they share may be, and asking more of it helps nobody.
    """
    quick = [
        endpoint
        for endpoint in endpoints
        if (not endpoint.outstanding or (endpoint.heard_at > since and endpoint.silent_s(now) <= silent_after_s))
        and endpoint.can_take(wanted)
    ]
    return _soonest(quick, wanted.nbytes, now)


def _soonest(able: Sequence[Endpoint], nbytes: int, now: float) -> Endpoint | None:
    """The one that is expected to have answered so much more first.

    Of several that are nearly as good, the one that owes the least, then the one that was asked the least.
    """
    if any(endpoint.has_answered for endpoint in able):
        able = [endpoint for endpoint in able if endpoint.has_answered or len(endpoint.outstanding) < UNPROVEN]
    if len(able) <= 1:
        return able[0] if able else None
    rates = [endpoint.rate.bytes_per_s(now) for endpoint in able]
    best = max((rate for rate in rates if rate), default=1.0)  # a loader that is new is taken for a good one
    expected_s = [(endpoint.nbytes + nbytes) / (rate or best) for endpoint, rate in zip(able, rates, strict=True)]
    nearly = NEARLY * min(expected_s)
    return min(
        (endpoint for endpoint, seconds in zip(able, expected_s, strict=True) if seconds <= nearly),
        key=lambda endpoint: (endpoint.nbytes, endpoint.asked),
    )


def same_loader(endpoints: Iterable[Endpoint], new: Endpoint, description: Description) -> Endpoint | None:
    """The other connection, if there is one, by which a loader that describes itself on a new one is asked already."""
    for endpoint in endpoints:
        served = endpoint.description
        if endpoint is not new and served is not None and served.replica == description.replica:
            # One on which nothing comes is no reason to refuse another way to the same loader.
            return endpoint if endpoint.suspected_at is None else None
    return None


def passing(reason: FeedlineError) -> FeedlineError:
    """What a loss means to a trainer that was let in before, by this loader or another of the fleet.

    Secrets are replaced on both sides within a minute and in any order, and a loader that is added may have the new
    ones already: no training should end of that.
    """
    if isinstance(reason, NotAllowed | NotTrusted):
        return NotLetIn(f"{reason} (a loader let this trainer in before, so this is tried again)")
    return reason


def hopeless(endpoints: Iterable[Endpoint], wanted: PendingBatch) -> FeedlineError | None:
    """Why nobody will ever answer; None while somebody may: connected with room or without, or being connected to."""
    refusals = [endpoint.refusal(wanted.key, wanted.nbytes) for endpoint in endpoints if not endpoint.is_double]
    return refusals[0] if refusals and None not in refusals else None


def refused(endpoints: Sequence[Endpoint]) -> FeedlineError | None:
    """What the first says, where all refuse to be connected to; None while one does not."""
    reasons = [endpoint.reason for endpoint in endpoints]
    refusals = [reason for reason in reasons if reason is not None and not isinstance(reason, LoaderUnavailable)]
    return refusals[0] if refusals and len(refusals) == len(reasons) else None


def overdue(
    endpoints: Sequence[Endpoint],
    wanted: PendingBatch,
    timeout_s: float,
    *,
    now: float,
    is_forked: bool,
    unresolved: Iterable[FeedlineError] = (),
) -> FeedlineError:
    """What to tell a reader whose batch did not come in time."""
    late = f"no batch {wanted.key} within {timeout_s:g} s"
    if wanted.asked_of:
        asked = wanted.asked_of[0]
        others = f" and {listed(wanted.asked_of[1:])}" if wanted.asked_of[1:] else ""
        return LoaderStalled(
            f"{late} from {asked.address}{others}: it is connected, was last heard {now - asked.heard_at:.1f} s ago, "
            f"and has {len(asked.outstanding)} batches to answer. See what it is doing with `feedline inspect "
            f"{asked.address}`; give it more workers, or this trainer a larger timeout_s"
        )
    if wanted.refusal is not None:
        return type(wanted.refusal)(f"{late}: {wanted.refusal}")
    refusals = [(endpoint, endpoint.refusal(wanted.key, wanted.nbytes)) for endpoint in endpoints]
    if able := [endpoint for endpoint, refusal in refusals if endpoint.is_connected and refusal is None]:
        return LoaderStalled(
            f"{late}: {listed(able)} connected, but draining or with a full window. Wait for the loader to be "
            f"replaced, add one, or give this trainer a larger timeout_s"
        )
    for _, refusal in refusals:
        if refusal is not None:
            return type(refusal)(f"{late}: {refusal}")
    return unreachable(endpoints, f"{late}:", is_forked=is_forked, unresolved=unresolved)


def unreachable(
    endpoints: Sequence[Endpoint], when: str, *, is_forked: bool, unresolved: Iterable[FeedlineError] = ()
) -> LoaderUnavailable:
    """None of them is connected: why, and what to do. One that is up and full is another matter than silence."""
    words = "; ".join([*(endpoint.last_words for endpoint in endpoints), *map(str, unresolved)])
    forked = " This process was forked from one with a connection, where gRPC often hangs: use spawn."
    kind = LoaderBusy if any(isinstance(endpoint.reason, LoaderBusy) for endpoint in endpoints) else LoaderUnavailable
    return kind(
        f"{when} no loader answers. Last words: {words or 'there is no address yet'}. "
        f"Is it running (`feedline serve`), is this its address, is the port open?{forked if is_forked else ''}"
    )


def listed(endpoints: Iterable[Endpoint]) -> str:
    """Where they are."""
    return ", ".join(endpoint.address for endpoint in endpoints)
