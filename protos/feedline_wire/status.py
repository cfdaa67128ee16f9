"""What a loader says of itself in `Status`: one table of counters for the wire, `feedline inspect` and the log.

Each field of `LoaderCounters` and `StreamCounters` is a counter. Its name, unit and meaning travel with its value, so a
client shows the counters of a newer loader too. A new one takes a line here and the line that counts.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feedline_wire import loader_pb2 as pb

Number = int | float


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
    failures: int = _counter("keys", "answered with an error")
    shared: int = _counter("batches", "sent to one stream and assembled for another")
    scattered: int = _counter("batches", "sent straight from files, assembled by no worker")
    reclaimed: int = _counter("batches", "dropped unsent for want of room, to be assembled again")
    assembling_s: float = _counter("s", "that workers spent on batches")
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
    """The values of counters by name, also of counters that this side's table does not have; `of` says what each is."""

    def __init__(self, messages: Iterable[pb.Counter]) -> None:
        self.of = {
            one.name: Reading(one.real if one.WhichOneof("value") == "real" else one.whole, one.unit, one.meaning)
            for one in messages
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
        trainers=tuple(TrainerStatus(one.peer, Readings(one.counters)) for one in reply.trainers),
    )
