"""Whose turn it is, and who gives way: tables."""

import threading

import pytest

from feedline_server.memory.arena import Slot
from feedline_server.scheduling.fairness import choose, choose_victim, cost, next_stall_s, share_of, unread_s
from feedline_server.scheduling.stream import Batch, Stream, Want
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEY = Key("numbers", b"f", "train", "sequential", 0, 0, 0, 1)
NOW = 100.0


def a_stream(peer: str, *, virtual_time: float = 0, held: int = 0, wants: int | None = None) -> Stream:
    """A stream that holds `held` bytes, and wants a batch of `wants` bytes, or nothing."""
    stream = Stream(peer, threading.Condition(), virtual_time=virtual_time, held_nbytes=held)
    if wants is not None:
        stream.waiting.append(Want(1, KEY, wants, 0.0))
    return stream


def holding(peer: str, *tickets: int, unread_since: float | None) -> Stream:
    """A stream with batches ready, the first of them being sent."""
    stream = Stream(peer, threading.Condition(), held_nbytes=len(tickets), unread_since=unread_since)
    batches = [Batch(Want(ticket, KEY, 1, 0.0), Layout((), 1), Slot(ticket, 1)) for ticket in tickets]
    stream.sending = dict.fromkeys(batches[:1])
    stream.ready.extend(batches[1:])
    return stream


@pytest.mark.parametrize(
    ("described", "chosen"),
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
    described: list[tuple[str, float, int, int]], chosen: str | None
) -> None:
    streams = [
        a_stream(peer, virtual_time=virtual_time, held=held, wants=nbytes)
        for peer, virtual_time, held, nbytes in described
    ]

    stream = choose(streams, share_of(100, len(streams)), NOW)

    assert (stream.peer if stream else None) == chosen


def test_a_stream_that_does_not_read_is_not_chosen_although_it_was_served_least() -> None:
    stalled, reading = a_stream("stalled", virtual_time=0, wants=10), a_stream("reading", virtual_time=99, wants=10)
    stalled.unread_since = NOW - 1.0
    reading.unread_since = NOW - 0.9

    assert choose([stalled, reading], 100, NOW) is reading


def test_it_is_the_next_key_that_has_to_fit_into_the_share() -> None:
    stream = a_stream("a", held=40, wants=10)
    stream.waiting.append(Want(2, KEY, 90, 0.0))

    assert choose([stream], 50, NOW) is stream


def test_a_stream_whose_reader_took_everything_is_unread_for_no_time() -> None:
    stream = a_stream("a")

    assert unread_s(stream, NOW) == 0.0
    stream.unread_since = 98.5
    assert unread_s(stream, NOW) == 1.5


@pytest.mark.parametrize(
    ("nbytes", "costs"),
    [(1 << 10, 1_049_600), (512 << 20, 537_919_488)],  # so 512 MiB weigh as much as 513 batches of 1 KiB
)
def test_a_batch_costs_its_bytes_and_a_mebibyte(nbytes: int, costs: int) -> None:
    assert cost(Want(1, KEY, nbytes, 0.0)) == costs


@pytest.mark.parametrize(
    ("described", "given"),
    [
        ([], None),
        ([("reads", (1, 2), None)], None),
        ([("a moment", (1, 2), NOW - 0.9)], None),
        ([("stalled", (1, 2, 3), NOW - 1.0)], ("stalled", 3)),  # the last it would have been sent
        (
            [("stalled", (1,), NOW - 1.0)],
            ("stalled", 1),
        ),  # the one in the middle of which it stopped, when there is no other
        (
            [("stalled", (), NOW - 50.0), ("later", (1, 2), NOW - 2.0)],
            ("later", 2),
        ),  # who holds nothing has nothing to give
        (
            [("sending", (1,), NOW - 9.0), ("stalled", (2, 3), NOW - 2.0)],
            ("stalled", 3),
        ),  # what is not begun goes first
        ([("stalled", (1, 2), NOW - 2.0), ("longest", (3, 4), NOW - 3.0)], ("longest", 4)),
        ([("first", (1, 2), NOW - 2.0), ("as long", (3, 4), NOW - 2.0)], ("first", 2)),
    ],
)
def test_the_one_that_has_not_read_for_the_longest_time_gives_its_last_batch(
    described: list[tuple[str, tuple[int, ...], float | None]], given: tuple[str, int] | None
) -> None:
    streams = [holding(peer, *tickets, unread_since=since) for peer, tickets, since in described]

    found = choose_victim(streams, NOW)

    assert (None if found is None else (found[0].peer, found[1].ticket)) == given


def test_a_batch_in_its_trainers_own_memory_is_not_given_for_it_would_free_nothing() -> None:
    stream = holding("stalled", 1, 2, unread_since=NOW - 5)
    placed = Batch(Want(3, KEY, 1, 0.0), Layout((), 1), Slot(0, 1, 9))
    stream.ready.append(placed)

    given = choose_victim([stream], NOW)

    assert given is not None
    assert given[1].ticket == 2
    stream.sending.clear()
    stream.ready.clear()
    stream.ready.append(placed)
    assert choose_victim([stream], NOW) is None


def test_a_batch_in_its_trainers_own_memory_does_not_make_that_trainer_the_first_to_give() -> None:
    """It would give the batch that is being sent, while another has one that was not begun."""
    sending = holding("sending", 1, unread_since=NOW - 9)
    sending.ready.append(Batch(Want(2, KEY, 1, 0.0), Layout((), 1), Slot(0, 1, 9)))

    given = choose_victim([sending, holding("stalled", 3, 4, unread_since=NOW - 2)], NOW)

    assert given is not None
    assert (given[0].peer, given[1].ticket) == ("stalled", 4)


def test_a_batch_that_is_being_copied_is_not_given() -> None:
    stream = holding("copying", 1, 2, unread_since=None)

    assert [batch.ticket for batch in stream.unsent] == [2]


@pytest.mark.parametrize(
    ("described", "seconds"),
    [
        ([], None),
        ([("reads", (1,), None)], None),
        ([("stalled", (1,), NOW - 1.0)], None),  # it is already
        ([("soon", (1,), NOW - 0.75), ("later", (2,), NOW - 0.5)], 0.25),
        ([("empty", (), NOW - 0.75)], None),
    ],
)
def test_the_next_stall_is_known_before_it_comes(
    described: list[tuple[str, tuple[int, ...], float | None]], seconds: float | None
) -> None:
    streams = [holding(peer, *tickets, unread_since=since) for peer, tickets, since in described]

    assert next_stall_s(streams, NOW) == seconds
