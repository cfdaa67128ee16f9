"""A batch at the pool: in which slot, and for whom.

Whoever wants a key that is being assembled takes part in it, so a batch is assembled once however many want it.
"""

from dataclasses import dataclass

from feedline_server.batches.assembly import sample_ids
from feedline_server.memory.arena import Slot
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.stream import Stream, Want
from feedline_server.workers.messages import Failed, KilledWorkers, SlotTooSmall
from feedline_wire.errors import BatchKillsWorkers, FeedlineError, InvalidRequest, LoaderBroken
from feedline_wire.key import Key


@dataclass(frozen=True, slots=True)
class Waiter:
    """A stream that takes part in a batch, under its own ticket."""

    stream: Stream
    want: Want

    @property
    def is_waiting(self) -> bool:
        """It is to be told; else its stream ended, or it was cancelled."""
        return self.want.ticket in self.stream.assembling


@dataclass(frozen=True, slots=True)
class Job:
    """A batch that is being assembled."""

    key: Key
    slot: Slot
    is_shared: bool
    """Others may take part: the batch is a pure function of its key, which that of a stream without keys is not."""
    weight: float
    """Of its task."""
    waiters: list[Waiter]


class Jobs:
    """All batches that are being assembled. Not locked."""

    def __init__(self) -> None:
        self._by_number: dict[int, Job] = {}
        self._by_key: dict[Key, Job] = {}
        self._number = 0
        self.load = 0.0
        """What the pool has of them, in tasks that take long."""

    def __len__(self) -> int:
        return len(self._by_number)

    def begin(self, job: Job) -> int:
        """Remember it; the number of its task."""
        self._number += 1
        self._by_number[self._number] = job
        self.load += job.weight
        if job.is_shared:
            self._by_key[job.key] = job
        return self._number

    def find(self, key: Key) -> Job | None:
        """The one that assembles this key already."""
        return self._by_key.get(key)

    def end(self, number: int) -> Job:
        """It has an outcome."""
        job = self._by_number.pop(number)
        self.load = self.load - job.weight if self._by_number else 0.0  # no sum of roundings
        if job.is_shared:
            del self._by_key[job.key]
        return job


class TaskWeights:
    """How long batches take to assemble, by dataset: of those that take no time, a worker is given several at once.

    A message and the wake-up that comes with it cost both sides as much as assembling a small batch. A dataset whose
    batches take long, or were not seen yet, is given one by one, so that fairness is not held up behind a queue.
    """

    LONG_S = 0.002
    """What two of take a worker is ahead of the pool; some ten messages' worth."""

    LEAST = 1 / 8
    """Sixteen at once: sharing a message among more saves nothing that could be measured."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def weight(self, key: Key) -> float:
        """What a task counts for."""
        return min(max(self._seconds.get(key.dataset, self.LONG_S) / self.LONG_S, self.LEAST), 1.0)

    def note(self, key: Key, seconds: float | None) -> None:
        """A batch took so long; None: it failed, and nothing is known any more."""
        if seconds is None:
            self._seconds.pop(key.dataset, None)
        else:  # quick to believe that batches take long, slow to believe that they do not
            known = self._seconds.get(key.dataset, self.LONG_S)
            self._seconds[key.dataset] = max(seconds, known + (seconds - known) / 8)


class BatchSizes:
    """What batches that outgrew their estimate took: the next of their kind is lent as much from the start."""

    REMEMBERED = 1024
    """Kinds: a dataset and a number of rows. Real trainers ask for a few; a hostile one could ask for any number."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], int] = {}

    def of(self, key: Key, estimate: int) -> int:
        """Bytes to allocate for a key."""
        return max(estimate, self._taken.get((key.dataset, key.rows), 0))

    def note(self, key: Key, nbytes: int) -> None:
        """A batch took so many."""
        if len(self._taken) >= self.REMEMBERED:
            self._taken.clear()
        self._taken[key.dataset, key.rows] = max(nbytes, self.of(key, 0))


def refusal(job: Job, outcome: SlotTooSmall | Failed | KilledWorkers, catalog: Catalog) -> FeedlineError | None:
    """What whoever takes part in a job is told; None if it is to be assembled again, in a larger slot."""
    if isinstance(outcome, Failed):
        return outcome.error
    if isinstance(outcome, KilledWorkers):
        return _kills(job.key, outcome, catalog)
    if outcome.nbytes <= job.slot.nbytes:  # it would be assembled again for ever
        return LoaderBroken(f"the batch {job.key} did not fit {job.slot.nbytes} bytes and takes {outcome.nbytes}")
    if outcome.nbytes > catalog.max_batch_nbytes:
        return InvalidRequest(
            f"the batch {job.key} takes {outcome.nbytes} bytes; this loader assembles at most "
            f"{catalog.max_batch_nbytes} (half its memory budget): ask for fewer rows, or start it with more memory"
        )
    return None


def _kills(key: Key, outcome: KilledWorkers, catalog: Catalog) -> BatchKillsWorkers:
    dataset = catalog.served[key.dataset].dataset
    ids = () if dataset.is_stream else sample_ids(dataset, key)
    samples = (
        f"its sample ids begin {', '.join(map(str, ids[:8]))}: look at these samples" if len(ids) else "look at it"
    )
    return BatchKillsWorkers(
        f"the batch {key} ended {outcome.deaths} workers, the last by {outcome.cause}; {samples} and at the code that "
        f"reads them",
        samples=ids,
    )
