"""The books of the loader in memory: what the test commands, what trainers want, what was answered.

The law: `changed` guards everything here and in the streams; whoever changes something wakes whoever waits. So a
command takes effect between two answers and never within one.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from feedline.testing.memory import MemoryDataset
from feedline.testing.stream import Answer, Step, Stream
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, LoaderBusy, LoaderDraining, LoaderUnavailable, ProtocolMismatch
from feedline_wire.key import Key

Failing = Callable[[Key], FeedlineError | None]
"""The error that a key is answered with; None: its batch."""


@dataclass(eq=False, slots=True, kw_only=True)
class Books:
    """Everything that both the test and the trainers change."""

    dataset: MemoryDataset
    fingerprint: bytes
    protocol: int
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

    def open_stream(self, protocol: int) -> Stream:
        """Begin with a trainer that speaks this protocol; a FeedlineError that says why not."""
        with self.changed:
            if protocol != self.protocol:
                raise self.other_protocol(protocol)
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
        """The trainer is gone. Twice is fine."""
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

    def other_protocol(self, theirs: int) -> ProtocolMismatch:
        """What a trainer of another version is told."""
        return ProtocolMismatch(
            f"the trainer speaks version {theirs} of feedline's protocol, this loader in memory version "
            f"{self.protocol}; install the same feedline on both sides"
        )
