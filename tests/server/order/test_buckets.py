"""Samples of about equal length together: every one once, whatever is asked first, and little to pad."""

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline_server.order.buckets import bucket_indices

NAME = "buckets of a test"


def lengths(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """1..100, in no order that the indices show."""
    return (indices * 7919) % 100 + 1


def order(samples: int, size: int, window: int, name: str = NAME) -> NDArray[np.int64]:
    return bucket_indices(name, samples, size, window, np.arange(samples), lengths)


@pytest.mark.parametrize("samples", [1, 31, 32, 33, 255, 256, 257, 1000, 5000])
def test_every_sample_stands_at_one_position(samples: int) -> None:
    assert np.sort(order(samples, 32, 8)).tolist() == list(range(samples))


def test_a_position_has_its_sample_whatever_is_asked_beside_it() -> None:
    whole = order(1000, 32, 8)

    for positions in (np.array([999]), np.array([700, 3, 3, 256]), np.arange(250, 270)):
        assert bucket_indices(NAME, 1000, 32, 8, positions, lengths).tolist() == whole[positions].tolist()


def test_samples_of_a_batch_are_about_equally_long() -> None:
    """Of random batches of 32 the longest is about 97 of 100 and the mean 50: half of what is sent would be padding."""
    found = lengths(order(4096, 32, 64)).reshape(-1, 32)

    spread = found.max(axis=1) - found.min(axis=1)

    assert spread.max() <= 4
    assert found.max(axis=1).sum() * 32 / found.sum() < 1.04


@pytest.mark.parametrize(("window", "most"), [(64, 0.11), (256, 0.04)])
def test_sentences_leave_little_to_pad(window: int, most: float) -> None:
    """What feedline_wire/orders.py says of its default; without buckets it is 72 %."""
    words = np.random.default_rng(0).lognormal(3.0, 0.7, 65_536).clip(1).astype(np.int64)

    order = bucket_indices(NAME, len(words), 32, window, np.arange(len(words)), lambda indices: words[indices])

    batches = words[order].reshape(-1, 32)
    assert 1 - batches.sum() / (batches.max(axis=1) * 32).sum() < most


def test_long_and_short_batches_come_mixed() -> None:
    means = lengths(order(4096, 32, 64)).reshape(-1, 32).mean(axis=1)

    with_the_next = np.corrcoef(means[:-1], means[1:])[0, 1]

    assert abs(with_the_next) < 0.3  # 128 batches: 3.4 standard deviations; sorted ones have 1


def test_who_is_together_changes_with_the_name() -> None:
    one = {frozenset(bucket) for bucket in order(4096, 32, 64).reshape(-1, 32).tolist()}
    other = {frozenset(bucket) for bucket in order(4096, 32, 64, "another epoch").reshape(-1, 32).tolist()}

    assert not one & other


def test_the_short_bucket_is_the_last_and_of_any_length() -> None:
    """Under `drop` it is left out; were it always the longest samples, a model would hardly see them."""
    lasts = []
    for epoch in range(40):
        found = order(100, 32, 8, f"epoch {epoch}")
        batches = [set(lengths(found[start : start + 32]).tolist()) for start in (0, 32, 64, 96)]
        assert max(max(batch) - min(batch) for batch in batches[:3]) <= 36
        lasts.append(min(batches[3]))

    assert sorted(set(lasts)) == [1, 33, 65, 97]


def test_a_window_is_sorted_once() -> None:
    asked = []

    def counted(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.append(len(indices))
        return lengths(indices)

    for start in range(0, 512, 32):
        bucket_indices(NAME, 512, 32, 8, np.arange(start, start + 32), counted)

    assert asked == [256, 256]
