"""What ids tell of an order: one that is good, and some that are bad in the ways that were seen elsewhere."""

from collections import Counter

import numpy as np
import pytest

from feedline.cli.evidence import content, counted, drift, likeness, neighbours, parts, unevenness

SAMPLES = 10_000
SIGMA = 1 / SAMPLES**0.5
RANDOM = np.random.default_rng(5).permutation(SAMPLES)
OTHER = np.random.default_rng(6).permutation(SAMPLES)
SORTED = np.arange(SAMPLES)


def test_an_epoch_with_each_sample_once_is_exact() -> None:
    found = counted(RANDOM, SAMPLES)

    assert found.is_exact
    assert str(found) == "each of 10,000 samples once"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([0, 1, 2], "3 of 4 samples"),
        ([0, 1, 2, 2], "3 of 4 samples; 1 rows again, of samples 2"),
        ([0, 1, 2, 3, 3, 0], "4 of 4 samples; 2 rows again, of samples 0, 3"),
    ],
)
def test_what_is_missing_or_came_again_is_named(ids: list[int], expected: str) -> None:
    found = counted(np.array(ids), 4)

    assert not found.is_exact
    assert str(found) == expected


def test_a_random_order_measures_as_one() -> None:
    assert abs(drift(RANDOM)) < 4 * SIGMA
    assert 0.5 < neighbours(RANDOM) * 2 < 4  # two are expected in all: a Poisson number
    assert unevenness(parts(RANDOM), 64) == pytest.approx(1, abs=0.15)
    assert abs(likeness(RANDOM, OTHER)) < 4 * SIGMA


def test_an_order_that_is_none_measures_as_none() -> None:
    assert drift(SORTED) == pytest.approx(1)
    assert neighbours(SORTED) == pytest.approx(SAMPLES / 2)
    assert unevenness(parts(SORTED), 64) > 50  # type: ignore[operator]
    assert likeness(RANDOM, RANDOM) == pytest.approx(1)


def test_blocks_that_are_not_mixed_show_in_neighbours_and_parts() -> None:
    blocks = np.random.default_rng(7).permutation(SAMPLES // 100)
    order = (blocks[:, np.newaxis] * 100 + np.arange(100)).reshape(-1)

    assert neighbours(order) > 1000
    assert unevenness(parts(order), 50) > 5  # type: ignore[operator]


def test_batches_that_are_all_even_or_all_odd_show_in_the_classes() -> None:
    """Levanter's order of 2^20 samples."""
    evens_and_odds = RANDOM.reshape(-1, 50)
    order = np.concatenate([np.concatenate([b[b % 2 == 0], b[b % 2 == 1]]) for b in evens_and_odds.reshape(-1, 200)])

    assert unevenness(order % 2, 50) > 5  # type: ignore[operator]


def test_a_view_need_not_hold_all_of_a_dataset() -> None:
    ids = RANDOM * 1000 + 17

    assert drift(ids) == drift(RANDOM)
    assert unevenness(parts(ids), 64) == unevenness(parts(RANDOM), 64)


def test_too_little_to_say_is_none() -> None:
    assert unevenness(np.zeros(1000, np.int64), 10) is None
    assert unevenness(np.arange(10), 8) is None


@pytest.mark.parametrize(
    ("rows", "following", "is_exact", "words"),
    [
        ([1, 2, 3, 3], [3, 2, 3, 1], True, "the same 4 rows as in the next epoch, each as often"),
        ([1, 2, 3, 4], [1, 2, 3, 9], None, "1 of 4 rows are others in the next epoch, as augmentation makes them"),
        (
            [1, 1, 1, 4],
            [1, 2, 3, 4],
            False,
            "2 of 4 rows are repetitions, the most frequent came 3 times, while 2 rows",
        ),
        ([5, 6, 7, 8], [1, 2, 3, 4], None, "4 of 4 rows are others in the next epoch"),
    ],
)
def test_rows_of_ready_batches_are_compared_with_those_of_the_next_epoch(
    rows: list[int], following: list[int], is_exact: bool | None, words: str
) -> None:
    found = content(Counter(rows), Counter(following))

    assert found.is_exact is is_exact
    assert words in str(found)
