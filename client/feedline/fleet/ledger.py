"""Everything a fleet knows: its members, what is wanted of whom, what was learnt; and how each event changes it.

The law: a want that has no outcome is outstanding at one or two members or waits to be placed, and it is at no member
twice. Nothing here takes a lock, looks at a clock or waits: the fleet calls under its lock, with the time.
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
from feedline.fleet.lateness import CONFIRM_S, STALLED_S, Patience
from feedline.fleet.members import Member, NotLetIn, choose, choose_second, hopeless, passing, same_loader
from feedline.fleet.rates import Budget
from feedline.fleet.requests import Asked, Asker, Wanted
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
"""Until a member is left whose address a name no longer gives. A name server may leave some out of one answer."""


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
    """Of members that were left."""
    damaged: int = 0
    """Messages that were not what was sent."""


class Ledger:
    """The books of a fleet. `wake` is called when somebody who waits for an outcome has it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.members: tuple[Member, ...] = ()
        self.counts = Counts()
        self.patience = Patience()
        self.news: deque[str] = deque()
        """To be logged when the lock is released."""
        self.departed: list[Member] = []
        """To be closed when the lock is released."""
        self._wake = wake
        self._tickets = itertools.count(1)
        self._unplaced: deque[Wanted] = deque()
        self._budget = Budget()
        self._was_let_in = False  # by any of them
        self._looked_at = -math.inf
        self._used: dict[str, tuple[Key, int]] = {}  # what was wanted first of each dataset, and its nbytes

    @property
    def outstanding(self) -> int:
        """Keys without an outcome. Approximate while others change the books."""
        asked = [asked.wanted for member in self.members for asked in list(member.outstanding.values())]
        return sum(wanted.outcome is None for wanted in {*asked, *self._unplaced})

    @property
    def latency_s(self) -> float | None:
        """The longest of the ways to the loaders and back; None while unknown."""
        known = [member.pace.latency_s for member in self.members if member.is_connected]
        return max((latency for latency in known if latency is not None), default=None)

    # ---- what readers want ----

    def want(self, asker: Asker, key: Key, nbytes: int, now: float) -> Wanted:
        """Ask for a key, now or when somebody can be asked."""
        wanted = Wanted(asker, next(self._tickets), key, nbytes)
        self.counts.wanted += 1
        self._budget.earn()
        used = self._used.get(key.dataset)
        if used is None or used[0].fingerprint != key.fingerprint:
            self._used[key.dataset] = key, nbytes
            for member in self.members:
                self._say_refusal(member)
        if not self._place(wanted, now):
            self._unplaced.append(wanted)
        self._look_if_due(now)
        return wanted

    def cancel(self, wanted: Wanted, now: float) -> None:
        """It is no longer wanted."""
        if wanted.outcome is None:
            closed = Closed(f"the batch {wanted.key} is no longer wanted: what asked for it was closed")
            self._settle(wanted, closed, now)

    # ---- what loaders do ----

    def joined(self, member: Member, description: Description, outbox: Outbox, now: float) -> LoaderUnavailable | None:
        """It is connected: what it was asked before is asked again, of whom it may be. Else why it is of no use now."""
        if other := same_loader(self.members, member, description):
            return SameLoader(f"{member.address}: the same loader as at {other.address}")
        if description.replica == member.drained:
            return LoaderDraining(f"{member.address}: the loader is going away")
        self._was_let_in = True
        begun = self._take_back(member)  # it was asked before, but its stream was not open yet
        member.description, member.outbox, member.reason = description, outbox, None
        member.is_draining = False
        member.heard_at = now
        member.pace.connected()
        for wanted in self._unplaced:  # what it refused before, it may answer now
            wanted.refused_by = tuple(other for other in wanted.refused_by if other is not member)
        self._say_refusal(member)
        for wanted in begun:  # not of another: two that open their streams would hand it to each other for ever
            if member.can_take(wanted):
                self._ask(member, wanted, now)
        self._place_waiting(now)
        self.look(now)
        return None

    def heard(self, member: Member, now: float) -> None:
        """It gave a sign of life."""
        member.longest_gap_s = max(member.longest_gap_s, member.silent_s(now))
        member.heard_at = now
        member.suspected_at = None
        member.renewed = 0
        if member.in_vain:
            for asked in list(member.outstanding.values()):
                if asked.wanted.outcome is not None:
                    self._withdraw(member, asked.wanted)
            member.in_vain = 0

    def answered(self, member: Member, answers: Sequence[Answer], now: float) -> None:
        """It gave outcomes."""
        self.heard(member, now)
        busy_s = now - max(member.answered_at, member.owing_since)
        nbytes = 0
        for ticket, outcome in answers:
            asked = member.outstanding.pop(ticket, None)
            if asked is None:  # withdrawn while the last of it came
                member.note_duplicate(ticket)
                continue
            member.nbytes -= asked.nbytes
            wanted = asked.wanted
            wanted.asked_of = tuple(other for other in wanted.asked_of if other is not member)
            if wanted.outcome is not None:
                member.in_vain -= 1
            elif isinstance(outcome, Received):
                nbytes += outcome.layout.nbytes
                member.answered += 1
                self.patience.answered(now - asked.at)
                member.pace.took(now - asked.at, was_alone=asked.was_alone)
                self._settle(wanted, outcome, now)
            else:
                self._refused(member, wanted, outcome, now)
        member.has_answered = True
        if nbytes:
            member.pace.answered(nbytes, busy_s, now)
            self.patience.heard(member.longest_gap_s)
        member.longest_gap_s = 0.0
        member.answered_at = now
        self._place_waiting(now)
        self._look_if_due(now)
        self._let_go(member)

    def draining(self, member: Member, now: float) -> None:
        """It takes no new keys, and may not answer all it has: they are asked of others as well."""
        member.is_draining = True
        member.drained = member.description.replica if member.description is not None else ""
        self.look(now)

    def left(self, member: Member, reason: FeedlineError, now: float) -> None:
        """It is not connected, or not any more."""
        if self._was_let_in:
            reason = passing(reason)
        lost = len(self._take_back(member))
        self.counts.retried += lost
        self.counts.damaged += isinstance(reason, Damaged)
        is_expected = member.is_draining and not lost
        if (member.has_answered and not is_expected) or isinstance(reason, Damaged):
            self.news.append(
                f"lost a loader that had {lost} batches to answer, reconnecting to "
                f"{reason if member.address in str(reason) else f'{member.address}: {reason}'}"
            )
        member.has_answered = False
        was_connected = member.is_connected
        member.description, member.outbox, member.reason = None, None, reason
        self._say_refusal(member)
        if was_connected and not member.is_double:
            for other in self.members:
                if other.is_double:
                    other.replica.try_now()
        self._place_waiting(now)
        self._let_go(member)

    # ---- who belongs to it ----

    def add(self, members: Iterable[Member]) -> None:
        """New members."""
        self.members = (*self.members, *members)

    def give_notice(self, given: Iterable[str], now: float) -> None:
        """The addresses that the target has now; who is at another one is left, unless it is given again soon."""
        addresses = set(given)
        for member in self.members:
            if member.address in addresses:
                member.missing_since, member.is_leaving = None, False
            elif member.missing_since is None:
                member.missing_since = now
            elif now - member.missing_since >= LEAVE_AFTER_S:
                member.is_leaving = True
            self._let_go(member)

    def _let_go(self, member: Member) -> None:
        if member.is_leaving and len(member.outstanding) == member.in_vain and member in self.members:
            self.members = tuple(other for other in self.members if other is not member)
            self.departed.append(member)
            self.counts.duplicates += member.duplicates
            self.news.append(f"left the loader at {member.address}: the target no longer names it")

    # ---- what is late ----

    def look(self, now: float) -> float:
        """Ask a second loader for what is late at the first. When to look again, if nothing happens before."""
        self._looked_at = now
        again = self._place_refused(now)
        has_second = sum(member.is_connected for member in self.members) > 1
        for member in self.members:
            if member.outstanding:
                again = min(again, self._renew(member, now))
                if has_second:
                    again = min(again, self._look_at(member, now))
        return again

    def _look_if_due(self, now: float) -> None:
        if now - self._looked_at >= LOOK_AT_MOST_EVERY_S:
            self.look(now)

    def _renew(self, member: Member, now: float) -> float:
        """Have its stream made anew if nothing has come on it for far too long. When to look again."""
        at = self.patience.renew_at(member, now)
        if now < at:
            return at
        if not self.patience.is_surely_silent(member, now):
            return now + CONFIRM_S
        member.renewed += 1
        member.replica.renew(f"nothing came for {member.silent_s(now):.0f} s although the connection stands")
        return math.inf

    def _look_at(self, member: Member, now: float) -> float:
        patience = self.patience
        is_surely_silent = patience.is_surely_silent(member, now)
        silent_s = member.silent_s(now)
        # Those have little hope, and are few: one window at a time. For anything else there is a budget.
        is_lost = member.is_draining or (is_surely_silent and silent_s > STALLED_S)
        late_after_s = 0.0 if member.is_draining or is_surely_silent else patience.late_after_s
        for asked in member.outstanding.values():
            wanted = asked.wanted
            if wanted.outcome is not None or len(wanted.asked_of) > 1:
                continue
            if now - asked.at < late_after_s:  # and those after it were asked for later
                silent_at = now - silent_s + patience.silent_after_s
                if patience.is_silent(member, now):
                    silent_at = now + CONFIRM_S
                return min(asked.at + late_after_s, silent_at)
            since = -math.inf if member.is_draining else asked.at
            other = choose_second(
                self.members, wanted, since=since, now=now, silent_after_s=self.patience.silent_after_s
            )
            if other is None:
                return math.inf
            if not is_lost and not self._budget.spend():
                return now - silent_s + STALLED_S if silent_s <= STALLED_S else now + CONFIRM_S
            self.counts.hedged += 1
            self._ask(other, wanted, now)
        return math.inf

    # ---- inside ----

    def _place(self, wanted: Wanted, now: float) -> bool:
        """Ask somebody, or settle that nobody will answer; False if it has to wait for one."""
        member = choose(self.members, wanted, now=now, silent_after_s=self.patience.silent_after_s)
        if member is not None:
            self._ask(member, wanted, now)
            return True
        refusal = hopeless(self.members, wanted)
        if refusal is None or wanted.refused_by:
            return False
        self._settle(wanted, refusal, now)
        return True

    def _ask(self, member: Member, wanted: Wanted, now: float) -> None:
        assert member.outbox is not None, "who can take a key has an outbox"
        was_alone = not member.outstanding
        if was_alone:
            member.owing_since = now
        member.outstanding[wanted.ticket] = Asked(wanted, now, wanted.nbytes, was_alone)
        member.nbytes += wanted.nbytes
        member.asked += 1
        member.superseded.discard(wanted.ticket)
        wanted.asked_of += (member,)
        member.outbox.want(wanted.ticket, wanted.key)

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

    def _refused(self, member: Member, wanted: Wanted, refusal: FeedlineError, now: float) -> None:
        """It answered a key with an error."""
        if refusal.elsewhere or isinstance(refusal, DatasetChanged):
            wanted.refused_by += (member,)
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

    def _take_back(self, member: Member) -> list[Wanted]:
        """What it owes and nobody else was asked for: it is to be asked for again, before anything else."""
        lost = []
        for asked in member.outstanding.values():
            wanted = asked.wanted
            wanted.asked_of = tuple(other for other in wanted.asked_of if other is not member)
            if wanted.outcome is None and not wanted.asked_of:
                wanted.refused_by = ()
                lost.append(wanted)
        self._unplaced.extendleft(reversed(lost))
        member.outstanding = {}
        member.superseded = set()
        member.nbytes = member.in_vain = 0
        member.suspected_at = None
        return lost

    def _settle(self, wanted: Wanted, outcome: Received | FeedlineError, now: float) -> None:
        if isinstance(outcome, Received):
            wanted.nbytes = outcome.layout.nbytes
            self.counts.answered += 1
            self.counts.nbytes += wanted.nbytes
        wanted.outcome = outcome
        for member in wanted.asked_of:
            if self.patience.is_silent(member, now) and not isinstance(outcome, Closed):
                # Were it told not to answer, nothing might ever come from it again, and nobody would know it is back.
                member.in_vain += 1
            else:
                self._withdraw(member, wanted)
        if wanted.waiting:
            self._wake()

    def _withdraw(self, member: Member, wanted: Wanted) -> None:
        """A member need not answer, because another one has, or because nobody wants it any more."""
        asked = member.outstanding.pop(wanted.ticket)
        member.nbytes -= asked.nbytes
        wanted.asked_of = tuple(other for other in wanted.asked_of if other is not member)
        assert member.outbox is not None, "who has outstanding keys has an outbox"
        member.outbox.cancel(wanted.ticket)
        if not isinstance(wanted.outcome, Closed) and not asked.is_duplicate:
            if len(member.superseded) >= SUPERSEDED_REMEMBERED:
                member.superseded.clear()
            member.superseded.add(wanted.ticket)

    def refusal_of(self, member: Member) -> FeedlineError | None:
        """Why a member is of no use to this trainer, whatever room it has."""
        if not self._used or not member.is_connected:
            passes = isinstance(member.reason, LoaderUnavailable) and not isinstance(member.reason, NotLetIn)
            return None if passes else member.reason
        return next((refusal for used in self._used.values() if (refusal := member.refusal(*used))), None)

    def _say_refusal(self, member: Member) -> None:
        if refusal := self.refusal_of(member):
            self._say(member, refusal)

    def _say(self, member: Member, refusal: FeedlineError) -> None:
        """Once: that a loader is not asked, and why. Where there is no other, the reader is told by an error."""
        if str(refusal) != member.refusal_said and len(self.members) > 1:
            member.refusal_said = str(refusal)
            self.news.append(f"going on without one of {len(self.members)} loaders: {refusal}")
