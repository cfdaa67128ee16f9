"""All loaders of a target: which one is asked for a key, again elsewhere when it is lost, and how long anybody waits.

The law: a key that is wanted gets exactly one outcome, a batch or an error, or its reader an error at its deadline. A
batch is a pure function of its key, so asking twice is harmless and nothing is remembered of a loader that is gone.
All books are kept under one lock; what is done under it is decided by `choose`, `hopeless` and `overdue`, and no I/O
is.
"""

import atexit
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence

from feedline.credentials import Credentials
from feedline.description import Description
from feedline.receive import KEPT_NBYTES, Buffers, Received
from feedline.replica import Answer, Outbox, Replica
from feedline.wants import Member, Wanted, choose, hopeless, overdue, unreachable
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Closed, FeedlineError, LoaderUnavailable
from feedline_wire.key import Key

SPEAK_AFTER_S = 5.0
"""Who waits longer finds a line in the log: what is awaited, and from whom. Shorter waits happen at every start."""

SPEAK_WHILE_JOINING_S = 2.0
"""A loader that is up answers within milliseconds; a person at the terminal should soon know what is waited for."""

CLOSE_WITHIN_S = 2.0
"""Cancelled calls end within milliseconds. What has not by then is a daemon thread that ends with the process."""

log = logging.getLogger("feedline")


