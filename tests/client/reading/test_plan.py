"""Which positions of an epoch are whose: tables written out by hand, and laws for all of them."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.reading.plan import Cursor, Plan, Remainder, Step

REMAINDERS: tuple[Remainder, ...] = ("drop", "short", "pad", "wrap")


def steps(plan: Plan, epoch: int = 0, offset: int | None = None) -> list[tuple[int, int, int, int, int]]:
    """(index, offset, rows, padding, after) of each step."""
    return [(step.index, step.offset, step.rows, step.padding, step.after) for step in plan.steps(epoch, offset)]


@pytest.mark.parametrize(
    ("remainder", "expected"),
    [
        ("drop", [(0, 0, 4, 0, 4), (1, 4, 4, 0, 10)]),
        ("short", [(0, 0, 4, 0, 4), (1, 4, 4, 0, 8), (2, 8, 2, 0, 10)]),
        ("pad", [(0, 0, 4, 0, 4), (1, 4, 4, 0, 8), (2, 8, 4, 2, 10)]),
        ("wrap", [(0, 0, 4, 0, 4), (1, 4, 4, 0, 8), (2, 8, 4, 0, 12)]),
    ],
)
def test_ten_samples_in_batches_of_four(remainder: Remainder, expected: list[tuple[int, int, int, int, int]]) -> None:
    plan = Plan(samples=10, batch_size=4, remainder=remainder, rank=0, world=1)

    assert steps(plan) == expected
    assert plan.steps_per_epoch == len(expected)


@pytest.mark.parametrize(
    ("remainder", "rank", "expected"),
    [
        # 11 samples, 2 ranks with batches of 3: one whole global batch of 6, and 5 samples left.
        ("drop", 0, [(0, 0, 3, 0, 11)]),
        ("drop", 1, [(0, 3, 3, 0, 11)]),
        ("short", 0, [(0, 0, 3, 0, 6), (1, 6, 3, 0, 11)]),
        ("short", 1, [(0, 3, 3, 0, 6), (1, 9, 2, 0, 11)]),
        ("pad", 0, [(0, 0, 3, 0, 6), (1, 6, 3, 0, 11)]),
        ("pad", 1, [(0, 3, 3, 0, 6), (1, 9, 3, 1, 11)]),
        ("wrap", 0, [(0, 0, 3, 0, 6), (1, 6, 3, 0, 12)]),
        ("wrap", 1, [(0, 3, 3, 0, 6), (1, 9, 3, 0, 12)]),
    ],
)
def test_two_ranks_share_an_epoch(
    remainder: Remainder, rank: int, expected: list[tuple[int, int, int, int, int]]
) -> None:
    plan = Plan(samples=11, batch_size=3, remainder=remainder, rank=rank, world=2)

    assert steps(plan) == expected


def test_a_rank_whose_share_of_the_short_batch_is_empty_has_no_step_and_leaves_the_cursor_where_the_job_is() -> None:
    plans = [Plan(samples=13, batch_size=3, remainder="short", rank=rank, world=4) for rank in range(4)]

    assert [steps(plan) for plan in plans] == [
        [(0, 0, 3, 0, 12), (1, 12, 1, 0, 13)],
        [(0, 3, 3, 0, 12)],
        [(0, 6, 3, 0, 12)],
        [(0, 9, 3, 0, 12)],
    ]
    assert [plan.steps_per_epoch for plan in plans] == [2, 1, 1, 1]


def test_a_padded_batch_may_lie_past_the_end_as_a_whole() -> None:
    plan = Plan(samples=7, batch_size=3, remainder="pad", rank=1, world=3)

    assert steps(plan) == [(0, 3, 3, 0, 7)]
    assert steps(Plan(samples=7, batch_size=3, remainder="pad", rank=2, world=3)) == [(0, 6, 3, 2, 7)]
    assert steps(Plan(samples=7, batch_size=3, remainder="pad", rank=3, world=4)) == [(0, 9, 3, 3, 7)]


def test_wrapped_epochs_start_where_the_one_before_spilled_to() -> None:
    plan = Plan(samples=10, batch_size=4, remainder="wrap", rank=0, world=1)

    assert [plan.start(epoch) for epoch in range(5)] == [0, 2, 0, 2, 0]
    assert steps(plan, epoch=1) == [(0, 2, 4, 0, 6), (1, 6, 4, 0, 10)]
    assert [plan.steps_in(epoch) for epoch in range(4)] == [3, 2, 3, 2]


def test_the_line_of_wrapped_batches_is_that_of_the_epochs_end_to_end() -> None:
    plan = Plan(samples=10, batch_size=4, remainder="wrap", rank=0, world=1)

    line = [plan.step_after(Cursor(0, 0), number) for number in range(10)]

    assert line == [step for epoch in range(4) for step in plan.steps(epoch)]


@pytest.mark.parametrize(
    ("cursor", "settled"),
    [
        (Cursor(3, 9), Cursor(3, 9)),
        (Cursor(3, 10), Cursor(4, 0)),
        (Cursor(3, 12), Cursor(4, 2)),
        (Cursor(3, 31), Cursor(6, 1)),
    ],
)
def test_the_end_of_an_epoch_is_the_start_of_the_next(cursor: Cursor, settled: Cursor) -> None:
    assert Plan(samples=10, batch_size=4, remainder="wrap", rank=0, world=1).settled(cursor) == settled


@pytest.mark.parametrize(
    ("cursor", "settled"), [(Cursor(3, 6), Cursor(3, 6)), (Cursor(3, 7), Cursor(4, 0)), (Cursor(3, 10), Cursor(4, 0))]
)
def test_where_the_rest_is_dropped_an_epoch_ends_before_it(cursor: Cursor, settled: Cursor) -> None:
    assert Plan(samples=10, batch_size=4, remainder="drop", rank=0, world=1).settled(cursor) == settled


# ---- over the epochs' ends ----


def onward(plan: Plan, cursor: Cursor, count: int) -> list[Step]:
    return list(itertools.islice(plan.onward(cursor), count))


@pytest.mark.parametrize(
    ("remainder", "rank", "cursor", "expected"),
    [
        ("short", 0, Cursor(2, 0), Cursor(3, 0)),
        ("short", 1, Cursor(2, 8), Cursor(3, 0)),  # rank 1 has no share of the last sample
        ("drop", 0, Cursor(2, 4), Cursor(3, 0)),
        ("pad", 1, Cursor(2, 4), Cursor(3, 0)),
        ("pad", 0, Cursor(2, 9), Cursor(3, 0)),  # all of it was consumed
        ("wrap", 0, Cursor(0, 0), Cursor(1, 3)),
        ("wrap", 1, Cursor(2, 7), Cursor(3, 2)),
    ],
)
def test_the_next_epoch_begins_where_this_one_is_over_for_all_ranks(
    remainder: Remainder, rank: int, cursor: Cursor, expected: Cursor
) -> None:
    assert Plan(samples=9, batch_size=2, remainder=remainder, rank=rank, world=2).next_epoch(cursor) == expected


def test_from_a_place_on_the_steps_go_on_from_epoch_to_epoch() -> None:
    plan = Plan(samples=10, batch_size=4, remainder="short", rank=0, world=1)

    assert [(step.epoch, step.offset, step.rows) for step in onward(plan, Cursor(3, 4), 6)] == [
        (3, 4, 4),
        (3, 8, 2),
        (4, 0, 4),
        (4, 4, 4),
        (4, 8, 2),
        (5, 0, 4),
    ]


def test_wrapped_batches_go_on_end_to_end_from_any_offset() -> None:
    """One reached with another batch size is on no multiple of this one's."""
    plan = Plan(samples=10, batch_size=4, remainder="wrap", rank=1, world=2)

    assert [(step.epoch, step.offset, step.after) for step in onward(plan, Cursor(0, 3), 5)] == [
        (0, 7, 11),
        (1, 5, 9),
        (1, 13, 17),
        (2, 11, 15),
        (3, 9, 13),
    ]


