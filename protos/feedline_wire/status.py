"""What a loader says of itself in `Status`: one table of counters for the wire, `feedline inspect` and the log.

Each field of `LoaderCounters` and `StreamCounters` is a counter. Its name, unit and meaning travel with its value, so a
client shows the counters of a newer loader too. A new one takes a line here and the line that counts.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedline_wire import loader_pb2 as pb
from feedline_wire import stages
from feedline_wire.figures import ReaderFigures, ReplicaFigures

Number = int | float

QUIET_S = 5.0
"""A trainer that reads says so about each second; one that evaluates, or saves its weights, says nothing."""


def _counter(unit: str, meaning: str) -> Any:  # noqa: ANN401 - as dataclasses.field, for the annotation to say the type
    return dataclasses.field(default=0, metadata={"unit": unit, "meaning": meaning})


@dataclass(slots=True)
class LoaderCounters:
    """Of a whole loader, since its start if nothing else is said. Each field is written in one place."""

    uptime_s: float = _counter("s", "since the start")
    workers: int = _counter("workers", "configured")
    workers_busy: int = _counter("workers", "assembling now")
    workers_restarted: int = _counter("workers", "that ended and were replaced")
    batches: int = _counter("batches", "sent")
    bytes: int = _counter("bytes", "sent")
    bytes_tcp: int = _counter("bytes", "of them by the tcp lane")
    bytes_shm: int = _counter("bytes", "of them by the shm lane")
    bytes_sealed: int = _counter("bytes", "of them by the sealed lane")
    bytes_compressed: int = _counter("bytes", "of them that went compressed")
    bytes_compressed_to: int = _counter("bytes", "that stood for those on the line")
    bad_samples: int = _counter(
        "samples", "that could not be read, left out of batches that were sent or replaced in them"
    )
    failures: int = _counter("keys", "answered with an error")
    shared: int = _counter("batches", "sent to one stream and assembled for another")
    scattered: int = _counter("batches", "sent straight from files, assembled by no worker")
    reclaimed: int = _counter("batches", "dropped unsent for want of room, to be assembled again")
    assembling_s: float = _counter("s", "that workers spent on batches")
    queue_s: float = _counter("s", "that keys waited until a worker began, all together")
    storage_s: float = _counter("s", "that workers waited while they read, mostly for the disk")
    read_s: float = _counter("s", "that workers read and decoded")
    own_read_s: float = _counter("s", "of these in your own Python")
    transform_s: float = _counter("s", "that workers transformed")
    assemble_s: float = _counter("s", "that workers laid out batches")
    send_s: float = _counter("s", "that batches stood ready or were sent, all together")
    short_of_workers_s: float = _counter("s", "in which keys waited for a worker")
    short_of_memory_s: float = _counter("s", "in which keys waited for memory")
    best_rate: float = _counter("bytes a second", "sent at best, over a second")
    arena_bytes: int = _counter("bytes", "of memory for batches")
    arena_lent: int = _counter("bytes", "of it lent to batches on their way")
    arena_kept: int = _counter("bytes", "of it kept for trainers that ask next")
    waited_s: float = _counter("s", "that the oldest key has waited for this loader")


@dataclass(slots=True)
class StreamCounters:
    """Of one trainer's stream."""

    waiting: int = _counter("keys", "wanted, not begun")
    assembling: int = _counter("batches", "being assembled")
    ready: int = _counter("batches", "assembled, not sent")
    batches: int = _counter("batches", "sent")
    bytes: int = _counter("bytes", "sent")
    waited_s: float = _counter("s", "that its oldest key has waited for this loader")
    unread_s: float = _counter("s", "since it last read, while batches wait for it")


@dataclass(frozen=True, slots=True)
class Reading:
    """A counter as a client sees it."""

    value: Number
    unit: str
    meaning: str


class Readings(Mapping[str, Number]):
    """The values of counters by name, also of counters that this side's table does not have; `of` says what each is.

    Read from the messages when they are first looked at: of thousands of streams few are.
    """

    def __init__(self, messages: Iterable[pb.Counter]) -> None:
        self._messages = messages

    @functools.cached_property
    def of(self) -> dict[str, Reading]:
        """Each counter by its name."""
        return {
            one.name: Reading(one.real if one.WhichOneof("value") == "real" else one.whole, one.unit, one.meaning)
            for one in self._messages
        }

    def __getitem__(self, name: str) -> Number:
        return self.of[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)

    def __repr__(self) -> str:
        return f"<Readings {' '.join(f'{name}={value}' for name, value in self.items())}>"


@dataclass(frozen=True, slots=True)
class TrainerStatus:
    """One trainer's stream, as a client sees it."""

    peer: str
    counters: Readings
    readers: tuple[pb.Reader, ...] = ()
    """How it fares with each view that it reads, in its own words; counts are those of the last minute."""


