"""A snapshot of the scheduler, for Status and the log."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.fairness import unread_s
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.stream import Stream
from feedline_server.scheduling.work import ViewName, Work, WorkByView
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError
from feedline_wire.status import LoaderCounters, StreamCounters


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream."""

    peer: str
    counters: StreamCounters
    readers: tuple[pb.Reader, ...]
    """How its trainer fares, in its own words."""


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """All streams, and what they share."""

    streams: tuple[StreamStatus, ...]
    counters: LoaderCounters
    """The scheduler's; those of the workers and of the whole loader are 0."""
    short_of: Shortage | None
    draining: bool
    failures: tuple[tuple[float, str, FeedlineError], ...] = ()
    """When, of which dataset, and the error that trainers were answered: the last few."""
    work: Mapping[ViewName, Work] = field(default_factory=dict)


def status_of(  # the scheduler's books
    streams: Sequence[Stream],
    allocator: Allocator,
    overload: Overload,
    counts: LoaderCounters,
    failures: Collection[tuple[float, str, FeedlineError]],
    *,
    work: WorkByView,
    draining: bool,
    now: float,
) -> SchedulerStatus:
    """What is going on now; `counts` is what was counted since the start."""
    short_of = overload.seconds(now)
    return SchedulerStatus(
        streams=tuple(
            StreamStatus(
                one.peer,
                StreamCounters(
                    waiting=len(one.waiting),
                    assembling=len(one.assembling),
                    ready=len(one.ready),
                    batches=one.batches,
                    bytes=one.nbytes,
                    waited_s=overload.waited_s(one, now),
                    unread_s=unread_s(one, now),
                ),
                tuple(_quiet_since(reader, now - at) for reader, at in one.readers.values()),
            )
            for one in streams
        ),
        counters=replace(
            counts,
            arena_bytes=allocator.arena.nbytes,
            arena_lent=allocator.arena.allocated_nbytes - allocator.kept_nbytes,
            arena_kept=allocator.kept_nbytes,
            reclaimed=allocator.reclaimed,
            waited_s=overload.longest_wait_s(streams, now),
            short_of_workers_s=short_of["workers"],
            short_of_memory_s=short_of["memory"],
        ),
        short_of=overload.short_of,
        draining=draining,
        failures=tuple(failures),
        work=work.now(),
    )


def _quiet_since(reader: pb.Reader, seconds: float) -> pb.Reader:
    told = pb.Reader()
    told.CopyFrom(reader)
    told.quiet_us = max(int(seconds * 1e6), 0)
    return told