def test_a_rank_without_a_share_of_the_rest_goes_on_with_the_next_epoch() -> None:
    plan = Plan(samples=9, batch_size=2, remainder="short", rank=1, world=4)

    assert [(step.epoch, step.offset) for step in onward(plan, Cursor(0, 0), 2)] == [(0, 2), (1, 2)]


def test_a_rank_without_any_step_has_none_onward() -> None:
    plan = Plan(samples=7, batch_size=1, remainder="short", rank=7, world=8)

    assert list(plan.onward(Cursor(0, 0))) == []


def test_the_largest_epoch_is_the_last() -> None:
    plan = Plan(samples=4, batch_size=2, remainder="short", rank=0, world=1)

    assert [step.offset for step in plan.onward(Cursor(2**64 - 1, 2))] == [2]
    assert [step.epoch for step in plan.onward(Cursor(2**64 - 2, 2))] == [2**64 - 2, 2**64 - 1, 2**64 - 1]


def test_an_epoch_without_an_end_is_known_by_its_size() -> None:
    endless, large = (Plan(samples, 1, "short", 0, 1) for samples in (2**62, 2**62 - 1))

    assert (endless.is_endless, large.is_endless) == (True, False)


def test_a_step_so_many_batches_behind_a_place() -> None:
    short, wrap = (Plan(10, 2, remainder, 1, 2) for remainder in ("short", "wrap"))  # type: ignore[arg-type]

    assert short.step_after(Cursor(3, 1), 1) == Step(1, 3, 7, 2, 0, 9)
    assert wrap.step_after(Cursor(3, 1), 1) == Step(1, 3, 7, 2, 0, 9)
    assert wrap.step_after(Cursor(3, 1), 3) == Step(0, 4, 5, 2, 0, 7)
    assert wrap.step_after(Cursor(3, 21), 0) == Step(0, 5, 3, 2, 0, 5)
    with pytest.raises(IndexError, match="epoch 3 has no step at 13 of 10"):
        short.step_after(Cursor(3, 1), 3)


