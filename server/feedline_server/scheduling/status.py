"""A snapshot of the scheduler, for Status and the log."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.fairness import unread_s
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.stream import Stream
from feedline_wire.status import LoaderCounters, StreamCounters


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream."""

    peer: str
    counters: StreamCounters


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """All streams, and what they share."""

    streams: tuple[StreamStatus, ...]
    counters: LoaderCounters
    """The scheduler's; those of the workers and of the whole loader are 0."""
    short_of: Shortage | None
    draining: bool


def status_of(
    streams: Sequence[Stream],
    allocator: Allocator,
    overload: Overload,
    counts: LoaderCounters,
    *,
    draining: bool,
    now: float,
) -> SchedulerStatus:
    """What is going on now; `counts` is what was counted since the start."""
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
        ),
        short_of=overload.short_of,
        draining=draining,
    )
