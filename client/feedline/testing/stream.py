"""One Fetch stream of the loader in memory: what is wanted of it, and what it does next.

Decides only; the loader acts. All of it is read and changed under the loader's lock.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key


@dataclass(frozen=True, slots=True)
class Want:
    """A key under the trainer's ticket; `nbytes` is what its batch takes, `refusal` why there can be none."""

    ticket: int
    key: Key
    nbytes: int
    refusal: FeedlineError | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer these: a single one, or as many small ones as share a frame."""

    wants: tuple[Want, ...]


@dataclass(frozen=True, slots=True)
class SayDraining:
    """Tell the trainer that this loader is going away."""


@dataclass(frozen=True, slots=True)
class End:
    """The stream is over; `dropped`, if it should look like a broken connection."""

    dropped: bool


Step = Answer | SayDraining | End


@dataclass(eq=False, slots=True)
class Stream:
    """What is wanted, in order of arrival, and what was said to either side."""

    waiting: list[Want] = field(default_factory=list)
    trainer_wants_no_more: bool = False
    is_told_draining: bool = False
    is_dropped: bool = False
    """The loader breaks it off."""
    is_over: bool = False
    """The trainer is gone."""

    def cancel(self, tickets: Iterable[int]) -> None:
        """Forget what is no longer wanted."""
        gone = set(tickets)
        self.waiting = [want for want in self.waiting if want.ticket not in gone]

    def take_step(self, *, draining: bool, answers: int | None, frame_bytes: int, random: Random | None) -> Step | None:
        """What to do now; None: wait until something changes.

        `answers` is how many keys may be answered, None for any number; `random` picks which, None takes the oldest.
        """
        if self.is_over or self.is_dropped:
            return End(dropped=self.is_dropped)
        if draining and not self.is_told_draining:
            self.is_told_draining = True
            return SayDraining()
        if not self.waiting:
            return End(dropped=False) if draining or self.trainer_wants_no_more else None
        if answers == 0:
            return None
        wants = [self._take_want(random)]
        total = wants[0].nbytes
        while self.waiting and (answers is None or len(wants) < answers):
            want = self._take_want(random)
            total += want.nbytes
            if total > frame_bytes:
                self.waiting.insert(0, want)
                break
            wants.append(want)
        return Answer(tuple(wants))

    def _take_want(self, random: Random | None) -> Want:
        return self.waiting.pop(random.randrange(len(self.waiting)) if random else 0)
