"""The state of the loader in memory: what the test commands, what trainers want, what was answered.

`State.changed` guards everything here, and every change notifies it. So a command takes effect between two answers and
never within one.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from feedline.testing.memory import MemoryDataset
from feedline_wire import loader_pb2 as pb
from feedline_wire import versions
from feedline_wire.errors import FeedlineError, LoaderBusy, LoaderDraining, LoaderUnavailable
from feedline_wire.key import Key
from feedline_wire.versions import Peer

Failing = Callable[[Key], FeedlineError | None]
"""The error that a key is answered with; None: its batch."""


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


@dataclass(eq=False, slots=True, kw_only=True)
class State:
    """Everything that both the test and the trainers change."""

    dataset: MemoryDataset
    fingerprint: bytes
    speaks: Peer
    limits: pb.Limits
    max_trainers: int
    frame_bytes: int
    random: Random | None
    """Which of the keys wanted is answered next; None: the oldest."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    replica: str = ""
    listening: bool = False
    draining: bool = False
    answers_left: int | None = None
    """None: as many as are wanted; 0: stalled."""
    failing: Failing | None = None
    frames_to_damage: int = 0
    streams: list[Stream] = field(default_factory=list)
    requests: list[Key] = field(default_factory=list)
    answered: int = 0
    failures: int = 0
    nbytes: int = 0

    @property
    def is_stalled(self) -> bool:
        """Nothing is answered."""
        return self.answers_left == 0

    def on_the_way(self, wire: bytes) -> bytes:
        """A frame as it arrives: as it was sent, or with a bit turned in its middle if one is to be damaged."""
        with self.changed:
            if not self.frames_to_damage:
                return wire
            self.frames_to_damage -= 1
        damaged = bytearray(wire)
        damaged[len(wire) // 2] ^= 1
        return bytes(damaged)

    def open_stream(self, trainer: Peer) -> Stream:
        """Begin with a trainer; a FeedlineError that says why not."""
        with self.changed:
            versions.agree(self.speaks, trainer)
            if not self.listening:
                raise LoaderUnavailable("this loader was stopped")
            if self.draining:
                raise LoaderDraining("this loader is shutting down; ask another replica", elsewhere=True)
            if len(self.streams) >= self.max_trainers:
                raise LoaderBusy(f"this loader serves {len(self.streams)} streams and takes no more", elsewhere=True)
            stream = Stream()
            self.streams.append(stream)
            self.changed.notify_all()
            return stream

    def end_stream(self, stream: Stream) -> None:
        """The trainer is gone. Idempotent."""
        with self.changed:
            stream.is_over = True
            if stream in self.streams:
                self.streams.remove(stream)
            self.changed.notify_all()

    def next_step(self, stream: Stream) -> Step:
        """Wait until there is something to do for a stream; its end is such a thing."""
        with self.changed:
            while True:
                step = stream.take_step(
                    draining=self.draining,
                    answers=self.answers_left,
                    frame_bytes=self.frame_bytes,
                    random=self.random,
                )
                if isinstance(step, Answer) and self.answers_left is not None:
                    self.answers_left -= len(step.wants)
                if step is not None:
                    return step
                self.changed.wait()

    def wait_while_stalled(self, is_wanted: Callable[[], bool]) -> None:
        """Wait until anything may be answered, or this is no longer wanted."""
        with self.changed:
            self.changed.wait_for(lambda: not (self.is_stalled and self.listening and is_wanted()))

    def wake(self) -> None:
        """Something changed that is not written here."""
        with self.changed:
            self.changed.notify_all()
