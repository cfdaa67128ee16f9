"""What is going on in a loader, in values that nobody changes any more: for Status."""

from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.fairness import unread_s
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.stream import Stream


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream."""

    peer: str
    waiting: int
    assembling: int
    ready: int
    batches: int
    nbytes: int
    waited_s: float
    unread_s: float


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """All of them, and what they share."""

    streams: tuple[StreamStatus, ...]
    batches: int
    nbytes: int
    failures: int
    shared: int
    """Of the batches given to streams, those that were assembled for another one."""
    scattered: int
    """Of the batches sent, those that no worker assembled."""
    arena_nbytes: int
    arena_lent: int
    """To batches that are on their way."""
    arena_kept: int
    """By batches that are kept for whoever wants them next."""
    reclaimed: int
    waited_s: float
    short_of: Shortage | None
    draining: bool


@dataclass(slots=True)
class Counts:
    """Since the start."""

    batches: int = 0
    nbytes: int = 0
    failures: int = 0
    shared: int = 0
    scattered: int = 0


def status_of(
    streams: Sequence[Stream], allocator: Allocator, overload: Overload, counts: Counts, *, draining: bool, now: float
) -> SchedulerStatus:
    """What is going on now."""
    arena = allocator.arena
    return SchedulerStatus(
        streams=tuple(
            StreamStatus(
                peer=one.peer,
                waiting=len(one.waiting),
                assembling=len(one.assembling),
                ready=len(one.ready),
                batches=one.batches,
                nbytes=one.nbytes,
                waited_s=overload.waited_s(one, now),
                unread_s=unread_s(one, now),
            )
            for one in streams
        ),
        batches=counts.batches,
        nbytes=counts.nbytes,
        failures=counts.failures,
        shared=counts.shared,
        scattered=counts.scattered,
        arena_nbytes=arena.nbytes,
        arena_lent=arena.allocated_nbytes - allocator.kept_nbytes,
        arena_kept=allocator.kept_nbytes,
        reclaimed=allocator.reclaimed,
        waited_s=overload.longest_wait_s(streams, now),
        short_of=overload.short_of,
        draining=draining,
    )
