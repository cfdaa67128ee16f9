"""Whose key is assembled next, and who gives way when memory is short.

Values in, values out. The law: nobody waits for a trainer that does not read. What a batch costs is counted in bytes,
with a charge for each batch, so that neither large batches starve among small ones nor small ones among large.
"""

from collections.abc import Iterable

from feedline_server.memory.arena import ARENA
from feedline_server.scheduling.stream import Batch, Session, Want

BATCH_NBYTES = 1 << 20
"""What a batch costs beyond its bytes: a worker gathers about so many in the 150 µs that any batch takes (measured with
batches of 1 KB). Without it a trainer with batches of 512 MB would wait for half a million small ones of each other."""

DEAF_S = 1.0
"""A trainer that leaves a frame untaken for so long does not read. Taking its batches from it wrongly costs assembling
them again, some milliseconds; leaving them costs everybody else this wait."""


def cost(want: Want) -> int:
    """What a batch costs on the fair clock."""
    return want.nbytes + BATCH_NBYTES


def unread_s(session: Session, now: float) -> float:
    """For how long its trainer has not taken what it was offered."""
    return 0.0 if session.unread_since is None else now - session.unread_since


def is_deaf(session: Session, now: float) -> bool:
    """Its trainer does not read: it gets nothing more until it does, and gives way to whoever needs room."""
    return unread_s(session, now) >= DEAF_S


def share_of(arena_nbytes: int, streams: int) -> int:
    """Bytes of the arena that one of so many streams may hold: an even part, at most half for whoever comes next."""
    return arena_nbytes // max(2, streams)


def choose(sessions: Iterable[Session], share: int, now: float) -> Session | None:
    """The stream whose next key is assembled now: of those that read and keep to their share, the one served least.

    Who holds nothing may always have one batch.
    """
    able = [
        session
        for session in sessions
        if session.waiting
        and not is_deaf(session, now)
        and (not session.lent or session.lent + session.waiting[0].nbytes <= share)
    ]
    return min(able, key=lambda session: session.served, default=None)


def gives_way(sessions: Iterable[Session], now: float) -> tuple[Session, Batch] | None:
    """The batch that can be dropped for somebody else's: one that was deaf longest, its last. None if nobody is deaf.

    A batch is a pure function of its key, so it is assembled again when its trainer reads again. One that is being sent
    goes only when nothing else can: what of it was sent was in vain.
    """
    deaf = [session for session in sessions if is_deaf(session, now) and _in_the_arena(session.unsent)]
    if not deaf:
        return None
    session = max(deaf, key=lambda session: (session.has_ready_batch, unread_s(session, now)))
    return session, _in_the_arena(session.unsent)[-1]


def _in_the_arena(batches: Iterable[Batch]) -> list[Batch]:
    return [batch for batch in batches if batch.slot.memory == ARENA]


def next_deafness_s(sessions: Iterable[Session], now: float) -> float | None:
    """Seconds until the next stream that holds something is deaf, if its trainer goes on not reading; None if none."""
    left = [
        DEAF_S - unread_s(session, now)
        for session in sessions
        if session.unread_since is not None and not is_deaf(session, now) and session.lent
    ]
    return min(left, default=None)
