"""What the front process and its workers say to each other.

One frozen dataclass a meaning, sent over a socket pair between our own processes. None of it comes from or goes to the
wire.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from feedline_server.declared.datasets import Declaration
from feedline_server.host.logs import LogFormat
from feedline_server.host.stopwatch import OWN_READ, READ
from feedline_server.memory.arena import ARENA
from feedline_server.sources.selection import Selection
from feedline_wire.errors import BadSample, FeedlineError
from feedline_wire.key import Key
from feedline_wire.stages import OF_WORKER, TRANSFORM
from feedline_wire.tensors import Layout

DatasetId: TypeAlias = tuple[str, bytes]
"""Name and fingerprint."""


@dataclass(frozen=True, slots=True)
class OfferedDataset:
    """One version of a dataset, as a worker opens it."""

    name: str
    declaration: Declaration
    fingerprint: bytes
    """What it is served under."""
    records: slice
    """Where in the memory of all records is what its files were."""
    kept: dict[str, Selection] | None = None
    """What filters kept of each view, where there are some: finding it out again may take long."""
    content: tuple[bytes, ...] | None = None
    """What the operator's objects were like when they were described, of which the fingerprint is made."""
    is_for_one_worker: bool = False
    """Only the worker of number 0 is given batches of it."""

    @property
    def id(self) -> DatasetId:
        """What keys name it by."""
        return self.name, self.fingerprint


@dataclass(frozen=True, slots=True)
class StartWork:
    """To a new worker, once. The descriptors of the arena and of its progress cell follow."""

    worker: int = 0
    """The worker's number, from 0 on; one that takes another's place has the same."""
    workers: int = 1
    log_format: LogFormat = "auto"
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class OfferDatasets:
    """To a worker: it may be told to open these. The descriptor of the records of their files follows."""

    datasets: tuple[OfferedDataset, ...]


@dataclass(frozen=True, slots=True)
class OpenDataset:
    """To a worker: open it, and answer with Opened or CannotOpen. It is one of those that were offered."""

    dataset: DatasetId
    path: Path | None = None
    """Where it lies now; None: where it is declared to lie."""


@dataclass(frozen=True, slots=True)
class WithdrawDataset:
    """To a worker: no more tasks will name it."""

    dataset: DatasetId


@dataclass(frozen=True, slots=True)
class Task:
    """To a worker: assemble this batch at byte `start` of the arena, or of a trainer's memory."""

    number: int
    key: Key
    start: int
    nbytes: int
    weight: float = 1.0
    """What it counts for among those that a worker holds: 1 for a batch that takes long, less for one that is short."""
    memory: int = ARENA

    @property
    def dataset(self) -> DatasetId:
        """What it is of."""
        return self.key.dataset, self.key.fingerprint

    def __reduce__(self) -> tuple[object, ...]:
        # See Key: there is one of these and one Done a batch.
        return Task, (self.number, self.key, self.start, self.nbytes, self.weight, self.memory)


@dataclass(frozen=True, slots=True)
class MapMemory:
    """To a worker: tasks will name this memory, a trainer's. Its descriptor follows."""

    memory: int


@dataclass(frozen=True, slots=True)
class UnmapMemory:
    """To a worker: no more tasks will name this memory."""

    memory: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it has loaded what it needs."""


@dataclass(frozen=True, slots=True)
class Opened:
    """From a worker: the dataset is open."""

    dataset: DatasetId
    first: bytes | None = None
    """What the first batch of a stream is told apart by, where several workers have one each."""


@dataclass(frozen=True, slots=True)
class CannotOpen:
    """From a worker: the dataset cannot be opened."""

    dataset: DatasetId
    error: FeedlineError


@dataclass(frozen=True, slots=True)
class Done:
    """The batch lies in its slot."""

    number: int
    layout: Layout | None
    """None: it lies as the front expects it to (assembly.layout_of)."""
    spent: dict[str, float]
    """Seconds that the worker took, by stage: `stopwatch`'s, and each transform by its purpose (`chain.Step`)."""
    bad: tuple[BadSample, ...] = ()
    """What was found to be bad meanwhile, for people to look at."""

    def __reduce__(self) -> tuple[object, ...]:
        return Done, (self.number, self.layout, self.spent, *([self.bad] if self.bad else []))


@dataclass(frozen=True, slots=True)
class SlotTooSmall:
    """The batch takes `nbytes`, more than its slot has: again, in a larger one. The worker is well."""

    number: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The dataset's code or files answered with an error; the worker is well."""

    number: int
    error: FeedlineError


@dataclass(frozen=True, slots=True)
class KilledWorkers:
    """From the pool, not from a worker: the batch ended `deaths` workers and is not tried again."""

    number: int
    deaths: int
    cause: str


Outcome = Done | SlotTooSmall | Failed | KilledWorkers


def by_stage(spent: Mapping[str, float]) -> tuple[float, ...]:
    """What was spent on each of `stages.OF_WORKER`: what has no name there is a transform."""
    found: dict[str, float] = dict.fromkeys(OF_WORKER, 0.0)
    for name, seconds in spent.items():
        found[_STAGES.get(name, TRANSFORM)] += seconds
    return tuple(found.values())


_STAGES: dict[str, str] = {**{stage: stage for stage in OF_WORKER}, OWN_READ: READ}

CELL_NBYTES = mmap.PAGESIZE

_NUMBER = struct.Struct("<Q")


class ProgressCell:
    """Which task a worker is at, for when it can say nothing any more: the worker writes it, its pool reads it.

    Tasks and answers travel several in a message, so what was not answered need not be what a worker died of. The
    number is in memory that both have mapped, and there however the worker ended.
    """

    def __init__(self, fd: int) -> None:
        """Map it; the descriptor stays the caller's."""
        self._memory = mmap.mmap(fd, CELL_NBYTES)
        self._memory.madvise(mmap.MADV_DONTFORK)  # it is the worker's, not that of what the operator's code forks

    @property
    def number(self) -> int:
        """The task begun last; 0 before the first."""
        return int(_NUMBER.unpack_from(self._memory)[0])

    @number.setter
    def number(self, number: int) -> None:
        _NUMBER.pack_into(self._memory, 0, number)

    def close(self) -> None:
        """Unmap it. Idempotent."""
        self._memory.close()