def test_an_epoch_in_which_no_global_batch_starts_has_no_steps() -> None:
    plan = Plan(samples=3, batch_size=2, remainder="wrap", rank=0, world=4)  # a global batch is 2 epochs and 2 samples

    assert [plan.steps_in(epoch) for epoch in range(8)] == [1, 0, 1, 0, 0, 1, 0, 0]
    assert [len(steps(plan, epoch)) for epoch in range(8)] == [1, 0, 1, 0, 0, 1, 0, 0]


def test_a_cursor_reached_with_another_batch_size_is_continued() -> None:
    plan = Plan(samples=10, batch_size=4, remainder="short", rank=0, world=1)

    assert steps(plan, epoch=3, offset=3) == [(0, 3, 4, 0, 7), (1, 7, 3, 0, 10)]


@pytest.mark.parametrize("remainder", REMAINDERS)
def test_behind_its_end_an_epoch_has_no_steps(remainder: Remainder) -> None:
    plan = Plan(samples=10, batch_size=4, remainder=remainder, rank=0, world=1)

    assert [(plan.steps_from(offset), steps(plan, offset=offset)) for offset in (10, 11, 14, 25)] == [(0, [])] * 4


@pytest.mark.parametrize(
    ("remainder", "cursor", "over"), [("drop", 6, False), ("drop", 7, True), ("short", 9, False), ("short", 10, True)]
)
def test_an_epoch_is_over_when_no_rank_has_a_step_left(remainder: Remainder, cursor: int, over: bool) -> None:
    assert Plan(samples=10, batch_size=4, remainder=remainder, rank=0, world=1).is_over(cursor) == over


def test_a_step_that_does_not_exist_is_an_index_error() -> None:
    plan = Plan(samples=10, batch_size=4, remainder="short", rank=0, world=1)

    with pytest.raises(IndexError, match="epoch 5 has 3 steps, there is no step 3"):
        plan.step(5, 3)
    with pytest.raises(IndexError, match="there is no step -1"):
        plan.step(5, -1)


plans = st.builds(
    lambda samples, batch_size, remainder, rank, world: Plan(samples, batch_size, remainder, rank % world, world),
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    remainder=st.sampled_from(REMAINDERS),
    rank=st.integers(0, 7),
    world=st.integers(1, 5),
)


@given(plan=plans, epoch=st.integers(0, 5))
def test_a_step_asked_for_by_number_is_the_one_that_is_walked_to(plan: Plan, epoch: int) -> None:
    walked = list(plan.steps(epoch))

    assert [plan.step(epoch, index) for index in range(len(walked))] == walked
    assert plan.steps_in(epoch) == len(walked)
    assert [step.index for step in walked] == list(range(len(walked)))


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 5),
    remainder=st.sampled_from(REMAINDERS),
)
def test_all_ranks_together_have_every_position_once(
    samples: int, batch_size: int, world: int, remainder: Remainder
) -> None:
    epochs = 4
    ranks = [Plan(samples, batch_size, remainder, rank, world) for rank in range(world)]
    line = Counter(
        epoch * samples + position
        for plan in ranks
        for epoch in range(epochs)
        for step in plan.steps(epoch)
        for position in range(step.offset, step.offset + step.rows - step.padding)
    )

    assert set(line.values()) <= {1}, "no position twice"
    match remainder:
        case "short" | "pad":
            assert set(line) == set(range(epochs * samples)), "none left out, none of another epoch"
        case "drop":
            whole = samples - samples % (world * batch_size)
            assert set(line) == {epoch * samples + position for epoch in range(epochs) for position in range(whole)}
        case "wrap":
            assert set(line) == set(range(len(line))), "without a gap"
            assert epochs * samples <= len(line) < epochs * samples + world * batch_size


@given(plan=plans, epoch=st.integers(0, 3), data=st.data())
def test_after_any_step_the_rest_of_the_epoch_is_what_would_have_come(
    plan: Plan, epoch: int, data: st.DataObject
) -> None:
    walked = list(plan.steps(epoch))
    done = data.draw(st.integers(0, len(walked)))
    cursor = walked[done - 1].after if done else plan.start(epoch)

    assert list(plan.steps(epoch, cursor)) == walked[done:]


@given(plan=plans)
def test_steps_of_equal_ranks_are_equal_in_number_unless_the_remainder_is_short(plan: Plan) -> None:
    counts = {
        Plan(plan.samples, plan.batch_size, plan.remainder, rank, plan.world).steps_per_epoch
        for rank in range(plan.world)
    }

    assert max(counts) - min(counts) <= (plan.remainder == "short")


def test_the_billionth_step_costs_nothing() -> None:
    plan = Plan(samples=10**12, batch_size=100, remainder="short", rank=3, world=8)

    assert plan.step(2, 10**9) == Step(10**9, 2, 800 * 10**9 + 300, 100, 0, 800 * 10**9 + 800)
    assert next(itertools.islice(plan.steps(2, 800 * 10**9), 0, None)).index == 10**9
