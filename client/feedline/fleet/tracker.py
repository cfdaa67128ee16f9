"""What a fleet knows: its endpoints, which batch is in flight where, what was learnt; and how each event changes it.

A batch without an outcome is in flight at one or two endpoints, at each once, or waits to be placed. Nothing here takes
a lock, looks at a clock, logs or does I/O: the fleet calls under its lock, with the time, and does what is put down in
`after` when it has released it.
"""

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from feedline.connection.buffers import Received
from feedline.connection.events import Answer, Answered, ConnectionEvent, Draining, Heard, Joined, Lost
from feedline.fleet.endpoint import AFTER, CONFIRM_S, Endpoint, Event, State, choose, choose_second, lost_by, useless
from feedline.fleet.failures import NotLetIn, hopeless, passing
from feedline.fleet.rates import HedgingBudget, LatenessEstimator, Supply, longest_latency_s
from feedline.fleet.requests import PendingBatch
from feedline_wire.errors import Closed, Damaged, DatasetChanged, FeedlineError, LoaderUnavailable
from feedline_wire.key import Key

REFUSED_AGAIN_S = 0.5
"""Until a key that no loader had room for is asked for again."""

STALLED_S = 1.0
"""A loader that is silent for so long loses all its keys to the others, however many that are; before that the budget
for asking twice decides how many."""

LOOK_AT_MOST_EVERY_S = 0.02
"""What is late is late by hundreds of milliseconds: it is not looked after more often, whatever happens and however
many wait. To look at each want and answer was a tenth of what a batch costs the trainer beside its bytes."""

LEAVE_AFTER_S = 10.0
"""Until an endpoint is left whose address a name no longer gives. A name server may leave some out of one answer."""

log = logging.getLogger("feedline")


@dataclass(slots=True)
class Counts:
    """What happened to keys since the start, as in Statistics; the duplicates are those of endpoints that were left."""

    wanted: int = 0
    answered: int = 0
    nbytes: int = 0
    hedged: int = 0
    retried: int = 0
    duplicates: int = 0
    damaged: int = 0


