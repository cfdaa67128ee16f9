"""Everything a fleet knows: its endpoints, what is wanted of whom, what was learnt; and how each event changes it.

A batch without an outcome is in flight at one or two endpoints or waits to be placed; it is at no endpoint twice.
Nothing here takes a lock, looks at a clock or waits: the fleet calls under its lock, with the time.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from feedline.connection.buffers import Received
from feedline.connection.connection import Answer, SameLoader
from feedline.connection.description import Description
from feedline.connection.outbox import Outbox
from feedline.fleet.endpoint import Endpoint, NotLetIn, choose, choose_second, hopeless, passing, same_loader
from feedline.fleet.lateness import CONFIRM_S, STALLED_S, LatenessEstimator
from feedline.fleet.rates import HedgingBudget
from feedline.fleet.requests import Asker, InFlight, PendingBatch
from feedline_wire.errors import Closed, Damaged, DatasetChanged, FeedlineError, LoaderDraining, LoaderUnavailable
from feedline_wire.key import Key

REFUSED_AGAIN_S = 0.5
"""Until a key that no loader had room for is asked for again."""

SUPERSEDED_REMEMBERED = 1024
"""Tickets that may still be answered, of one stream: as many as a loader lets it want at once."""

LOOK_AT_MOST_EVERY_S = 0.02
"""What is late is late by hundreds of milliseconds: nobody looks after it more often, whatever happens and whoever
waits. To look at each want and answer was a tenth of what a batch costs the trainer beside its bytes."""

LEAVE_AFTER_S = 10.0
"""Until an endpoint is left whose address a name no longer gives. A name server may leave some out of one answer."""


@dataclass(slots=True)
class Counts:
    """What happened to keys, since the start."""

    wanted: int = 0
    answered: int = 0
    nbytes: int = 0
    hedged: int = 0
    """Asked of a second loader while the first might still answer: it was late, silent or draining."""
    retried: int = 0
    """Asked of another loader, or again, because the one that was asked was lost or refused."""
    duplicates: int = 0
    """Of endpoints that were left."""
    damaged: int = 0
    """Messages that were not what was sent."""


class RequestTracker:
    """The books of a fleet. `wake` is called when somebody who waits for an outcome has it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self.counts = Counts()
        self.lateness = LatenessEstimator()
        self.news: deque[str] = deque()
        """To be logged when the lock is released."""
        self.departed: list[Endpoint] = []
        """To be closed when the lock is released."""
        self._wake = wake
        self._tickets = itertools.count(1)
        self._unplaced: deque[PendingBatch] = deque()
        self._budget = HedgingBudget()
        self._was_let_in = False  # by any of them
        self._looked_at = -math.inf
        self._used: dict[str, tuple[Key, int]] = {}  # what was wanted first of each dataset, and its nbytes

    @property
    def outstanding(self) -> int:
        """Keys without an outcome. Approximate while others change the books."""
        asked = [asked.wanted for endpoint in self.endpoints for asked in list(endpoint.outstanding.values())]
        return sum(wanted.outcome is None for wanted in {*asked, *self._unplaced})

    @property
    def latency_s(self) -> float | None:
        """The longest of the ways to the loaders and back; None while unknown."""
        known = [endpoint.rate.latency_s for endpoint in self.endpoints if endpoint.is_connected]
        return max((latency for latency in known if latency is not None), default=None)

    # ---- what readers want ----

    def want(self, asker: Asker, key: Key, nbytes: int, now: float) -> PendingBatch:
        """Ask for a key, now or when somebody can be asked."""
        wanted = PendingBatch(asker, next(self._tickets), key, nbytes)
        self.counts.wanted += 1
        self._budget.earn()
        used = self._used.get(key.dataset)
        if used is None or used[0].fingerprint != key.fingerprint:
            self._used[key.dataset] = key, nbytes
            for endpoint in self.endpoints:
                self._say_refusal(endpoint)
        if not self._place(wanted, now):
            self._unplaced.append(wanted)
        self._look_if_due(now)
        return wanted

    def cancel(self, wanted: PendingBatch, now: float) -> None:
        """It is no longer wanted."""
        if wanted.outcome is None:
            closed = Closed(f"the batch {wanted.key} is no longer wanted: what asked for it was closed")
            self._settle(wanted, closed, now)

    # ---- what loaders do ----

    def joined(
        self, endpoint: Endpoint, description: Description, outbox: Outbox, now: float
    ) -> LoaderUnavailable | None:
        """It is connected: what it was asked before is asked again, of whom it may be. Else why it is of no use now."""
        if other := same_loader(self.endpoints, endpoint, description):
            return SameLoader(f"{endpoint.address}: the same loader as at {other.address}")
        if description.replica == endpoint.drained:
            return LoaderDraining(f"{endpoint.address}: the loader is going away")
        self._was_let_in = True
        begun = self._take_back(endpoint)  # it was asked before, but its stream was not open yet
        endpoint.description, endpoint.outbox, endpoint.reason = description, outbox, None
        endpoint.is_draining = False
        endpoint.heard_at = now
        endpoint.rate.connected()
        for wanted in self._unplaced:  # what it refused before, it may answer now
            wanted.refused_by = tuple(other for other in wanted.refused_by if other is not endpoint)
        self._say_refusal(endpoint)
        for wanted in begun:  # not of another: two that open their streams would hand it to each other for ever
            if endpoint.can_take(wanted):
                self._ask(endpoint, wanted, now)
        self._place_waiting(now)
        self.look(now)
        return None

    def heard(self, endpoint: Endpoint, now: float) -> None:
        """It gave a sign of life."""
        endpoint.longest_gap_s = max(endpoint.longest_gap_s, endpoint.silent_s(now))
        endpoint.heard_at = now
        endpoint.suspected_at = None
        endpoint.renewed = 0
        if endpoint.in_vain:
            for asked in list(endpoint.outstanding.values()):
                if asked.wanted.outcome is not None:
                    self._withdraw(endpoint, asked.wanted)
            endpoint.in_vain = 0

    def answered(self, endpoint: Endpoint, answers: Sequence[Answer], now: float) -> None:
        """It gave outcomes."""
        self.heard(endpoint, now)
        busy_s = now - max(endpoint.answered_at, endpoint.owing_since)
        nbytes = 0
        for ticket, outcome in answers:
            asked = endpoint.outstanding.pop(ticket, None)
            if asked is None:  # withdrawn while the last of it came
                endpoint.note_duplicate(ticket)
                continue
            endpoint.nbytes -= asked.nbytes
            wanted = asked.wanted
            wanted.asked_of = tuple(other for other in wanted.asked_of if other is not endpoint)
            if wanted.outcome is not None:
                endpoint.in_vain -= 1
            elif isinstance(outcome, Received):
                nbytes += outcome.layout.nbytes
                endpoint.answered += 1
                self.lateness.answered(now - asked.at)
                endpoint.rate.took(now - asked.at, was_alone=asked.was_alone)
                self._settle(wanted, outcome, now)
            else:
                self._refused(endpoint, wanted, outcome, now)
        endpoint.has_answered = True
        if nbytes:
            endpoint.rate.answered(nbytes, busy_s, now)
            self.lateness.heard(endpoint.longest_gap_s)
        endpoint.longest_gap_s = 0.0
        endpoint.answered_at = now
        self._place_waiting(now)
        self._look_if_due(now)
        self._let_go(endpoint)

    def draining(self, endpoint: Endpoint, now: float) -> None:
        """It takes no new keys, and may not answer all it has: they are asked of others as well."""
        endpoint.is_draining = True
        endpoint.drained = endpoint.description.replica if endpoint.description is not None else ""
        self.look(now)

    def left(self, endpoint: Endpoint, reason: FeedlineError, now: float) -> None:
        """It is not connected, or not any more."""
        if self._was_let_in:
            reason = passing(reason)
        lost = len(self._take_back(endpoint))
        self.counts.retried += lost
        self.counts.damaged += isinstance(reason, Damaged)
        is_expected = endpoint.is_draining and not lost
        if (endpoint.has_answered and not is_expected) or isinstance(reason, Damaged):
            self.news.append(
                f"lost a loader that had {lost} batches to answer, reconnecting to "
                f"{reason if endpoint.address in str(reason) else f'{endpoint.address}: {reason}'}"
            )
        endpoint.has_answered = False
        was_connected = endpoint.is_connected
        endpoint.description, endpoint.outbox, endpoint.reason = None, None, reason
        self._say_refusal(endpoint)
        if was_connected and not endpoint.is_double:
            for other in self.endpoints:
                if other.is_double:
                    other.replica.try_now()
        self._place_waiting(now)
        self._let_go(endpoint)

    # ---- who belongs to it ----

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        """New endpoints."""
        self.endpoints = (*self.endpoints, *endpoints)

    def give_notice(self, given: Iterable[str], now: float) -> None:
        """The addresses that the target has now; who is at another one is left, unless it is given again soon."""
        addresses = set(given)
        for endpoint in self.endpoints:
            if endpoint.address in addresses:
                endpoint.missing_since, endpoint.is_leaving = None, False
            elif endpoint.missing_since is None:
                endpoint.missing_since = now
            elif now - endpoint.missing_since >= LEAVE_AFTER_S:
                endpoint.is_leaving = True
            self._let_go(endpoint)

    def _let_go(self, endpoint: Endpoint) -> None:
        if endpoint.is_leaving and len(endpoint.outstanding) == endpoint.in_vain and endpoint in self.endpoints:
            self.endpoints = tuple(other for other in self.endpoints if other is not endpoint)
            self.departed.append(endpoint)
            self.counts.duplicates += endpoint.duplicates
            self.news.append(f"left the loader at {endpoint.address}: the target no longer names it")

    # ---- what is late ----

    def look(self, now: float) -> float:
        """Ask a second loader for what is late at the first. When to look again, if nothing happens before."""
        self._looked_at = now
        again = self._place_refused(now)
        has_second = sum(endpoint.is_connected for endpoint in self.endpoints) > 1
        for endpoint in self.endpoints:
            if endpoint.outstanding:
                again = min(again, self._renew(endpoint, now))
                if has_second:
                    again = min(again, self._look_at(endpoint, now))
        return again

    def _look_if_due(self, now: float) -> None:
        if now - self._looked_at >= LOOK_AT_MOST_EVERY_S:
            self.look(now)

    def _renew(self, endpoint: Endpoint, now: float) -> float:
        """Have its stream made anew if nothing has come on it for far too long. When to look again."""
        at = self.lateness.renew_at(endpoint, now)
        if now < at:
            return at
        if not self.lateness.is_surely_silent(endpoint, now):
            return now + CONFIRM_S
        endpoint.renewed += 1
        endpoint.replica.renew(f"nothing came for {endpoint.silent_s(now):.0f} s although the connection stands")
        return math.inf

    def _look_at(self, endpoint: Endpoint, now: float) -> float:
        lateness = self.lateness
        is_surely_silent = lateness.is_surely_silent(endpoint, now)
        silent_s = endpoint.silent_s(now)
        # Those have little hope, and are few: one window at a time. For anything else there is a budget.
        is_lost = endpoint.is_draining or (is_surely_silent and silent_s > STALLED_S)
        late_after_s = 0.0 if endpoint.is_draining or is_surely_silent else lateness.late_after_s
        for asked in endpoint.outstanding.values():
            wanted = asked.wanted
            if wanted.outcome is not None or len(wanted.asked_of) > 1:
                continue
            if now - asked.at < late_after_s:  # and those after it were asked for later
                silent_at = now - silent_s + lateness.silent_after_s
                if lateness.is_silent(endpoint, now):
                    silent_at = now + CONFIRM_S
                return min(asked.at + late_after_s, silent_at)
            since = -math.inf if endpoint.is_draining else asked.at
            other = choose_second(
                self.endpoints, wanted, since=since, now=now, silent_after_s=self.lateness.silent_after_s
            )
            if other is None:
                return math.inf
            if not is_lost and not self._budget.spend():
                return now - silent_s + STALLED_S if silent_s <= STALLED_S else now + CONFIRM_S
            self.counts.hedged += 1
            self._ask(other, wanted, now)
        return math.inf

    # ---- inside ----

    def _place(self, wanted: PendingBatch, now: float) -> bool:
        """Ask somebody, or settle that nobody will answer; False if it has to wait for one."""
        endpoint = choose(self.endpoints, wanted, now=now, silent_after_s=self.lateness.silent_after_s)
        if endpoint is not None:
            self._ask(endpoint, wanted, now)
            return True
        refusal = hopeless(self.endpoints, wanted)
        if refusal is None or wanted.refused_by:
            return False
        self._settle(wanted, refusal, now)
        return True

    def _ask(self, endpoint: Endpoint, wanted: PendingBatch, now: float) -> None:
        assert endpoint.outbox is not None, "who can take a key has an outbox"
        was_alone = not endpoint.outstanding
        if was_alone:
            endpoint.owing_since = now
        endpoint.outstanding[wanted.ticket] = InFlight(wanted, now, wanted.nbytes, was_alone)
        endpoint.nbytes += wanted.nbytes
        endpoint.asked += 1
        endpoint.superseded.discard(wanted.ticket)
        wanted.asked_of += (endpoint,)
        endpoint.outbox.want(wanted.ticket, wanted.key)

    def _place_waiting(self, now: float) -> None:
        if self._unplaced:
            waiting = [wanted for wanted in self._unplaced if wanted.outcome is None and not wanted.asked_of]
            self._unplaced = deque(wanted for wanted in waiting if not self._place(wanted, now))

    def _place_refused(self, now: float) -> float:
        """Ask again for what nobody had room for; when to do so next."""
        again = math.inf
        for wanted in self._unplaced:
            if wanted.refused_by:
                if now - wanted.refused_at >= REFUSED_AGAIN_S:
                    wanted.refused_by = ()
                    again = now
                else:
                    again = min(again, wanted.refused_at + REFUSED_AGAIN_S)
        if again == now:
            self._place_waiting(now)
            again = now + REFUSED_AGAIN_S
        return again

    def _refused(self, endpoint: Endpoint, wanted: PendingBatch, refusal: FeedlineError, now: float) -> None:
        """It answered a key with an error."""
        if refusal.elsewhere or isinstance(refusal, DatasetChanged):
            wanted.refused_by += (endpoint,)
            wanted.refusal, wanted.refused_at = refusal, now
            if wanted.asked_of:
                return
            if self._place(wanted, now):
                self.counts.retried += 1
                return
            if isinstance(refusal, LoaderUnavailable):  # busy or draining: it passes, or another one comes
                self._unplaced.append(wanted)
                return
        self._settle(wanted, refusal, now)

    def _take_back(self, endpoint: Endpoint) -> list[PendingBatch]:
        """What it owes and nobody else was asked for: it is to be asked for again, before anything else."""
        lost = []
        for asked in endpoint.outstanding.values():
            wanted = asked.wanted
            wanted.asked_of = tuple(other for other in wanted.asked_of if other is not endpoint)
            if wanted.outcome is None and not wanted.asked_of:
                wanted.refused_by = ()
                lost.append(wanted)
        self._unplaced.extendleft(reversed(lost))
        endpoint.outstanding = {}
        endpoint.superseded = set()
        endpoint.nbytes = endpoint.in_vain = 0
        endpoint.suspected_at = None
        return lost

    def _settle(self, wanted: PendingBatch, outcome: Received | FeedlineError, now: float) -> None:
        if isinstance(outcome, Received):
            wanted.nbytes = outcome.layout.nbytes
            self.counts.answered += 1
            self.counts.nbytes += wanted.nbytes
        wanted.outcome = outcome
        for endpoint in wanted.asked_of:
            if self.lateness.is_silent(endpoint, now) and not isinstance(outcome, Closed):
                # Were it told not to answer, nothing might ever come from it again, and nobody would know it is back.
                endpoint.in_vain += 1
            else:
                self._withdraw(endpoint, wanted)
        if wanted.waiting:
            self._wake()

    def _withdraw(self, endpoint: Endpoint, wanted: PendingBatch) -> None:
        """An endpoint need not answer, because another one has, or because nobody wants it any more."""
        asked = endpoint.outstanding.pop(wanted.ticket)
        endpoint.nbytes -= asked.nbytes
        wanted.asked_of = tuple(other for other in wanted.asked_of if other is not endpoint)
        assert endpoint.outbox is not None, "who has outstanding keys has an outbox"
        endpoint.outbox.cancel(wanted.ticket)
        if not isinstance(wanted.outcome, Closed) and not asked.is_duplicate:
            if len(endpoint.superseded) >= SUPERSEDED_REMEMBERED:
                endpoint.superseded.clear()
            endpoint.superseded.add(wanted.ticket)

    def refusal_of(self, endpoint: Endpoint) -> FeedlineError | None:
        """Why an endpoint is of no use to this trainer, whatever room it has."""
        if not self._used or not endpoint.is_connected:
            passes = isinstance(endpoint.reason, LoaderUnavailable) and not isinstance(endpoint.reason, NotLetIn)
            return None if passes else endpoint.reason
        return next((refusal for used in self._used.values() if (refusal := endpoint.refusal(*used))), None)

    def _say_refusal(self, endpoint: Endpoint) -> None:
        if refusal := self.refusal_of(endpoint):
            self._say(endpoint, refusal)

    def _say(self, endpoint: Endpoint, refusal: FeedlineError) -> None:
        """Once: that a loader is not asked, and why. Where there is no other, the reader is told by an error."""
        if str(refusal) != endpoint.refusal_said and len(self.endpoints) > 1:
            endpoint.refusal_said = str(refusal)
            self.news.append(f"going on without one of {len(self.endpoints)} loaders: {refusal}")
