"""A feed in a framework's form: the place counts what was handed out, in whatever order a framework calls."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import feedline
from feedline.reading.batch import Batch
from feedline.reading.converted import ConvertedFeed, check_equal_steps
from feedline.reading.plan import Plan, Remainder
from feedline.testing import FakeLoader, serve
from feedline_wire.errors import Closed, InvalidRequest

SAMPLES = 40


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"y": np.arange(SAMPLES)}) as loader:
        yield loader


@pytest.fixture
def connection(loader: FakeLoader) -> Iterator[feedline.Loader]:
    with feedline.connect(loader.address) as connection:
        yield connection


def ids(batch: Batch) -> list[int]:
    return batch.ids.tolist()


class Ids(ConvertedFeed[list[int]]):
    def convert(self, batch: Batch) -> list[int]:
        return ids(batch)


class Rows(ConvertedFeed[int]):
    def convert(self, batch: Batch) -> int:
        return batch.rows


@pytest.fixture(params=[0, 3])
def made(request: pytest.FixtureRequest, connection: feedline.Loader) -> Callable[[], ConvertedFeed[list[int]]]:
    """Batches of 10 as their ids, converted as asked for or three ahead."""
    return lambda: Ids(connection.feed(batch_size=10, seed=7), ahead=request.param)


@pytest.fixture
def plan(connection: feedline.Loader) -> list[list[list[int]]]:
    """The batches of five epochs."""
    feed = connection.feed(batch_size=10, seed=7)
    return [[ids(batch) for batch in feed.epoch(epoch)] for epoch in range(5)]


Made = Callable[[], ConvertedFeed[list[int]]]
Epochs = list[list[list[int]]]


def test_loops_give_one_epoch_after_another(made: Made, plan: Epochs) -> None:
    batches = made()

    assert len(batches) == 4
    assert [list(batches), list(batches), list(batches)] == plan[:3]


def test_a_place_is_behind_the_batch_that_was_handed_out_last(made: Made, plan: Epochs) -> None:
    for taken in range(5):
        batches, resumed = made(), made()
        iteration = iter(batches)
        for _ in range(taken):
            next(iteration)
        resumed.load_state_dict(batches.state_dict())

        assert list(resumed) == (plan[0][taken:] if taken < 4 else plan[1])
        assert list(batches) == (plan[0][taken:] if taken < 4 else plan[1])


@pytest.mark.parametrize("is_copying", [True, False])
def test_what_a_copy_to_a_device_takes_is_a_wait_for_the_device(
    connection: feedline.Loader, monkeypatch: pytest.MonkeyPatch, is_copying: bool
) -> None:
    class Slow(Ids):
        def convert(self, batch: Batch) -> list[int]:
            clock[0] += 100.0
            return ids(batch)

    clock = [0.0]
    batches = Slow(connection.feed(batch_size=10))
    batches.is_copying = is_copying
    monkeypatch.setattr("feedline.reading.converted.time.perf_counter", lambda: clock[0])

    assert len(list(batches)) == 4
    assert batches.feed.stats.stages.get("device", 0.0) == (400.0 if is_copying else 0.0)


def test_iterating_anew_without_reading_changes_nothing(made: Made, plan: Epochs) -> None:
    """As Keras does with a dataset before it trains."""
    batches = made()
    for _ in range(3):
        iter(batches)

    assert list(batches) == plan[0]


def test_a_state_may_be_loaded_between_two_iterations(made: Made, plan: Epochs) -> None:
    """As Lightning does: it looks at an iteration before it restores."""
    saved = made()
    next(iter(saved))
    batches = made()
    looked_at = iter(batches)
    next(looked_at)
    batches.load_state_dict(saved.state_dict())

    assert next(looked_at) == plan[0][1]
    assert list(batches) == plan[0][1:]


def test_the_present_epoch_may_be_named_at_any_time(made: Made, plan: Epochs) -> None:
    batches = made()
    read = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        read.append(list(batches))
    assert read == plan[:3]

    next(iter(batches))
    batches.set_epoch(3)
    assert list(batches) == plan[3][1:]


def test_another_epoch_is_begun_at_its_start(made: Made, plan: Epochs) -> None:
    batches = made()
    next(iter(batches))
    batches.set_epoch(4)

    assert list(batches) == plan[4]


@pytest.mark.parametrize("counted_from", [0, 2, 100])
def test_after_a_load_the_first_epoch_that_is_named_is_the_loaded_one(
    made: Made, plan: Epochs, counted_from: int
) -> None:
    """accelerate counts from 0 in every process, a loop of one's own goes on counting."""
    saved = made()
    saved.set_epoch(2)
    next(iter(saved))
    batches = made()
    batches.load_state_dict(saved.state_dict())
    read = []
    for epoch in range(counted_from, counted_from + 3):
        batches.set_epoch(epoch)
        batches.set_epoch(epoch)
        read.append(list(batches))

    assert read == [plan[2][1:], plan[3], plan[4]]


