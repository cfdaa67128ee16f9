"""A batch that is being assembled: in which slot, and for which streams.

A stream that wants a key that is being assembled takes part in that job, so a batch is assembled once however many
streams want it.
"""

from collections import deque
from dataclasses import dataclass

from feedline_server.batches.assembly import sample_ids
from feedline_server.memory.arena import Slot
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.stream import Stream, Want
from feedline_server.scheduling.work import WorkByView
from feedline_server.workers.messages import Failed, KilledWorkers, SlotTooSmall
from feedline_wire.errors import BatchKillsWorkers, FeedlineError, LoaderBroken
from feedline_wire.key import Key

FAILURES = 20
"""Errors that are remembered for people to look at."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A stream that takes part in a job, under its own ticket."""

    stream: Stream
    want: Want

    @property
    def is_waiting(self) -> bool:
        """It is still to be answered: its stream has not ended, and it was not cancelled."""
        return self.want.ticket in self.stream.assembling


@dataclass(frozen=True, slots=True)
class Job:
    """A batch that is being assembled."""

    key: Key
    slot: Slot
    is_shared: bool
    """Other streams may take part."""
    weight: float
    """Of its task."""
    waiters: list[Waiter]


class Jobs:
    """All batches that are being assembled. Not locked."""

    def __init__(self) -> None:
        self._by_number: dict[int, Job] = {}
        self._by_key: dict[Key, Job] = {}
        self._number = 0
        self.failures: deque[tuple[float, str, FeedlineError]] = deque(maxlen=FAILURES)
        """When, of which dataset, and the error that its trainers were answered: the last few."""
        self.load = 0.0
        """What the pool has of them, in tasks that take long."""

    def __len__(self) -> int:
        return len(self._by_number)

    def begin(self, job: Job) -> int:
        """Remember a job; the number of its task."""
        self._number += 1
        self._by_number[self._number] = job
        self.load += job.weight
        if job.is_shared:
            self._by_key[job.key] = job
        return self._number

    def find(self, key: Key) -> Job | None:
        """The job that assembles this key already."""
        return self._by_key.get(key)

    def end(self, number: int) -> Job:
        """The job has an outcome."""
        job = self._by_number.pop(number)
        self.load = self.load - job.weight if self._by_number else 0.0  # no sum of roundings
        if job.is_shared:
            del self._by_key[job.key]
        return job


class Estimates:
    """What finished tasks tell about the next of their kind: how long it takes to assemble, and how much memory.

    A message to a worker and the wake-up that comes with it cost both sides as much as assembling a small batch, so a
    worker is given several at once of those that take no time. Batches of a dataset that take long, or were not seen
    yet, are given one by one, so that fairness is not held up behind a queue.
    """

    LONG_S = 0.002
    """Two such batches keep a worker busy ahead of the pool; some ten messages' worth."""

    LEAST = 1 / 8
    """Sixteen at once: sharing a message among more saves nothing that could be measured."""

    REMEMBERED = 1024
    """Kinds: a dataset and a number of rows. Real trainers ask for a few; a hostile one could ask for any number."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._outgrown: dict[tuple[str, int], int] = {}
        self.work = WorkByView()

    def weight(self, key: Key) -> float:
        """What a task counts for: 1 for a batch that takes long."""
        return min(max(self._seconds.get(key.dataset, self.LONG_S) / self.LONG_S, self.LEAST), 1.0)

    def note_seconds(self, key: Key, seconds: float | None) -> None:
        """A batch took so long; None: it failed, and nothing is known any more."""
        if seconds is None:
            self._seconds.pop(key.dataset, None)
            return
        self.work.assembled(key, seconds)
        # Quick to believe that batches take long, slow to believe that they do not.
        known = self._seconds.get(key.dataset, self.LONG_S)
        self._seconds[key.dataset] = max(seconds, known + (seconds - known) / 8)

    def nbytes(self, key: Key, at_least: int) -> int:
        """Bytes to allocate for a key."""
        return max(at_least, self._outgrown.get((key.dataset, key.rows), 0))

    def note_nbytes(self, key: Key, nbytes: int) -> None:
        """A batch outgrew its slot, and takes so many."""
        if len(self._outgrown) >= self.REMEMBERED:
            self._outgrown.clear()
        self._outgrown[key.dataset, key.rows] = self.nbytes(key, nbytes)


def refusal(job: Job, outcome: SlotTooSmall | Failed | KilledWorkers, catalog: Catalog) -> FeedlineError | None:
    """What the streams that take part in a job are answered; None if it is to be assembled again, in a larger slot."""
    match outcome:
        case Failed(error=error):
            return error
        case KilledWorkers(deaths=deaths, cause=cause):
            dataset = catalog.dataset(job.key)
            ids = () if dataset.is_stream else sample_ids(dataset, job.key)
            first = ", ".join(map(str, ids[:8]))
            look = f"its sample ids begin {first}: look at these samples" if first else "look at it"
            return BatchKillsWorkers(
                f"the batch {job.key} ended {deaths} workers, the last by {cause}; {look} and at the code that reads "
                f"them",
                samples=ids,
            )
        case SlotTooSmall(nbytes=nbytes) if nbytes <= job.slot.nbytes:  # it would be assembled again for ever
            return LoaderBroken(f"the batch {job.key} did not fit {job.slot.nbytes} bytes and takes {nbytes}")
        case SlotTooSmall(nbytes=nbytes) if nbytes > catalog.max_batch_nbytes:
            return catalog.too_large(f"the batch {job.key}", nbytes)
    return None
