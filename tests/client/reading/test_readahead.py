"""A window of batches ahead of a reader, over a fleet that is a list: what is wanted when, and what becomes of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from feedline.connection.buffers import Received
from feedline.fleet.requests import PendingBatch
from feedline.reading.plan import Step
from feedline.reading.readahead import ReadAhead
from feedline_wire.errors import BadSample, Closed, LoaderStalled
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

ARRIVED = Received(np.empty(0, np.uint8), Layout((), 0))


@dataclass
class ListedFleet:
    """Notes what is wanted. A batch is there when it is wanted, when it is waited for, or never."""

    nbytes: int = 10
    at_once: bool = True
    is_closed: bool = False
    error: Exception | None = None
    wanted: list[int] = field(default_factory=list)
    """Indices of the steps, in the order in which they were wanted."""
    pending: list[PendingBatch] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cancelled: list[PendingBatch] = field(default_factory=list)
    dropped: list[PendingBatch] = field(default_factory=list)

    def want(self, step: Step) -> PendingBatch:
        self.wanted.append(step.index)
        key = Key("d", b"", "train", "shuffle", 0, step.epoch, step.offset, step.rows)
        self.pending.append(PendingBatch(len(self.wanted), key, self.nbytes, ARRIVED if self.at_once else None))
        return self.pending[-1]

    def wait(self, pending: PendingBatch, timeout_s: float) -> Received:
        self.waits.append(timeout_s)
        if self.error is not None:
            raise self.error
        pending.outcome = pending.outcome or ARRIVED
        return cast("Received", pending.outcome)

    def cancel(self, pending: Iterable[PendingBatch]) -> None:
        self.cancelled += pending

    def drop(self, pending: Iterable[PendingBatch]) -> None:
        self.dropped += pending

    def check_open(self) -> None:
        if self.is_closed:
            raise Closed("the connection to the loader was closed")

    def latency(self) -> float | None:
        return None


@dataclass
class Window:
    """A bound on the batches wanted ahead that counts what is delivered."""

    batches: int
    delivered_batches: int = 0

    def delivered(self, now: float, latency: Callable[[], float | None]) -> None:
        self.delivered_batches += 1


def steps(count: int, epochs: int = 1) -> Iterator[Step]:
    """Steps of one row each."""
    return (Step(index, epoch, index, 1, 0, index + 1) for epoch in range(epochs) for index in range(count))


def read(
    fleet: ListedFleet,
    of: Iterable[Step],
    *,
    limit: int | None = None,
    batches: int = 4,
    nbytes: int = 10**9,
    window: Any = None,
) -> ReadAhead:
    """A read-ahead that delivers the steps themselves."""
    return ReadAhead(
        cast("Any", fleet),
        of,
        limit=limit,
        want=fleet.want,
        deliver=lambda step, received: cast("Any", step),
        prefetch=window or cast("Any", Window(batches)),
        nbytes=nbytes,
        timeout_s=20,
        wait=fleet.wait,
    )


def take(ahead: ReadAhead, count: int = 1) -> list[int]:
    """The indices of the next batches."""
    return [cast("Any", ahead.take()).index for _ in range(count)]


# ---- how far ahead ----


def test_nothing_is_wanted_before_the_first_batch_is_taken() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))

    assert (fleet.wanted, ahead.buffered, ahead.is_ready) == ([], 0, False)


def test_the_batch_taken_leaves_room_for_one_more_than_the_window() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))

    assert take(ahead) == [0]
    assert fleet.wanted == [0, 1, 2, 3, 4]
    assert (ahead.buffered, ahead.is_ready) == (4, True)


@pytest.mark.parametrize(
    ("batches", "wanted_after"),
    [
        (1, [2, 3, 4, 5]),
        (7, [8, 9, 10, 11]),
        # A quarter is gone before the window is filled again.
        (8, [8, 10, 10, 12]),
        (16, [16, 16, 16, 20, 20, 20, 20, 24]),
        # Of a wide one, 64.
        (400, [400] * 63 + [464]),
    ],
)
def test_a_window_is_filled_when_a_part_of_it_is_gone(batches: int, wanted_after: list[int]) -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(1000), batches=batches)

    counts = []
    for _ in wanted_after:
        take(ahead)
        counts.append(len(fleet.wanted))

    assert counts == wanted_after


@pytest.mark.parametrize(("nbytes", "wanted"), [(1, 2), (10, 2), (11, 3), (20, 3), (29, 4), (30, 4), (31, 5)])
def test_bytes_bound_the_window_but_one_batch_is_always_wanted(nbytes: int, wanted: int) -> None:
    fleet = ListedFleet(nbytes=10)

    take(read(fleet, steps(9), nbytes=nbytes))

    assert len(fleet.wanted) == wanted


def test_a_batch_that_turns_out_larger_leaves_room_for_fewer() -> None:
    fleet = ListedFleet(nbytes=10)
    ahead = read(fleet, steps(9), nbytes=40)
    take(ahead)
    for pending in fleet.pending:
        pending.nbytes = 20

    take(ahead)

    assert len(fleet.wanted) == 5


# ---- the end, and beyond ----


def test_all_steps_come_in_order_and_then_none() -> None:
    ahead = read(ListedFleet(), steps(9))

    assert [cast("Any", batch).index for batch in ahead] == list(range(9))
    assert ahead.take() is None
    assert ahead.take() is None


def test_no_more_is_wanted_than_the_limit_and_behind_it_is_the_end() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9), limit=3)

    assert take(ahead, 3) == [0, 1, 2]
    assert ahead.take() is None
    assert (fleet.wanted, ahead.limit) == ([0, 1, 2], 0)


def test_a_limit_that_is_raised_or_lifted_is_read_on_from_where_it_was() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(20), limit=2)
    got = take(ahead, 2)

    ahead.limit = 3
    got += take(ahead, 3)
    ended = ahead.take()
    before = len(fleet.wanted)
    ahead.limit = None
    got += take(ahead, 2)

    assert (got, ended, before) == ([0, 1, 2, 3, 4, 5, 6], None, 5)
    assert len(fleet.wanted) == 7 + 4


def test_at_the_end_of_an_epoch_the_next_one_is_there_and_not_handed_out() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(3, epochs=3))

    first = [cast("Any", ahead.take(0)).index for _ in range(3)]
    ends = [ahead.take(0), ahead.take(0)]
    second = cast("Any", ahead.take(1))

    assert (first, ends) == ([0, 1, 2], [None, None])
    assert (second.epoch, second.index) == (1, 0)
    assert len(fleet.wanted) == 4 + 4


# ---- errors ----


def test_an_error_leaves_the_reader_where_it_was_and_the_batch_is_waited_for_again() -> None:
    fleet = ListedFleet(at_once=False, error=LoaderStalled("20 s"))
    ahead = read(fleet, steps(9))

    for _ in range(2):
        with pytest.raises(LoaderStalled):
            ahead.take()
    fleet.error = None

    assert take(ahead, 2) == [0, 1]
    assert fleet.wanted[:4] == [0, 1, 2, 3]
    assert 0 not in fleet.wanted[4:]


def test_a_batch_that_failed_is_asked_for_again_and_no_other() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))
    take(ahead)
    fleet.pending[1].outcome = BadSample("torn")

    assert take(ahead, 2) == [1, 2]
    assert fleet.wanted == [0, 1, 2, 3, 4, 1, 5, 6]


# ---- what is counted ----


def test_the_window_learns_of_each_batch_that_was_handed_out() -> None:
    window = Window(4)
    ahead = read(ListedFleet(), steps(9), window=window)

    take(ahead, 3)

    assert window.delivered_batches == 3


def test_only_what_arrived_is_buffered() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))
    take(ahead)
    fleet.pending[1].outcome = None
    fleet.pending[3].outcome = BadSample("torn")

    assert (ahead.buffered, ahead.is_ready) == (2, False)
    assert repr(ahead) == "<ReadAhead buffered=2/4 closed=False>"


# ---- the end ----


def test_closing_wants_nothing_more_and_says_so() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))
    take(ahead)

    ahead.close()

    assert fleet.cancelled == fleet.pending[1:]
    with pytest.raises(Closed, match="this iteration was closed"):
        ahead.take()


def test_where_the_fleet_is_closed_nothing_that_is_here_is_handed_out() -> None:
    """It may be that of the process from which this one was forked, which uses it as well."""
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))
    take(ahead)

    fleet.is_closed = True

    with pytest.raises(Closed, match="the connection to the loader was closed"):
        ahead.take()


def test_dropping_leaves_the_cancelling_to_the_fleet() -> None:
    fleet = ListedFleet()
    ahead = read(fleet, steps(9))
    take(ahead)

    ahead.drop()

    assert (fleet.dropped, fleet.cancelled) == (fleet.pending[1:], [])
    with pytest.raises(Closed, match="this iteration was closed"):
        ahead.take()
