"""Whose turn it is, and who gives way: tables."""

import threading

import pytest

from feedline_server.memory.arena import Slot
from feedline_server.scheduling.fairness import choose, cost, gives_way, next_deafness_s, share_of
from feedline_server.scheduling.stream import Batch, Session, Want
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEY = Key("numbers", b"f", "train", "sequential", 0, 0, 0, 1)
NOW = 100.0


def a_session(peer: str, *, served: float = 0, lent: int = 0, wants: int | None = None) -> Session:
    """A stream that holds `lent` bytes, and wants a batch of `wants` bytes, or nothing."""
    session = Session(peer, threading.Condition(), served=served, lent=lent)
    if wants is not None:
        session.waiting.append(Want(1, KEY, wants, 0.0))
    return session


def holding(peer: str, *tickets: int, unread_since: float | None) -> Session:
    """A stream with batches ready, the first of them being sent."""
    session = Session(peer, threading.Condition(), lent=len(tickets), unread_since=unread_since)
    batches = [Batch(Want(ticket, KEY, 1, 0.0), Layout((), 1), Slot(ticket, 1)) for ticket in tickets]
    session.sending = batches[:1]
    session.ready.extend(batches[1:])
    return session


@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([], None),
        ([("a", 5, 0, 10), ("b", 3, 0, 10)], "b"),  # served least
        ([("a", 5, 40, 10), ("b", 3, 45, 10)], "a"),  # b would go over its half of 100
        ([("a", 0, 45, 10)], None),  # one alone keeps to half as well, for whoever comes next
        ([("a", 0, 0, 90)], "a"),  # who holds nothing may have any batch
        ([("a", 0, 30, 10), ("b", 1, 20, 10), ("c", 2, 20, 10)], "b"),  # thirds
    ],
)
def test_the_stream_chosen_is_the_one_served_least_within_its_share(
    streams: list[tuple[str, float, int, int]], chosen: str | None
) -> None:
    sessions = [a_session(peer, served=served, lent=lent, wants=nbytes) for peer, served, lent, nbytes in streams]

    session = choose(sessions, share_of(100, len(sessions)), NOW)

    assert (session.peer if session else None) == chosen


def test_a_stream_that_does_not_read_is_not_chosen_although_it_was_served_least() -> None:
    deaf, reading = a_session("deaf", served=0, wants=10), a_session("reading", served=99, wants=10)
    deaf.unread_since = NOW - 1.0
    reading.unread_since = NOW - 0.9

    assert choose([deaf, reading], 100, NOW) is reading


@pytest.mark.parametrize(
    ("nbytes", "costs"),
    [(1 << 10, 1_049_600), (512 << 20, 537_919_488)],  # so 512 MiB weigh as much as 513 batches of 1 KiB
)
def test_a_batch_costs_its_bytes_and_a_mebibyte(nbytes: int, costs: int) -> None:
    assert cost(Want(1, KEY, nbytes, 0.0)) == costs


@pytest.mark.parametrize(
    ("streams", "given"),
    [
        ([], None),
        ([("reads", (1, 2), None)], None),
        ([("a moment", (1, 2), NOW - 0.9)], None),
        ([("deaf", (1, 2, 3), NOW - 1.0)], ("deaf", 3)),  # the last it would have been sent
        ([("deaf", (1,), NOW - 1.0)], ("deaf", 1)),  # the one in the middle of which it stopped, when there is no other
        (
            [("deaf", (), NOW - 50.0), ("later", (1, 2), NOW - 2.0)],
            ("later", 2),
        ),  # who holds nothing has nothing to give
        ([("sending", (1,), NOW - 9.0), ("deaf", (2, 3), NOW - 2.0)], ("deaf", 3)),  # what is not begun goes first
        ([("deaf", (1, 2), NOW - 2.0), ("longest", (3, 4), NOW - 3.0)], ("longest", 4)),
    ],
)
def test_the_one_that_has_not_read_for_the_longest_time_gives_its_last_batch(
    streams: list[tuple[str, tuple[int, ...], float | None]], given: tuple[str, int] | None
) -> None:
    sessions = [holding(peer, *tickets, unread_since=since) for peer, tickets, since in streams]

    found = gives_way(sessions, NOW)

    assert (None if found is None else (found[0].peer, found[1].ticket)) == given


def test_a_batch_in_its_trainers_own_memory_is_not_given_for_it_would_free_nothing() -> None:
    session = holding("deaf", 1, 2, unread_since=NOW - 5)
    placed = Batch(Want(3, KEY, 1, 0.0), Layout((), 1), Slot(0, 1, 9))
    session.ready.append(placed)

    given = gives_way([session], NOW)

    assert given is not None
    assert given[1].ticket == 2
    session.sending.clear()
    session.ready.clear()
    session.ready.append(placed)
    assert gives_way([session], NOW) is None


def test_a_batch_in_its_trainers_own_memory_does_not_make_that_trainer_the_first_to_give() -> None:
    """It would give the batch that is being sent, while another has one that was not begun."""
    sending = holding("sending", 1, unread_since=NOW - 9)
    sending.ready.append(Batch(Want(2, KEY, 1, 0.0), Layout((), 1), Slot(0, 1, 9)))

    given = gives_way([sending, holding("deaf", 3, 4, unread_since=NOW - 2)], NOW)

    assert given is not None
    assert (given[0].peer, given[1].ticket) == ("deaf", 4)


def test_a_batch_that_is_being_copied_is_not_given() -> None:
    session = holding("copying", 1, 2, unread_since=None)

    assert [batch.ticket for batch in session.unsent] == [2]


@pytest.mark.parametrize(
    ("streams", "seconds"),
    [
        ([], None),
        ([("reads", (1,), None)], None),
        ([("deaf", (1,), NOW - 1.0)], None),  # it is already
        ([("soon", (1,), NOW - 0.75), ("later", (2,), NOW - 0.5)], 0.25),
        ([("empty", (), NOW - 0.75)], None),
    ],
)
def test_the_next_deafness_is_known_before_it_comes(
    streams: list[tuple[str, tuple[int, ...], float | None]], seconds: float | None
) -> None:
    sessions = [holding(peer, *tickets, unread_since=since) for peer, tickets, since in streams]

    assert next_deafness_s(sessions, NOW) == seconds