class Fleet:
    """The loaders of a target. Every method may be called from any thread."""

    def __init__(self, addresses: Sequence[str], credentials: Credentials) -> None:
        self.addresses = tuple(addresses)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._tickets = itertools.count(1)
        self._unplaced: deque[Wanted] = deque()
        self._dropped: deque[Wanted] = deque()  # filled without the lock, see drop
        self._closed: str | None = None
        self._buffers = Buffers(KEPT_NBYTES)
        self._members = tuple(Member(Replica(address, self, self._buffers, credentials)) for address in self.addresses)
        _open_fleets.add(self)
        for member in self._members:
            member.replica.start()

    def __repr__(self) -> str:
        outstanding = sum(len(member.outstanding) for member in self._members) + len(self._unplaced)
        closed = " closed" if self._closed else ""
        return f"<Fleet {','.join(self.addresses)} replicas={self.connected} outstanding={outstanding}{closed}>"

    @property
    def connected(self) -> int:
        """Loaders that are connected now."""
        return sum(member.is_connected for member in self._members)

    # ---- for readers ----

    def join(self, timeout_s: float) -> Description:
        """Wait until a loader answered; what it serves.

        LoaderUnavailable at the deadline; at once, if all of them refuse, what they refuse with.
        """
        began = time.monotonic()
        description = self._joined_by(began + min(SPEAK_WHILE_JOINING_S, timeout_s))
        if description is None and timeout_s > SPEAK_WHILE_JOINING_S:
            log.warning("waiting for a loader, for up to %g s, at %s", timeout_s, self._last_words())
            description = self._joined_by(began + timeout_s)
        if description is None:
            raise LoaderUnavailable(f"after {timeout_s:g} s {unreachable(self._members, is_forked=bool(_inherited))}")
        return description

    def want(self, key: Key, nbytes: int) -> Wanted:
        """Ask for a batch that takes about `nbytes`. Does not wait."""
        with self._lock:
            self.check_open()
            self._cancel_dropped()
            wanted = Wanted(self, next(self._tickets), key, nbytes)
            if not self._place(wanted):
                self._unplaced.append(wanted)
            return wanted

    def wait(self, wanted: Wanted, timeout_s: float) -> Received:
        """See `Wanted.result`."""
        if wanted.outcome is None:
            began = time.monotonic()
            if not self._answered_by(wanted, began + min(SPEAK_AFTER_S, timeout_s)) and timeout_s > SPEAK_AFTER_S:
                log.warning(
                    "waiting for the batch %s from %s, for up to %g s", wanted.key, self._asked(wanted), timeout_s
                )
                self._answered_by(wanted, began + timeout_s)
        self.check_open()  # in a forked child even what is there already must not be used: the parent uses it as well
        outcome = wanted.outcome
        if outcome is None:
            raise overdue(self._members, wanted, timeout_s, now=time.monotonic(), is_forked=bool(_inherited))
        if isinstance(outcome, FeedlineError):
            raise outcome
        return outcome

    def cancel(self, wanted: Iterable[Wanted]) -> None:
        """Want these no longer; who waits for one gets Closed."""
        with self._lock:
            self._cancel_dropped()
            for one in wanted:
                self._cancel(one)

    def drop(self, wanted: Iterable[Wanted]) -> None:
        """Want these no longer, said by the garbage collector.

        It may run in the middle of anything, on a thread that holds the lock, so they are only put down here and
        cancelled by the next one who takes the lock: at the latest when one of them arrives.
        """
        self._dropped.extend(wanted)

    def status(self, timeout_s: float) -> pb.StatusReply:
        """What a loader, the first that is connected, is doing now."""
        self.check_open()
        for member in self._members:
            if member.is_connected:
                return member.replica.status(timeout_s)
        raise LoaderUnavailable(unreachable(self._members, is_forked=bool(_inherited)))

    def check_open(self) -> None:
        """Closed, with the reason, if this can no longer be used."""
        if self._closed is not None:
            raise Closed(self._closed)

    def close(self) -> None:
        """Wake everybody who waits, end every connection. Twice is fine."""
        with self._lock:
            if self._closed is None:
                self._closed = "the connection to the loader was closed; connect again"
            self._changed.notify_all()
        for member in self._members:
            member.replica.begin_close()
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for member in self._members:
            member.replica.finish_close(max(deadline - time.monotonic(), 0))
        _open_fleets.discard(self)

    def leave_to_parent(self) -> None:
        """Become unusable in a forked child, where the connection and its threads belong to the parent."""
        self._lock = threading.Lock()  # the parent's may have been held at the fork
        self._changed = threading.Condition(self._lock)
        self._closed = (
            "this connection to the loader was opened before the process forked, and belongs to the parent; "
            "connect in the worker itself, or start workers with spawn"
        )
        # gRPC's objects must not even be finalised here: that would talk to threads that do not exist.
        _inherited.append(self._members)
        self._members = ()

    # ---- for replicas ----

    def joined(self, replica: Replica, description: Description, outbox: Outbox) -> None:
        """See `replica.Home`."""
        with self._lock:
            member = self._member(replica)
            if member is None:
                return
            self._take_back(member)
            member.description, member.outbox, member.reason = description, outbox, None
            member.is_draining = False
            member.heard_at = time.monotonic()
            for wanted in self._unplaced:  # what it refused before, it may answer now
                wanted.refused_by = tuple(other for other in wanted.refused_by if other is not member)
            self._place_waiting()
            self._changed.notify_all()
        log.debug("the loader at %s answers", replica.address)

    def key_of(self, replica: Replica, ticket: int) -> Key | None:
        """See `replica.Home`. Without the lock: one look-up in a dict, and `answered` looks again."""
        member = self._member(replica)
        wanted = member.outstanding.get(ticket) if member is not None else None
        return wanted.key if wanted is not None else None

    def answered(self, replica: Replica, answers: Sequence[Answer]) -> None:
        """See `replica.Home`."""
        with self._lock:
            member = self._member(replica)
            if member is None:
                return
            self._cancel_dropped()
            member.heard_at = time.monotonic()
            member.has_answered = True
            for ticket, outcome in answers:
                wanted = member.outstanding.pop(ticket, None)
                if wanted is None:
                    continue
                member.nbytes -= wanted.nbytes
                wanted.member = None
                if isinstance(outcome, FeedlineError) and outcome.elsewhere:
                    wanted.refused_by += (member,)
                    wanted.refusal = outcome
                    if self._place(wanted):
                        continue
                    if isinstance(outcome, LoaderUnavailable):  # busy or draining: it passes, or another one comes
                        self._unplaced.append(wanted)
                        continue
                self._settle(wanted, outcome)
            self._place_waiting()

    def draining(self, replica: Replica) -> None:
        """See `replica.Home`."""
        with self._lock:
            member = self._member(replica)
            if member is None or member.is_draining:
                return
            member.is_draining = True
        log.info("the loader at %s is going away; it gets no new keys", replica.address)

    def left(self, replica: Replica, reason: FeedlineError) -> None:
        """See `replica.Home`."""
        with self._lock:
            member = self._member(replica)
            if member is None:
                return
            lost, is_news = len(member.outstanding), member.has_answered
            self._take_back(member)
            member.has_answered = False
            member.description, member.outbox, member.reason = None, None, reason
            words = member.last_words
            self._place_waiting()
            self._changed.notify_all()
        if is_news:
            log.warning("lost a loader that had %d batches to answer, reconnecting to %s", lost, words)

    # ---- under the lock ----

    def _place(self, wanted: Wanted) -> bool:
        """Put it into a replica's outbox, or settle that nobody will answer; False if it has to wait for one."""
        member = choose(self._members, wanted)
        if member is None:
            refusal = hopeless(self._members, wanted)
            if refusal is None or wanted.refused_by:
                return False
            self._settle(wanted, refusal)
            return True
        assert member.outbox is not None, "who can take a key has an outbox"
        wanted.member = member
        member.outstanding[wanted.ticket] = wanted
        member.nbytes += wanted.nbytes
        member.outbox.want(wanted.ticket, wanted.key)
        return True

    def _place_waiting(self) -> None:
        if self._unplaced:
            waiting = [wanted for wanted in self._unplaced if wanted.outcome is None]
            self._unplaced = deque(wanted for wanted in waiting if not self._place(wanted))

    def _take_back(self, member: Member) -> None:
        """Its keys are to be asked for again, before any others."""
        self._unplaced.extendleft(reversed(member.outstanding.values()))
        for wanted in member.outstanding.values():
            wanted.member = None
            wanted.refused_by = ()
        member.outstanding = {}
        member.nbytes = 0

    def _settle(self, wanted: Wanted, outcome: Received | FeedlineError) -> None:
        if isinstance(outcome, Received):
            wanted.nbytes = outcome.layout.nbytes
        wanted.outcome = outcome
        if wanted.waiting:
            self._changed.notify_all()

    def _cancel(self, wanted: Wanted) -> None:
        if wanted.outcome is not None:
            return
        self._settle(wanted, Closed(f"the batch {wanted.key} is no longer wanted: what asked for it was closed"))
        member, wanted.member = wanted.member, None
        if member is not None and member.outstanding.pop(wanted.ticket, None) is not None:
            member.nbytes -= wanted.nbytes
            assert member.outbox is not None, "who has outstanding keys has an outbox"
            member.outbox.cancel(wanted.ticket)

    def _cancel_dropped(self) -> None:
        while self._dropped:
            self._cancel(self._dropped.popleft())

    def _member(self, replica: Replica) -> Member | None:
        """The books of a replica; None in a forked child."""
        return next((member for member in self._members if member.replica is replica), None)

    # ---- waiting ----

    def _joined_by(self, deadline: float) -> Description | None:
        with self._lock:
            while True:
                self.check_open()
                for member in self._members:
                    if member.is_connected:
                        return member.description
                reasons = [member.reason for member in self._members]
                refusals = [reason for reason in reasons if reason and not isinstance(reason, LoaderUnavailable)]
                if len(refusals) == len(reasons):
                    raise refusals[0]
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)

    def _answered_by(self, wanted: Wanted, deadline: float) -> bool:
        """Wait for an outcome or for `close`; False at the deadline."""
        with self._lock:
            self._cancel_dropped()
            wanted.waiting += 1
            try:
                while wanted.outcome is None and self._closed is None:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        return False
                    self._changed.wait(left_s)
            finally:
                wanted.waiting -= 1
            return True

    def _asked(self, wanted: Wanted) -> str:
        member = wanted.member
        return member.address if member is not None else self._last_words()

    def _last_words(self) -> str:
        words = [member.address if member.is_connected else member.last_words for member in self._members]
        return "; ".join(words)


# ---- the process: its end, and its forks ----

_open_fleets: weakref.WeakSet[Fleet] = weakref.WeakSet()
_inherited: list[tuple[Member, ...]] = []
"""Of fleets that were open when this process was forked from another."""


def _close_all() -> None:
    for fleet in list(_open_fleets):
        fleet.close()


def _leave_all_to_parent() -> None:
    for fleet in list(_open_fleets):
        fleet.leave_to_parent()
    _open_fleets.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_leave_all_to_parent)
