"""What is known of trainers and loaders over the last minute, as values: the verdict and the demand are made of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from feedline_wire.stages import OF_WORKER

OF_WORKERS = ("queue", *OF_WORKER)
"""Stages that more workers shorten."""

OF_LINE = ("send", "receive")

MOSTLY = 0.5
"""Of a wait, or of what fills it: what is more than this is what it was for."""

RECENT_S = 60.0
"""Seconds that they are about, at most."""


@dataclass(frozen=True, slots=True)
class ReaderFigures:
    """One rank that reads one view."""

    name: str
    """dataset/view"""
    rank: int
    world: int
    elapsed_s: float
    waited: Mapping[str, float]
    """Seconds of these, by stage (`feedline_wire.stages.STAGES`)."""
    batches: int = 0
    lane: str = ""
    trainer: str = ""
    """One connection of one trainer; loaders that say the same of it mean the same."""
    loaders: int = 0
    """That it reads from; 0: it does not say."""
    is_reading: bool = True
    """It reads, or waits for a batch. False: it is at something else."""

    @property
    def waited_s(self) -> float:
        """Seconds waited, for any stage."""
        return sum(self.waited.values())

    @property
    def share(self) -> float:
        """Of the time, 0 to 1."""
        return min(self.waited_s / self.elapsed_s, 1.0) if self.elapsed_s > 0 else 0.0

    def part(self, stages: Iterable[str]) -> float:
        """Of what was waited, 0 to 1."""
        return sum(self.waited.get(stage, 0.0) for stage in stages) / self.waited_s if self.waited_s else 0.0


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One loader, over `seconds`."""

    address: str
    seconds: float
    workers: int
    arena_nbytes: int
    batches: int = 0
    """Sent."""
    nbytes: int = 0
    """Sent."""
    assembling_s: float = 0.0
    """That workers spent on batches."""
    worker_s: Mapping[str, float] = field(default_factory=dict)
    """The same by stage: storage, read, assemble, and each transform by its name."""
    own_read_s: float = 0.0
    """Of worker_s["read"]: in the operator's own Python."""
    send_s: float = 0.0
    """That batches stood ready, all together."""
    short_of_memory_s: float = 0.0
    best_nbytes_per_s: float = 0.0
    workers_busy: int = 0
    """At this moment."""
    work: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """By dataset/view: batches sent, and seconds that workers spent on them."""
    times_nothing: str = ""
    """The version of a loader that times no stages; empty if it does."""

    @property
    def busy(self) -> float:
        """Of its workers' time, 0 to 1."""
        return min(self.assembling_s / (self.seconds * self.workers), 1.0) if self.seconds and self.workers else 0.0


def trainings(readers: Iterable[ReaderFigures]) -> list[list[ReaderFigures]]:
    """The readers of each training: the ranks of one view. A trainer that is alone in its world is one by itself."""
    groups: dict[object, dict[object, ReaderFigures]] = {}
    for one in readers:
        job = (one.name, one.world) if one.world > 1 else (one.name, one.trainer)
        known = groups.setdefault(job, {}).get(one.rank)
        if known is None or one.batches > known.batches:  # else it is told by a second loader, or left over
            groups[job][one.rank] = one
    return [list(group.values()) for group in groups.values()]
