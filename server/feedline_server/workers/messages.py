"""What the front process and its workers say to each other.

One frozen dataclass a meaning, sent over a socket pair between our own processes. None of it comes from or goes to the
wire.
"""

import mmap
import struct
from dataclasses import dataclass, field

from feedline_server.declared.datasets import Declaration
from feedline_server.host.logs import LogFormat
from feedline_server.memory.arena import ARENA
from feedline_server.sources.selection import Selection
from feedline_wire.errors import FeedlineError
from feedline_wire.key import Key
from feedline_wire.tensors import Layout


@dataclass(frozen=True, slots=True)
class OpenDatasets:
    """To a new worker, once: what to open."""

    datasets: dict[str, tuple[Declaration, bytes]]
    """Name → the dataset's declaration, and the fingerprint it is served under."""
    kept: dict[str, dict[str, Selection]] = field(default_factory=dict)
    """Name → what filters kept of each view, where there are some: finding it out again may take long."""
    log_format: LogFormat = "auto"
    log_level: str = "info"


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
    """From a worker: the datasets are open."""


@dataclass(frozen=True, slots=True)
class CannotOpen:
    """From a worker: the datasets cannot be opened; it ends now."""

    error: FeedlineError


@dataclass(frozen=True, slots=True)
class Done:
    """The batch lies in its slot."""

    number: int
    layout: Layout | None
    """None: it lies as the front expects it to (assembly.layout_of)."""
    seconds: float
    """How long the worker took."""

    def __reduce__(self) -> tuple[object, ...]:
        return Done, (self.number, self.layout, self.seconds)


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
