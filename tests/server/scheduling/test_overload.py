"""Since when trainers wait for the loader, and when the log says so."""

import threading
from typing import Any

import pytest

from feedline_server.scheduling.overload import Overload
from feedline_server.scheduling.stream import Stream, Want
from feedline_wire.key import Key

Stage = Any  # the fixture in conftest.py

KEY = Key("numbers", b"f", "train", "shuffle", 1, 0, 0, 1)


def waiting(*since: float, unread_since: float | None = None) -> Stream:
    """A stream whose keys wait since these times."""
    stream = Stream("a", threading.Condition(), unread_since=unread_since)
    stream.waiting.extend(Want(number, KEY, 1, at) for number, at in enumerate(since))
    return stream


@pytest.mark.parametrize(
    ("stream", "waited_s"),
    [
        (waiting(), 0.0),
        (waiting(8.0, 14.0), 5.0),  # since the loader is short, not since the key is wanted
        (waiting(12.0, 14.0), 3.0),  # the oldest counts
        (waiting(8.0, unread_since=14.0), 0.0),  # it waits for itself
    ],
)
def test_a_key_waits_for_the_loader_since_that_is_short_and_it_is_wanted(stream: Stream, waited_s: float) -> None:
    overload = Overload()
    overload.note(None, 4.0)
    overload.note("workers", 10.0)
    overload.note("memory", 12.0)  # of something else: it is short all the time

    assert overload.waited_s(stream, 15.0) == waited_s


def test_what_is_short_counts_as_such_and_nothing_else() -> None:
    overload = Overload()
    overload.note("workers", 10.0)
    overload.note(None, 12.0)

    assert overload.seconds(15.0) == {"workers": 2.0, "memory": 0.0}


def test_where_nothing_is_short_nobody_waits() -> None:
    overload = Overload()
    overload.note("workers", 10.0)
    overload.note(None, 11.0)

    assert overload.waited_s(waiting(8.0), 15.0) == 0.0
    assert overload.longest_wait_s([], 15.0) == 0.0
    assert not overload.should_log([waiting(8.0)], 100.0)


def test_the_longest_wait_is_that_of_the_stream_that_waits_longest() -> None:
    overload = Overload()
    overload.note("workers", 10.0)

    assert overload.longest_wait_s([waiting(14.0), waiting(11.0), waiting(13.0)], 15.0) == 4.0


def test_a_long_wait_is_logged_once_a_minute() -> None:
    overload, streams = Overload(), [waiting(0.0)]
    overload.note("workers", 0.0)

    looks = {at: overload.should_log(streams, at) for at in (4.9, 5.0, 5.1, 60.0, 64.99, 65.1, 100.0, 125.2)}

    assert [at for at, is_due in looks.items() if is_due] == [5.0, 65.1, 125.2]


def test_trainers_are_looked_at_ten_times_a_second_at_most() -> None:
    overload = Overload()
    overload.note("workers", 0.0)

    assert not overload.should_log([], 10.0)
    assert not overload.should_log([waiting(0.0)], 10.05)
    assert overload.should_log([waiting(0.0)], 10.1)


def short_of_s(stage: Stage, seconds: float) -> tuple[float, float]:
    """For how long it is short of workers and of memory in so many seconds in which nothing happens."""
    before = stage.scheduler.status().counters
    stage.now += seconds
    after = stage.scheduler.status().counters
    return (
        after.short_of_workers_s - before.short_of_workers_s,
        after.short_of_memory_s - before.short_of_memory_s,
    )


def test_a_stream_that_wants_more_than_its_share_while_workers_idle_is_bound_by_memory(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    assert short_of_s(stage, 1) == (0, 0)

    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(9)])  # its share are eight
    assert short_of_s(stage, 2) == (2, 0)
    for _ in range(6):
        stage.finish(stage.tasks.pop(0))
    assert len(stage.tasks) == 2  # as many as there are workers
    assert short_of_s(stage, 3) == (0, 0)
    stage.finish(stage.tasks.pop(0))
    assert short_of_s(stage, 4) == (0, 4)

    stage.take(stream, 9)
    assert short_of_s(stage, 5) == (0, 0)
