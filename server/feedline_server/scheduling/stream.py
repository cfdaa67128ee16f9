"""One trainer's stream: the keys it wants, what is being assembled for it, what is ready and what is being sent.

The scheduler alone changes it, under its lock. `changed` is a condition on that lock; the stream's sender waits on it.
"""

import operator
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from feedline_server.access.tokens import ANYBODY, Caller
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.memory.arena import ARENA, Slot
from feedline_server.memory.trainer import TrainerMemory
from feedline_server.scheduling.work import WorkByView
from feedline_wire import BAD, stages
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key
from feedline_wire.status import LoaderCounters
from feedline_wire.tensors import Layout
from feedline_wire.text import plain

MOST_READERS = 4
"""Readers of a stream that are shown: training and validation of a rank, and as many again."""

LONGEST_NAME = 16
"""Characters of a trainer's name for a reader; it makes 8."""


NO_WORKER = (0.0,) * len(stages.OF_WORKER)


@dataclass(frozen=True, slots=True)
class Want:
    """A key that the trainer asked for at `since`, under its own ticket; the batch takes `nbytes`."""

    ticket: int
    key: Key
    nbytes: int
    since: float


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Equal to itself alone: hundreds of small ones may be at a sender, which asks for each whether it is there."""

    want: Want

    @property
    def ticket(self) -> int:
        """The trainer's name for it."""
        return self.want.ticket


@dataclass(frozen=True, slots=True, eq=False)
class Batch(_Wanted):
    """An assembled batch in its slot."""

    layout: Layout
    slot: Slot
    ready_at: float = 0.0
    of_worker: tuple[float, ...] = NO_WORKER
    """How long its worker took: `Done.stages`; nothing where the cache had it."""

    @property
    def nbytes(self) -> int:
        """Bytes of its body."""
        return self.layout.nbytes

    @property
    def is_in_arena(self) -> bool:
        """It lies in the loader's memory; else in the trainer's own."""
        return self.slot.memory == ARENA

    @property
    def unsent_nbytes(self) -> int:
        """Bytes that its sender has to move: none, if it lies in the trainer's memory."""
        return self.nbytes if self.is_in_arena else 0


@dataclass(frozen=True, slots=True, eq=False)
class FileBatch(_Wanted):
    """A batch that is sent from the files where its rows lie: no worker assembles it, and it takes no memory."""

    source: ZeroCopySource
    ready_at: float = 0.0
    of_worker = NO_WORKER

    @property
    def nbytes(self) -> int:
        """Bytes of its body, all of which its sender has to move."""
        return self.want.nbytes

    unsent_nbytes = nbytes


def stages_of(batch: Batch | FileBatch, now: float) -> bytes:
    """How long a batch was in each stage until now, when it goes onto the line, as it travels."""
    return stages.pack(_queued_s(batch), now - batch.ready_at, *batch.of_worker)


