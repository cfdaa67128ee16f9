"""Whose key is assembled next, and who gives way when memory is short.

Values in, values out. The law: nobody waits for a trainer that does not read. What a batch costs is counted in bytes,
with a charge for each batch, so that neither large batches starve among small ones nor small ones among large.
"""

from collections.abc import Iterable

from feedline_server.memory.arena import ARENA
from feedline_server.scheduling.stream import Batch, Stream, Want

BATCH_NBYTES = 1 << 20
"""What a batch costs beyond its bytes: a worker gathers about so many in the 150 µs that any batch takes (measured with
batches of 1 KB). Without it a trainer with batches of 512 MB would wait for half a million small ones of each other."""

STALLED_S = 1.0
"""A trainer that leaves a frame untaken for so long does not read. Taking its batches from it wrongly costs assembling
them again, some milliseconds; leaving them costs everybody else this wait."""


def cost(want: Want) -> int:
    """What a batch costs on the fair clock."""
    return want.nbytes + BATCH_NBYTES


def unread_s(stream: Stream, now: float) -> float:
    """For how long its trainer has not taken what it was offered."""
    return 0.0 if stream.unread_since is None else now - stream.unread_since


def is_stalled(stream: Stream, now: float) -> bool:
    """Its trainer does not read: it gets nothing more until it does, and gives way to whoever needs room."""
    return unread_s(stream, now) >= STALLED_S


def share_of(arena_nbytes: int, streams: int) -> int:
    """Bytes of the arena that one of so many streams may hold: an even part, at most half for whoever comes next."""
    return arena_nbytes // max(2, streams)


def choose(streams: Iterable[Stream], share: int, now: float) -> Stream | None:
    """The stream whose next key is assembled now: of those that read and keep to their share, the one served least.

    Who holds nothing may always have one batch.
    """
    able = [
        stream
        for stream in streams
        if stream.waiting
        and not is_stalled(stream, now)
        and (not stream.held_nbytes or stream.held_nbytes + stream.waiting[0].nbytes <= share)
    ]
    return min(able, key=lambda stream: stream.virtual_time, default=None)


def choose_victim(streams: Iterable[Stream], now: float) -> tuple[Stream, Batch] | None:
    """The batch to drop for another stream: the last of the stream that stalled longest. None if no reader stalls.

    A batch is a pure function of its key, so it is assembled again when its trainer reads again. One that is being sent
    goes only when nothing else can: what of it was sent was in vain.
    """
    stalled = [stream for stream in streams if is_stalled(stream, now) and _in_the_arena(stream.unsent)]
    if not stalled:
        return None
    stream = max(stalled, key=lambda stream: (stream.has_ready_batch, unread_s(stream, now)))
    return stream, _in_the_arena(stream.unsent)[-1]


def _in_the_arena(batches: Iterable[Batch]) -> list[Batch]:
    return [batch for batch in batches if batch.slot.memory == ARENA]


def next_stall_s(streams: Iterable[Stream], now: float) -> float | None:
    """Seconds until the next stream that holds something counts as stalled, if it is not read; None if none will."""
    left = [
        STALLED_S - unread_s(stream, now)
        for stream in streams
        if stream.unread_since is not None and not is_stalled(stream, now) and stream.held_nbytes
    ]
    return min(left, default=None)
