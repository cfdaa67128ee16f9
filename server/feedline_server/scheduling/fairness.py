"""Whose key is assembled next, and whose batch is dropped when memory is short.

A fair queue by virtual time: each stream's advances by what its batches cost, and the stream that is furthest behind is
served next. A batch costs its bytes and a charge of its own, so neither large batches starve among small ones nor small
ones among large. A stalled reader, one that does not take what it was sent, gets nothing new and holds up no other.
"""

from collections.abc import Iterable

from feedline_server.scheduling.stream import Batch, Stream, Want

BATCH_NBYTES = 1 << 20
"""What a batch costs beyond its bytes: a worker gathers about so many in the 150 us that any batch takes (measured with
batches of 1 KB). Without it a trainer with batches of 512 MB would wait for half a million small ones of each other."""

STALLED_S = 1.0
"""A trainer that leaves a frame untaken for so long does not read. Taking its batches from it wrongly costs assembling
them again, some milliseconds; leaving them costs everybody else this wait."""


def cost(want: Want) -> int:
    """What a batch costs, in virtual time."""
    return want.nbytes + BATCH_NBYTES


class FairQueue:
    """The queue's virtual time, and how it moves. Not locked."""

    def __init__(self) -> None:
        self._now = 0.0  # the virtual time of the stream served last

    def join(self, stream: Stream) -> None:
        """The stream was idle, stalled, or served without a worker: it has no claim on what others got meanwhile."""
        stream.virtual_time = max(stream.virtual_time, self._now)

    def charge(self, stream: Stream, want: Want) -> None:
        """A worker assembles a batch for the stream."""
        self._now = max(self._now, stream.virtual_time)
        stream.virtual_time += cost(want)


def refund(stream: Stream, want: Want) -> None:
    """The batch was dropped before it was sent: it is charged again when it is assembled again."""
    stream.virtual_time -= cost(want)


def unread_s(stream: Stream, now: float) -> float:
    """For how long the stream's trainer has not taken what it was sent."""
    return 0.0 if stream.unread_since is None else now - stream.unread_since


def is_stalled(stream: Stream, now: float) -> bool:
    """The stream's trainer does not read."""
    return stream.unread_since is not None and now - stream.unread_since >= STALLED_S


def next_stall_s(streams: Iterable[Stream], now: float) -> float | None:
    """Seconds until the next stream that holds memory counts as stalled, if it is not read; None if none will."""
    left = [
        STALLED_S - unread_s(stream, now)
        for stream in streams
        if stream.unread_since is not None and not is_stalled(stream, now) and stream.held_nbytes
    ]
    return min(left, default=None)


def share_of(arena_nbytes: int, streams: int) -> int:
    """Bytes of the arena that one of so many streams may hold: an even part, at most half, for one that comes next."""
    return arena_nbytes // max(2, streams)


def choose(streams: Iterable[Stream], share: int, now: float) -> Stream | None:
    """The stream whose next key is assembled now: of those that read and keep to their share, the furthest behind.

    A stream that holds nothing may have one batch of any size.
    """
    chosen: Stream | None = None
    for stream in streams:
        if not stream.waiting or is_stalled(stream, now):
            continue
        if stream.held_nbytes and stream.held_nbytes + stream.waiting[0].nbytes > share:
            continue
        if chosen is None or stream.virtual_time < chosen.virtual_time:
            chosen = stream
    return chosen


def choose_victim(streams: Iterable[Stream], now: float) -> tuple[Stream, Batch] | None:
    """The batch in the arena to drop for another stream's: the last of the longest stalled stream; None if none stalls.

    A batch is a pure function of its key, so it is assembled again when its trainer reads again. One that is being sent
    is dropped only if no other can be: what was sent of it was sent in vain.
    """
    found = []
    for stream in streams:
        if is_stalled(stream, now) and (batches := [batch for batch in stream.unsent if batch.is_in_arena]):
            found.append((batches[-1] not in stream.sending, unread_s(stream, now), stream, batches[-1]))
    if not found:
        return None
    *_, stream, batch = max(found, key=lambda one: one[:2])
    return stream, batch