def _queued_s(batch: Batch | FileBatch) -> float:
    # Less than nothing where the stream took part in a job that had begun.
    return max(batch.ready_at - batch.want.since - sum(batch.of_worker), 0.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no batch for this ticket, and why."""

    ticket: int
    error: FeedlineError
    unsent_nbytes: int = 0
    key: Key | None = field(default=None, compare=False)
    """For the log, where it is one that is served."""


Delivery = Batch | FileBatch | Refusal


@dataclass(eq=False, slots=True)
class Stream:
    """What the scheduler knows about one stream."""

    peer: str
    changed: threading.Condition
    caller: Caller = ANYBODY
    trace: Mapping[str, str] = field(default_factory=dict)
    """Of its trainer, for the log (`feedline_wire.trace`)."""
    lane: str = ""
    """By which it is sent batches; empty: by gRPC."""
    memory: TrainerMemory | None = None
    """The trainer's own, if it is on this host: batches are assembled there and take nothing of the arena."""
    versions: set[tuple[str, bytes]] = field(default_factory=set)
    """Name and fingerprint of what it has wanted keys of."""
    sends_from_files: bool = False
    """It has a lane over which a batch can be sent from many places."""
    is_compressed: bool = False
    """Its batches are compressed, if that makes them shorter, and so have to be in memory. Its sender's to say."""
    compressed: tuple[int, int] = (0, 0)
    """Bytes of its batches that went compressed and are not counted yet, and how many stood for them. Its sender's."""
    waiting: deque[Want] = field(default_factory=deque)
    assembling: set[int] = field(default_factory=set)
    """Tickets."""
    ready: deque[Delivery] = field(default_factory=deque)
    sending: dict[Batch, None] = field(default_factory=dict)
    """At the sender, which has not copied all of them out."""
    unread_since: float | None = None
    """When the network was given the frame that it has not taken yet; None while the sender is at work or waits."""
    held_nbytes: int = 0
    """Bytes of the arena it holds: assembling, ready and being sent."""
    virtual_time: float = 0.0
    """What its batches have cost; see fairness."""
    batches: int = 0
    nbytes: int = 0
    readers: dict[str, tuple[pb.Reader, float]] = field(default_factory=dict)
    """How its trainer fares, as it says, and when, by its name for the reader; the one that spoke last is the last."""
    is_checksummed: bool = False
    """Every message of the stream ends with a checksum; its first message says so, before anything is sent."""
    closed: bool = False
    wants_ended: bool = False
    """The trainer has said that it will want nothing more."""
    error: FeedlineError | None = None
    """Why the loader ended the stream."""

    def __repr__(self) -> str:
        return (
            f"<Stream {self.peer} waiting={len(self.waiting)} assembling={len(self.assembling)} "
            f"ready={len(self.ready)} sent={self.batches}>"
        )

    def count_sent(self, batch: Batch | FileBatch, counts: LoaderCounters, work: WorkByView, now: float) -> None:
        """It was sent a batch."""
        work.sent(batch.want.key)
        self.batches += 1
        self.nbytes += batch.nbytes
        counts.batches += 1
        counts.bytes += batch.nbytes
        match self.lane:
            case "tcp":
                counts.bytes_tcp += batch.nbytes
            case "shm":
                counts.bytes_shm += batch.nbytes
            case "sealed":
                counts.bytes_sealed += batch.nbytes
        nbytes, to_nbytes = self.compressed
        counts.bytes_compressed += nbytes
        counts.bytes_compressed_to += to_nbytes
        self.compressed = (0, 0)
        if isinstance(batch, FileBatch):
            counts.scattered += 1
        elif (last := batch.layout.arrays[-1]).name == BAD:
            counts.bad_samples += last.shape[0]
        counts.queue_s += _queued_s(batch)
        counts.send_s += now - batch.ready_at

    @property
    def log_fields(self) -> dict[str, object]:
        """Whose it is, for a line of the log."""
        fields: dict[str, object] = {"peer": self.peer, "client": self.caller.name, **self.trace}
        for one, _ in list(self.readers.values())[-1:]:  # a copy: its trainer may just be saying something
            fields |= {"trainer": one.trainer, "dataset": one.dataset, "view": one.view, "rank": one.rank}
        return fields

    def note_reader(self, reader: pb.Reader, now: float) -> bool:
        """Its trainer says how it fares with a view. Whether this is one of its first readers, and the first of it."""
        reader.trainer = plain(reader.trainer, LONGEST_NAME)
        reader.lane = plain(reader.lane, LONGEST_NAME)
        is_new = reader.trainer not in self.readers and len(self.readers) < MOST_READERS
        self.readers.pop(reader.trainer, None)
        self.readers[reader.trainer] = reader, now
        if len(self.readers) > MOST_READERS:
            del self.readers[next(iter(self.readers))]
        return is_new

    @property
    def unanswered(self) -> int:
        """Keys in its window."""
        return len(self.waiting) + len(self.assembling) + len(self.ready)

    @property
    def unsent(self) -> list[Batch]:
        """Batches that nothing reads or writes now: while the sender waits for the network those being sent, then those
        ready."""
        ready = [delivery for delivery in self.ready if isinstance(delivery, Batch)]
        return ready if self.unread_since is None else [*self.sending, *ready]

    def deliver(self, delivery: Delivery) -> None:
        """Something is ready for the sender."""
        self.ready.append(delivery)
        self.changed.notify()

    def take(self, nbytes: int) -> list[Delivery]:
        """The next delivery, and as many more as fit into `nbytes` with it. Something must be ready."""
        taken: list[Delivery] = []
        while self.ready and (not taken or self.ready[0].unsent_nbytes <= nbytes):
            delivery = self.ready.popleft()
            taken.append(delivery)
            nbytes -= delivery.unsent_nbytes
            if isinstance(delivery, Batch):
                self.sending[delivery] = None
        return taken

    def cancel(self, tickets: Collection[int]) -> list[Batch]:
        """Forget keys, wherever they are but at the sender; the batches among them that were ready."""
        self.waiting = deque(want for want in self.waiting if want.ticket not in tickets)
        self.assembling.difference_update(tickets)
        cancelled = [delivery for delivery in self.ready if delivery.ticket in tickets]
        self.ready = deque(delivery for delivery in self.ready if delivery.ticket not in tickets)
        return [delivery for delivery in cancelled if isinstance(delivery, Batch)]

    def forget(self, batch: Batch) -> None:
        """One that is ready, or being sent, will not be sent."""
        if batch in self.sending:
            del self.sending[batch]
        else:
            self.ready.remove(batch)

    def drain(self) -> None:
        """Forget what was not begun, here or elsewhere."""
        self.waiting.clear()
        self.ready = deque(delivery for delivery in self.ready if not isinstance(delivery, FileBatch))
        self.changed.notify_all()

    def end(self, error: FeedlineError | None) -> list[Batch]:
        """Forget everything; the batches to release. What is just being copied is released by its sender."""
        self.closed, self.error = True, error
        unsent = self.unsent
        self.waiting.clear()
        self.assembling.clear()
        self.ready.clear()
        if self.unread_since is not None:
            self.sending.clear()
        self.changed.notify_all()
        return unsent


WAITING: Callable[[Stream], deque[Want]] = operator.attrgetter("waiting")