@dataclass(frozen=True, slots=True)
class LoaderStatus:
    """What a loader is doing now, as a client sees it."""

    replica: str
    version: str
    draining: bool
    short_of: str
    """What keys wait for: `workers`, `memory`, or nothing (empty)."""
    counters: Readings
    trainers: tuple[TrainerStatus, ...]
    recent_s: float = 0.0
    """What the following is about: the last minute, or what of it was more than idleness. 0: it says nothing."""
    recent: Readings = dataclasses.field(default_factory=lambda: Readings(()))
    """How much each counter grew."""
    steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Worker-seconds in each transform, by its name."""
    work: Mapping[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    """By dataset/view: batches sent, and seconds that workers spent on them."""


def for_log(counters: LoaderCounters) -> dict[str, Number]:
    """The counters as a line of the log has them."""
    return {name: round(value, 1) for name, value in dataclasses.asdict(counters).items()}


def to_messages(counters: LoaderCounters | StreamCounters) -> list[pb.Counter]:
    """The counters as they travel."""
    values = dataclasses.asdict(counters)
    return [
        pb.Counter(
            name=field.name,
            unit=field.metadata["unit"],
            meaning=field.metadata["meaning"],
            # The type that the table declares: a float that happens to be whole stays one.
            **{"real" if field.type is float else "whole": values[field.name]},
        )
        for field in dataclasses.fields(counters)
    ]


def read_status(reply: pb.StatusReply) -> LoaderStatus:
    """A loader's answer to `Status`."""
    return LoaderStatus(
        replica=reply.replica,
        version=reply.version,
        draining=reply.draining,
        short_of=reply.short_of,
        counters=Readings(reply.counters),
        trainers=tuple(TrainerStatus(one.peer, Readings(one.counters), tuple(one.readers)) for one in reply.trainers),
        recent_s=reply.recent_s,
        recent=Readings(reply.recent),
        steps=dict(reply.steps),
        work={f"{one.dataset}/{one.view}": (one.batches, one.assembling_s) for one in reply.work},
    )


def readers_of(statuses: Iterable[LoaderStatus]) -> list[ReaderFigures]:
    """How the trainers of some loaders fare, each once: all loaders are told the same, some of them later."""
    told: dict[object, list[tuple[TrainerStatus, pb.Reader]]] = {}
    for status in statuses:
        for trainer in status.trainers:
            for one in trainer.readers:
                if one.elapsed_us:  # else it has only said that it is going to read
                    told.setdefault(one.trainer or id(one), []).append((trainer, one))
    found = []
    for said in told.values():
        last = min((one for _, one in said), key=lambda one: (one.quiet_us, -one.total_batches))
        found.append(dataclasses.replace(figures_of(last), is_reading=_is_reading(last, said)))
    return found


def _is_reading(last: pb.Reader, said: Sequence[tuple[TrainerStatus, pb.Reader]]) -> bool:
    """It said something as lately as it does while it reads, or it waits for a key, and was the last that spoke."""
    # It speaks with its keys, at most once a second, and a loader gets some of them only.
    every_s = last.elapsed_us / 1e6 / max(last.batches, 1) * max(last.loaders, 1)
    if any(_follows(other, last) for trainer, _ in said for other in trainer.readers):
        return False
    if last.quiet_us / 1e6 <= QUIET_S + 3 * every_s:
        return True
    return any(
        one is trainer.readers[-1] and trainer.counters.get("waiting", 0) + trainer.counters.get("assembling", 0) > 0
        for trainer, one in said
    )


def _follows(other: pb.Reader, reader: pb.Reader) -> bool:
    """It reads the same for the same rank, and began when this one had spoken for the last time: its next epoch."""
    is_same = _reads(other) == _reads(reader) and other.trainer != reader.trainer
    return is_same and other.elapsed_us > 0 and other.elapsed_us + other.quiet_us <= reader.quiet_us


def _reads(reader: pb.Reader) -> tuple[str, str, int, int]:
    return reader.dataset, reader.view, reader.rank, reader.world


def figures_of(reader: pb.Reader) -> ReaderFigures:
    """How one reader fares, as it says."""
    return ReaderFigures(
        name=f"{reader.dataset}/{reader.view}",
        rank=reader.rank,
        world=reader.world,
        elapsed_s=reader.elapsed_us / 1e6,
        waited=stages.named(reader.waited_us),
        batches=reader.batches,
        lane=reader.lane,
        trainer=reader.trainer,
        loaders=reader.loaders,
    )


def replicas_of(statuses: Mapping[str, LoaderStatus]) -> list[ReplicaFigures]:
    """What loaders did of late, by their addresses."""
    return [_replica(address, status) for address, status in statuses.items()]


def _replica(address: str, status: LoaderStatus) -> ReplicaFigures:
    recent, now = status.recent, status.counters
    of_worker = {stage: recent.get(f"{stage}_s", 0.0) for stage in stages.OF_WORKER if stage != stages.TRANSFORM}
    return ReplicaFigures(
        address=address,
        seconds=status.recent_s,
        workers=int(now.get("workers", 0)),
        arena_nbytes=int(now.get("arena_bytes", 0)),
        batches=int(recent.get("batches", 0)),
        nbytes=int(recent.get("bytes", 0)),
        assembling_s=recent.get("assembling_s", 0.0),
        worker_s={**of_worker, **status.steps},
        own_read_s=recent.get("own_read_s", 0.0),
        send_s=recent.get("send_s", 0.0),
        short_of_memory_s=recent.get("short_of_memory_s", 0.0),
        best_nbytes_per_s=now.get("best_rate", 0.0),
        workers_busy=int(now.get("workers_busy", 0)),
        work=status.work,
        times_nothing="" if status.recent_s else status.version,
    )