class RequestTracker:
    """The books of a fleet. `wake` is called under the lock when something may end a wait; `ask_names` after a loss."""

    def __init__(self, wake: Callable[[], None], ask_names: Callable[[], None]) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self.counts = Counts()
        self.lateness = LatenessEstimator()
        self._supply = Supply()
        self.outstanding = 0
        """Keys without an outcome."""
        self.after: deque[Callable[[], None]] = deque()
        """What is to be done when the lock is released."""
        self._wake = wake
        self._ask_names = ask_names
        self._tickets = itertools.count(1)
        self._unplaced: deque[PendingBatch] = deque()
        self._budget = HedgingBudget()
        self._was_let_in = False  # by any of them
        self._looked_at = -math.inf
        self._used: dict[str, tuple[Key, int]] = {}  # what was wanted first of each dataset, and its nbytes

    @property
    def latency_s(self) -> float | None:
        """The longest of the ways to the loaders and back; None while unknown."""
        return longest_latency_s(endpoint.rate for endpoint in self.endpoints if endpoint.is_connected)

    # ---- what readers do ----

    def want(self, key: Key, nbytes: int, now: float) -> PendingBatch:
        """Ask for a key, now or when somebody can be asked."""
        pending = PendingBatch(next(self._tickets), key, nbytes)
        self.counts.wanted += 1
        self.outstanding += 1
        self._budget.earn()
        used = self._used.get(key.dataset)
        if used is None or used[0].fingerprint != key.fingerprint:
            self._used[key.dataset] = key, nbytes
            for endpoint in self.endpoints:
                self._report_refusal(endpoint)
        if not self._place(pending, now):
            self._unplaced.append(pending)
        self._look_if_due(now)
        return pending

    def cancel(self, pending: PendingBatch, now: float) -> None:
        """It is no longer wanted. Idempotent."""
        if pending.outcome is None:
            closed = Closed(f"the batch {pending.key} is no longer wanted: what asked for it was closed")
            self._settle(pending, closed, now)

    # ---- what loaders do ----

    def happened(self, endpoint: Endpoint, event: ConnectionEvent, now: float) -> LoaderUnavailable | None:
        """Something happened on an endpoint's connection. Why that is of no use now, if it is not."""
        match event:
            case Answered():  # for every batch: a pattern with its fields would be slower
                self._answered(endpoint, event.answers, now)
            case Heard():
                self._heard(endpoint, now)
            case Joined():
                if reason := useless(self.endpoints, endpoint, event.description):
                    return reason
                self._joined(endpoint, event, now)
            case Draining() if endpoint.state is not State.DRAINING:
                endpoint.drained = endpoint.description.replica if endpoint.description is not None else ""
                self._log(logging.INFO, f"the loader at {endpoint.address} is going away; it gets no new keys")
                self._move(endpoint, Event.DRAINING)
            case Lost(reason):
                self._lost(endpoint, reason)
        self._place_waiting(now)
        self._look_if_due(now)
        self._leave_if_idle(endpoint)
        return None

    def _heard(self, endpoint: Endpoint, now: float) -> None:
        endpoint.heard(now)
        if endpoint.in_vain:
            for asked in list(endpoint.in_flight.values()):
                if asked.pending.outcome is not None:
                    self._withdraw(endpoint, asked.pending)
            endpoint.in_vain = 0

    def _answered(self, endpoint: Endpoint, answers: Sequence[Answer], now: float) -> None:
        self._heard(endpoint, now)
        busy_s = now - max(endpoint.answered_at, endpoint.owing_since)
        nbytes = 0
        for ticket, outcome in answers:
            asked = endpoint.release(ticket)
            if asked is None:  # withdrawn while the last of it came
                endpoint.note_duplicate(ticket)
            elif isinstance(outcome, Received):
                nbytes += outcome.layout.nbytes
                endpoint.answered += 1
                took_s = asked.pending.took_s = now - asked.at
                self.lateness.answer_times.add(took_s)
                self._supply.answered(is_awaited=asked.pending.is_awaited)
                endpoint.rate.took(took_s, was_alone=asked.was_alone)
                self._settle(asked.pending, outcome, now)
            else:
                self._refused(endpoint, asked.pending, outcome, now)
        endpoint.has_answered = True
        endpoint.most += len(answers)
        endpoint.broken = 0
        if nbytes:
            endpoint.rate.answered(nbytes, busy_s, now)
            self.lateness.gaps.add(endpoint.longest_gap_s)
        endpoint.longest_gap_s = 0.0
        endpoint.answered_at = now

    def _joined(self, endpoint: Endpoint, joined: Joined, now: float) -> None:
        """It is connected: what it was asked before is asked again, of whom it may be."""
        self._was_let_in = True
        begun = self._take_back(endpoint)  # it was asked before, but its stream was not open yet
        endpoint.description, endpoint.outbox, endpoint.reason = joined.description, joined.outbox, None
        endpoint.heard_at = now
        endpoint.rate.connected()
        self._move(endpoint, Event.JOINED)
        self._report_refusal(endpoint)
        for pending in begun:  # not of another: two that open their streams would hand it to each other for ever
            if endpoint.can_take(pending):
                self._ask(endpoint, pending, now)

    def _lost(self, endpoint: Endpoint, reason: FeedlineError) -> None:
        if self._was_let_in:
            reason = passing(reason)
        lost = len(self._take_back(endpoint))
        if type(reason) is LoaderUnavailable:  # else the loader said why: it is full, or going away
            endpoint.breaks(lost)
        self.counts.retried += lost
        self.counts.damaged += isinstance(reason, Damaged)
        is_expected = endpoint.state is State.DRAINING and not lost
        if (endpoint.has_answered and not is_expected) or isinstance(reason, Damaged):
            where = reason if endpoint.address in str(reason) else f"{endpoint.address}: {reason}"
            self._log(logging.WARNING, f"lost a loader that had {lost} batches to answer, reconnecting to {where}")
        if endpoint.is_connected:
            self.after.append(self._ask_names)
            self.after.extend(e.connection.try_now for e in self.endpoints if e.state is State.SAME_LOADER)
        endpoint.has_answered = False
        endpoint.description, endpoint.outbox, endpoint.reason = None, None, reason
        self._report_refusal(endpoint)
        self._move(endpoint, lost_by(reason))

    # ---- who belongs to it ----

    def name(self, addresses: Container[str], now: float) -> None:
        """The addresses that the target has now. An endpoint at another one is left, unless it is named again soon."""
        for endpoint in self.endpoints:
            if endpoint.address in addresses:
                endpoint.unnamed_since = None
                self._move(endpoint, Event.NAMED)
            elif endpoint.unnamed_since is None:
                endpoint.unnamed_since = now
            elif now - endpoint.unnamed_since >= LEAVE_AFTER_S:
                self._move(endpoint, Event.UNNAMED)
                self._leave_if_idle(endpoint)

    def rest(self, endpoint: Endpoint) -> bool:
        """Its stream, on which nothing was wanted for long, ends until something is wanted; False if it stays open."""
        if endpoint.may_rest(self.endpoints):
            endpoint.is_streaming = False  # now, so that not all of them end that ask at the same moment
            return True
        return False

    def _leave_if_idle(self, endpoint: Endpoint) -> None:
        if endpoint.state is State.LEAVING and endpoint.is_idle:
            self._move(endpoint, Event.IDLE)

    def _move(self, endpoint: Endpoint, event: Event) -> None:
        """Its state is the next one; what is late is looked after at once. At the last state it is let go."""
        endpoint.state = AFTER[endpoint.state][event]
        self._looked_at = -math.inf
        self._wake()
        if endpoint.state is State.LEFT:
            self.endpoints = tuple(other for other in self.endpoints if other is not endpoint)
            self.counts.duplicates += endpoint.duplicates
            self._log(logging.WARNING, f"left the loader at {endpoint.address}: the target no longer names it")
            self.after.append(endpoint.connection.begin_close)  # its thread may be this one; it ends by itself

    # ---- what is late ----

    def look(self, now: float) -> float:
        """Ask a second loader for what is late at the first. When to look again, if nothing happens before."""
        self._looked_at = now
        again = self._place_waiting(now)
        has_second = len(self.endpoints) > 1 and sum(endpoint.is_connected for endpoint in self.endpoints) > 1
        for endpoint in self.endpoints:
            if endpoint.in_flight:
                again = min(again, self._renew(endpoint, now), self._hedge(endpoint, now) if has_second else math.inf)
        return again

    def _look_if_due(self, now: float) -> None:
        if now - self._looked_at >= LOOK_AT_MOST_EVERY_S:
            self.look(now)

    def _renew(self, endpoint: Endpoint, now: float) -> float:
        """Have its stream made anew if nothing has come on it for far too long. When to look again."""
        silent_s = endpoint.silent_s(now)
        left_s = self.lateness.renew_after_s(endpoint.renewed) - silent_s
        if left_s > 0:
            return now + left_s
        if not endpoint.is_surely_silent(now, self.lateness.silent_after_s):
            return now + CONFIRM_S
        endpoint.renewed += 1
        reason = f"nothing came for {silent_s:.0f} s although the connection stands"
        self.after.append(partial(endpoint.connection.renew, reason))
        return math.inf

    def _hedge(self, endpoint: Endpoint, now: float) -> float:
        """Ask another for what is late here. When to look again."""
        silent_after_s = self.lateness.silent_after_s
        is_draining = endpoint.state is State.DRAINING
        is_surely_silent = endpoint.is_surely_silent(now, silent_after_s)
        silent_s = endpoint.silent_s(now)
        # Those have little hope, and are few: one window at a time. For anything else there is a budget.
        is_hopeless = is_draining or (is_surely_silent and silent_s > STALLED_S)
        late_after_s = 0.0 if is_draining or is_surely_silent else self.lateness.late_after_s
        for asked in endpoint.in_flight.values():
            pending = asked.pending
            if pending.outcome is not None or pending.asked > 1:
                continue
            if now - asked.at < late_after_s:  # and those after it were asked for later
                silent_at = now + (silent_after_s - silent_s if silent_s <= silent_after_s else CONFIRM_S)
                return min(asked.at + late_after_s, silent_at)
            since = -math.inf if is_draining else asked.at
            other = choose_second(self.endpoints, pending, since=since, now=now, silent_after_s=silent_after_s)
            if other is None:
                return math.inf
            if not is_hopeless and not self._budget.spend():
                return now + (STALLED_S - silent_s if silent_s <= STALLED_S else CONFIRM_S)
            self.counts.hedged += 1
            self._ask(other, pending, now)
        return math.inf

    # ---- inside ----

    def _place(self, pending: PendingBatch, now: float) -> bool:
        """Ask a loader, or settle that none will answer; False if it has to wait for one."""
        if len(self.endpoints) == 1:  # nothing is weighed
            endpoint = self.endpoints[0] if self.endpoints[0].can_take(pending) else None
        else:
            silent_after_s, is_ample = self.lateness.silent_after_s, self._supply.is_ample
            endpoint = choose(self.endpoints, pending, now=now, silent_after_s=silent_after_s, is_ample=is_ample)
        if endpoint is not None:
            self._ask(endpoint, pending, now)
        elif refusal := hopeless(self.endpoints, pending):
            self._settle(pending, refusal, now)
        else:
            return False
        return True

    def _ask(self, endpoint: Endpoint, pending: PendingBatch, now: float) -> None:
        assert endpoint.outbox is not None, "an endpoint that can take a key has an outbox"
        endpoint.take(pending, now)
        endpoint.outbox.want(pending.ticket, pending.key)
        self.after.append(endpoint.outbox.flush)

    def _place_waiting(self, now: float) -> float:
        """Ask for what waits to be placed. When to do so again, if nothing happens before."""
        if not self._unplaced:
            return math.inf
        waiting = [pending for pending in self._unplaced if pending.outcome is None and not pending.asked]
        self._forgive(pending for pending in waiting if pending.again_at <= now)
        self._unplaced = deque(pending for pending in waiting if not self._place(pending, now))
        return min((pending.again_at for pending in self._unplaced), default=math.inf)

    def _refused(self, endpoint: Endpoint, pending: PendingBatch, refusal: FeedlineError, now: float) -> None:
        """It answered a key with an error."""
        if refusal.elsewhere or isinstance(refusal, DatasetChanged):
            endpoint.refused.add(pending.ticket)
            pending.refusal, pending.again_at = refusal, now + REFUSED_AGAIN_S
            if pending.asked:
                return
            if self._place(pending, now):
                self.counts.retried += 1
                return
            if isinstance(refusal, LoaderUnavailable):  # busy or draining: it passes, or another one comes
                self._unplaced.append(pending)
                return
        self._settle(pending, refusal, now)

    def _forgive(self, refused: Iterable[PendingBatch]) -> None:
        """Any endpoint may be asked for these again."""
        for pending in refused:
            pending.again_at = math.inf
            for endpoint in self.endpoints:
                endpoint.refused.discard(pending.ticket)

    def _take_back(self, endpoint: Endpoint) -> list[PendingBatch]:
        """What it owes and is in flight nowhere else: to be asked for again, before anything else."""
        lost = endpoint.reset()
        self._forgive(lost)
        self._unplaced.extendleft(reversed(lost))
        return lost

    def _settle(self, pending: PendingBatch, outcome: Received | FeedlineError, now: float) -> None:
        """It has its outcome; who else was asked need not answer."""
        assert pending.outcome is None, "a batch has one outcome"
        pending.outcome = outcome
        self.outstanding -= 1
        if isinstance(outcome, Received):
            pending.nbytes = outcome.layout.nbytes
            self.counts.answered += 1
            self.counts.nbytes += pending.nbytes
        if pending.asked or pending.refusal is not None:
            self._withdraw_all(pending, now)
        if pending.is_awaited:
            self._wake()

    def _withdraw_all(self, pending: PendingBatch, now: float) -> None:
        """No endpoint need answer it any more, nor be remembered to have refused it."""
        is_closed = isinstance(pending.outcome, Closed)
        for endpoint in self.endpoints:
            endpoint.refused.discard(pending.ticket)
            if pending.ticket not in endpoint.in_flight:
                continue
            if not is_closed:
                endpoint.supersede(pending.ticket)
            if not is_closed and endpoint.silent_s(now) > self.lateness.silent_after_s:
                # If it were cancelled, nothing might ever come from it again, and its return would go unnoticed.
                endpoint.in_vain += 1
            else:
                self._withdraw(endpoint, pending)

    def _withdraw(self, endpoint: Endpoint, pending: PendingBatch) -> None:
        """An endpoint need not answer, because another one has, or because it is no longer wanted."""
        endpoint.release(pending.ticket)
        assert endpoint.outbox is not None, "an endpoint that owes a batch has an outbox"
        endpoint.outbox.cancel(pending.ticket)
        self.after.append(endpoint.outbox.flush)

    def refusal_of(self, endpoint: Endpoint) -> FeedlineError | None:
        """Why an endpoint is of no use to this trainer, whatever room it has."""
        if not self._used or not endpoint.is_connected:
            passes = isinstance(endpoint.reason, LoaderUnavailable) and not isinstance(endpoint.reason, NotLetIn)
            return None if passes else endpoint.reason
        return next((refusal for used in self._used.values() if (refusal := endpoint.refusal(*used))), None)

    def _report_refusal(self, endpoint: Endpoint) -> None:
        """Log once that a loader is not asked, and why. Where there is no other, the reader gets an error."""
        refusal = str(self.refusal_of(endpoint) or "")
        if refusal and refusal != endpoint.refusal_logged and len(self.endpoints) > 1:
            endpoint.refusal_logged = refusal
            self._log(logging.WARNING, f"going on without one of {len(self.endpoints)} loaders: {refusal}")

    def _log(self, level: int, line: str) -> None:
        self.after.append(partial(log.log, level, "%s", line))
