"""What is wanted, and of whom: the books of a fleet, and what is decided from them.

Values and decisions. The fleet changes the books, under its lock, and asks `choose`, `hopeless` and `overdue` what to
do; nothing here waits, logs or talks to anybody.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from feedline.description import Description
from feedline.receive import Received
from feedline.replica import Outbox, Replica
from feedline_wire.errors import DatasetChanged, FeedlineError, LoaderBusy, LoaderStalled, LoaderUnavailable
from feedline_wire.key import Key


class Asker(Protocol):
    """Who a key was wanted from: the fleet."""

    def wait(self, wanted: "Wanted", timeout_s: float) -> Received:
        """See `Wanted.result`."""
        ...

    def cancel(self, wanted: "Iterable[Wanted]") -> None:
        """See `Wanted.cancel`."""


class Wanted:
    """A key that was asked for, and what became of it."""

    __slots__ = ("_asker", "key", "member", "nbytes", "outcome", "refusal", "refused_by", "ticket", "waiting")

    def __init__(self, asker: "Asker", ticket: int, key: Key, nbytes: int) -> None:
        self._asker = asker
        self.ticket = ticket
        self.key = key
        self.nbytes = nbytes
        """Expected until it is there, then what it takes."""
        # The rest is the fleet's, and changed under its lock.
        self.outcome: Received | FeedlineError | None = None
        self.member: Member | None = None
        self.refused_by: tuple[Member, ...] = ()
        """Those that said to ask another one, since they were connected."""
        self.refusal: FeedlineError | None = None
        """What the last of them said."""
        self.waiting = 0

    def __repr__(self) -> str:
        outcome = "wanted" if self.outcome is None else "ready" if self.is_ready else repr(self.outcome)
        return f"<Wanted {self.key} {outcome}>"

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
class Member:
    """The books of one replica."""

    replica: Replica
    description: Description | None = None
    """None while it is not connected."""
    outbox: Outbox | None = None
    is_draining: bool = False
    reason: FeedlineError | None = None
    """Why it is, or last was, not connected."""
    outstanding: dict[int, Wanted] = field(default_factory=dict)
    nbytes: int = 0
    """Of the outstanding."""
    heard_at: float = 0.0
    has_answered: bool = False
    """Since it was connected: what is lost without is no news, it never was of use."""

    @property
    def is_connected(self) -> bool:
        """It may be asked."""
        return self.description is not None

    @property
    def last_words(self) -> str:
        """Where it is and why it is not connected, as far as is known."""
        words = str(self.reason) if self.reason is not None else "no answer yet"
        return words if self.address in words else f"{self.address}: {words}"

    @property
    def address(self) -> str:
        """Where it is."""
        return self.replica.address

    def can_take(self, wanted: Wanted) -> bool:
        """It may be asked for this now."""
        return (
            self.description is not None
            and not self.is_draining
            and len(self.outstanding) < self.description.max_window
            and self not in wanted.refused_by
            and self.refusal(wanted) is None
        )

    def refusal(self, wanted: Wanted) -> FeedlineError | None:
        """Why it will not answer this, as far as can be said now; None if it may."""
        if self.description is None:
            return None if self.reason is None or isinstance(self.reason, LoaderUnavailable) else self.reason
        key = wanted.key
        served = self.description.datasets.get(key.dataset)
        if served is not None and served.fingerprint == key.fingerprint:
            return None
        found = f"the fingerprint {served.fingerprint.hex()}" if served is not None else "no such dataset"
        return DatasetChanged(
            f"the loader at {self.address} now has {found} for {key.dataset!r}; this trainer began with "
            f"{key.fingerprint.hex()}. Serve the same data and specification again, or connect anew and start over"
        )


def choose(members: Iterable[Member], wanted: Wanted) -> Member | None:
    """Who is asked: of those that can be, the one with the fewest bytes outstanding."""
    able = [member for member in members if member.can_take(wanted)]
    return min(able, key=lambda member: member.nbytes) if able else None


def hopeless(members: Sequence[Member], wanted: Wanted) -> FeedlineError | None:
    """Why nobody will ever answer; None while somebody may: connected with room or without, or being connected to."""
    refusals = [member.refusal(wanted) for member in members]
    return refusals[0] if None not in refusals else None


def overdue(
    members: Sequence[Member], wanted: Wanted, timeout_s: float, *, now: float, is_forked: bool
) -> FeedlineError:
    """What to tell a reader whose batch did not come in time."""
    asked = wanted.member
    if asked is not None:
        return LoaderStalled(
            f"no batch {wanted.key} within {timeout_s:g} s from {asked.address}: it is connected, was last heard "
            f"{now - asked.heard_at:.1f} s ago, and has {len(asked.outstanding)} batches to answer. See what it is "
            f"doing with `feedline inspect {asked.address}`; give it more workers, or this trainer a larger timeout_s"
        )
    if wanted.refusal is not None:
        return type(wanted.refusal)(f"no batch {wanted.key} within {timeout_s:g} s: {wanted.refusal}")
    connected = [member for member in members if member.description is not None]
    if connected:
        return LoaderStalled(
            f"no batch {wanted.key} within {timeout_s:g} s: {listed(connected)} connected, but draining or with a "
            f"full window. Wait for the loader to be replaced, add one, or give this trainer a larger timeout_s"
        )
    # Not connected: a loader that is up and full says so, which is another thing to act on than silence.
    kind = LoaderBusy if any(isinstance(member.reason, LoaderBusy) for member in members) else LoaderUnavailable
    return kind(f"no batch {wanted.key} within {timeout_s:g} s: {unreachable(members, is_forked=is_forked)}")


def unreachable(members: Sequence[Member], *, is_forked: bool) -> str:
    """Why none of them is connected, and what to do."""
    reasons = "; ".join(member.last_words for member in members)
    forked = " This process was forked from one with a connection, where gRPC often hangs: use spawn."
    return (
        f"no loader answers. Last words: {reasons}. "
        f"Is it running (`feedline serve`), is this its address, is the port open?{forked if is_forked else ''}"
    )


def listed(members: Iterable[Member]) -> str:
    """Where they are."""
    return ", ".join(member.address for member in members)