def test_a_batch_whose_conversion_fails_is_not_left_out(connection: feedline.Loader, plan: Epochs) -> None:
    failures = [RuntimeError("out of memory")]

    class FailsOnce(Ids):
        def convert(self, batch: Batch) -> list[int]:
            if batch.index == 2 and failures:
                raise failures.pop()
            return ids(batch)

    iteration = iter(FailsOnce(connection.feed(batch_size=10, seed=7)))
    read = [next(iteration), next(iteration)]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(iteration)

    assert read + list(iteration) == plan[0]


def test_a_batch_that_was_lost_by_an_interrupt_ends_the_iteration(connection: feedline.Loader, plan: Epochs) -> None:
    """Ctrl-C between taking a batch and keeping it: reading on would leave it out."""
    batches = Ids(connection.feed(batch_size=10, seed=7))
    iteration = iter(batches)
    next(iteration)
    next(iteration._epoch)  # type: ignore[attr-defined]  # taken, and kept by nobody

    with pytest.raises(feedline.EpochIncomplete, match=r"go on with iter\(\)"):
        next(iteration)
    assert list(batches) == plan[0][1:]


def test_a_stream_is_read_and_has_no_place() -> None:
    with serve({"y": [np.arange(3)] * 4}, kind="stream") as loader, feedline.connect(loader.address) as connection:
        batches = Rows(connection.feed(), ahead=2)

        assert list(batches) == [3, 3, 3, 3]
        batches.set_epoch(1)
        assert list(batches) == [3, 3, 3, 3]
        with pytest.raises(InvalidRequest, match="is a stream"):
            batches.state_dict()


def test_close_closes_the_feed(made: Made) -> None:
    batches = made()
    iteration = iter(batches)
    batches.close()
    batches.close()

    with pytest.raises(Closed):
        next(iteration)


@pytest.mark.parametrize(
    ("remainder", "samples", "offset", "is_refused"),
    [
        ("short", 40, 0, False),
        ("short", 41, 0, True),  # rank 0 of 4 would have one step more
        ("short", 43, 0, True),
        ("short", 44, 0, False),
        ("short", 44, 1, True),
        ("drop", 41, 0, False),
        ("pad", 41, 0, False),
        ("wrap", 41, 0, False),
    ],
)
def test_ranks_that_would_wait_for_each_other_for_ever_are_told_what_to_write(
    remainder: Remainder, samples: int, offset: int, is_refused: bool
) -> None:
    plan = Plan(samples=samples, batch_size=2, remainder=remainder, rank=3, world=4)
    if not is_refused:
        check_equal_steps(plan, offset)
        return
    with pytest.raises(InvalidRequest, match="remainder='drop'"):
        check_equal_steps(plan, offset)


def test_one_rank_alone_has_any_remainder() -> None:
    check_equal_steps(Plan(samples=41, batch_size=2, remainder="short", rank=0, world=1), 0)
