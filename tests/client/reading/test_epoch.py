"""An epoch's end is counted, not assumed: a plan or a fetcher that is broken on purpose is found out."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import feedline
from feedline.reading.epoch import EpochAudit, EpochIncomplete
from feedline.reading.plan import Cursor, Plan, Remainder, Step
from feedline.testing import serve
from feedline_wire.errors import Closed

PLAN = Plan(samples=100, batch_size=10, remainder="short", rank=0, world=1)


def handed_out(plan: Plan, steps: list[Step], offset: int = 0) -> EpochAudit:
    """An audit that counted these steps."""
    audit, at = EpochAudit(plan, Cursor(3, offset)), offset
    for step in steps:
        audit.count(step, step.rows, at)
        at = step.after
    audit.end(at)
    return audit


@pytest.mark.parametrize("remainder", ["drop", "short", "pad", "wrap"])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("offset", [0, 30, 37, 99])
def test_a_whole_epoch_or_the_rest_of_one_ends(remainder: Remainder, world: int, offset: int) -> None:
    for rank in range(world):
        plan = Plan(samples=100, batch_size=7, remainder=remainder, rank=rank, world=world)

        steps = list(plan.steps(3, offset))

        assert handed_out(plan, steps, offset).delivered == len(steps) == plan.steps_from(offset)


def test_an_epoch_that_ends_too_early_names_the_positions_that_are_missing() -> None:
    steps = list(PLAN.steps(3))

    with pytest.raises(EpochIncomplete) as error:
        handed_out(PLAN, steps[:-2])

    assert str(error.value).startswith(
        "epoch 3 would have ended after 8 of 10 batches; missing: positions 80..89, positions 90..99. "
    )
    assert isinstance(error.value, Closed)


def test_a_gap_is_named_before_anything_behind_it_is_handed_out() -> None:
    steps = list(PLAN.steps(3))

    with pytest.raises(EpochIncomplete) as error:
        handed_out(PLAN, [*steps[:2], *steps[4:]])

    assert str(error.value).startswith(
        "epoch 3 would have gone on with positions 40..49 (10 rows) after 2 of 10 batches; "
        "missing: positions 20..29, positions 30..39. "
    )


def test_of_many_missing_positions_the_first_are_named() -> None:
    with pytest.raises(EpochIncomplete, match=r"positions 30\.\.39 and more\. "):
        handed_out(PLAN, [])


def test_a_step_that_comes_twice_is_found_out() -> None:
    steps = list(PLAN.steps(3))

    with pytest.raises(EpochIncomplete, match=r"gone on with positions 10\.\.19 .* it had been handed out before\."):
        handed_out(PLAN, [*steps[:2], *steps[1:]])


def test_a_step_with_other_rows_than_planned_is_found_out() -> None:
    (first, *_) = PLAN.steps(3)
    audit = EpochAudit(PLAN, Cursor(3, 0))

    with pytest.raises(EpochIncomplete, match=r"positions 0\.\.9 \(9 rows\)"):
        audit.count(first, 9, 0)


# ---- in an epoch ----


@pytest.fixture
def connection() -> Iterator[feedline.Loader]:
    with serve({"y": np.arange(100)}) as loader, feedline.connect(loader.address) as connection:
        yield connection


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda steps: steps[:-1], "ended after 9 of 10 batches; missing: positions 90..99"),
        (lambda steps: steps[:4] + steps[5:], "missing: positions 40..49"),
        (lambda steps: [*steps[:4], steps[3], *steps[4:]], "it had been handed out before"),
        (lambda steps: [], "ended after 0 of 10 batches"),
    ],
    ids=["ends early", "leaves one out", "repeats one", "is empty"],
)
def test_an_epoch_fetched_by_a_broken_plan_is_an_error_and_never_an_end(
    connection: feedline.Loader, monkeypatch: pytest.MonkeyPatch, broken: object, message: str
) -> None:
    feed = connection.feed(batch_size=10)
    whole = feed.readahead
    monkeypatch.setattr(feed, "readahead", lambda steps, limit: whole(broken(list(itertools.islice(steps, limit)))))  # type: ignore[operator]

    with pytest.raises(EpochIncomplete) as error:
        list(feed.epoch(0))

    assert message in str(error.value)


def test_what_is_missing_is_handed_out_when_the_feed_goes_on(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=10)
    epoch, got = iter(feed), []
    got += next(epoch).ids.tolist()
    epoch._ahead.take()  # taken, and lost
    with pytest.raises(EpochIncomplete, match=r"missing: positions 10\.\.19\."):
        next(epoch)

    for batch in feed:
        got += batch.ids.tolist()

    assert sorted(got) == list(range(100))
