"""How random a shuffled epoch looks to a model: measured as numpy's own permutation is, within the same tolerances.

Seeds are fixed, so a test that passes once passes always. Tolerances are five standard deviations of what is measured,
of a truly random order; numpy's permutation stands beside ours so that a wrong yardstick is noticed, and an order known
to be bad shows that the yardstick finds something.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline_server.order.positions import view_indices

BATCH = 256
PIECE = 1 << 16

Indices = NDArray[np.int64]
MakeOrder = Callable[[int, int], Indices]
"""(samples, epoch) → the epoch's whole order."""


def ours(samples: int, epoch: int) -> Indices:
    starts = range(0, samples, PIECE)
    pieces = (np.arange(start, min(start + PIECE, samples)) for start in starts)
    return np.concatenate([view_indices("shuffle", samples, 1, epoch, piece) for piece in pieces])


def numpys(samples: int, epoch: int) -> Indices:
    return np.random.default_rng([1, epoch]).permutation(samples)


def levanters(samples: int, epoch: int) -> Indices:
    """Levanter's five-round network, whose hash never brings high bits down. For powers of four."""
    half = (samples - 1).bit_length() // 2
    low = (1 << half) - 1
    keys = np.random.default_rng([2, epoch]).integers(0, 2**31, 5)
    left, right = np.divmod(np.arange(samples), 1 << half)
    for key in keys:
        left, right = right, left ^ (right * 2654435761 + key & low)
    return left << half | right


def batches(order: Indices) -> Indices:
    return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)


def chi2(counts: NDArray[np.int64], expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


# ---- batches are mixed ----

# Epochs a size: smaller views need more of them for the same certainty.
SIZES = [(5000, 60), (60_000, 8), (10**6, 1), (2**20, 1), (1_281_167, 1)]


def bit_balance(make: MakeOrder, samples: int, epochs: int) -> tuple[NDArray[np.float64], float]:
    """For each bit, the variance over batches of how many of a batch's indices have it set, over what a draw without
    replacement has; and the standard deviation that such a ratio has for a truly random order."""
    bits = (samples - 1).bit_length()
    set_in_view = [int((np.arange(samples) >> bit & 1).sum()) / samples for bit in range(bits)]
    drawn = BATCH * (samples - BATCH) / (samples - 1)
    ratios = np.zeros(bits)
    for epoch in range(epochs):
        rows = batches(make(samples, epoch))
        for bit, share in enumerate(set_in_view):
            ratios[bit] += (rows >> bit & 1).sum(1).var(ddof=1) / (drawn * share * (1 - share))
    return ratios / epochs, sqrt(2 / (epochs * (samples // BATCH - 1)))


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize(("samples", "epochs"), SIZES)
def test_no_bit_of_the_index_tells_one_batch_from_another(make: MakeOrder, samples: int, epochs: int) -> None:
    """The cheapest test that finds what goes wrong in the field: grain's four rounds reach 22, Levanter's 256."""
    ratios, deviation = bit_balance(make, samples, epochs)

    assert np.abs(ratios - 1).max() < 5 * deviation


def test_the_bit_balance_finds_levanters_order() -> None:
    """At 2^20 samples each of its batches is all even or all odd: 256 times the variance."""
    ratios, _ = bit_balance(levanters, 2**20, 1)

    assert ratios.max() == pytest.approx(256, rel=0.01)


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize(("samples", "epochs"), SIZES)
def test_batches_of_a_view_sorted_by_class_hold_all_classes_alike(make: MakeOrder, samples: int, epochs: int) -> None:
    """Of ten classes: 1 is a random draw, 256 a batch of one class, less than 1 more even than chance (grain: 0.74)."""
    ratios = []
    for epoch in range(epochs):
        classes = batches(make(samples, epoch)) * 10 // samples
        counts = np.stack([(classes == one).sum(1) for one in range(10)])
        ratios.append(((counts - BATCH / 10) ** 2 / (BATCH / 10)).sum(0) / 9 * (samples - 1) / (samples - BATCH))
    ratio = np.concatenate(ratios)

    assert abs(ratio.mean() - 1) < 5 * sqrt(2 / 9 / len(ratio))
    assert np.quantile(ratio, 0.99) < 2.7  # 2.41 for a chi-square of 9 degrees; numpy's measured 2.40 at 10^6


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize(("samples", "epochs"), SIZES)
def test_neighbours_in_the_view_are_neighbours_in_the_order_by_chance_only(
    make: MakeOrder, samples: int, epochs: int
) -> None:
    """One sample beside the next, either way round: twice an epoch, as a Poisson count. Grain's rate is a fifth."""
    found = sum(int((np.abs(np.diff(make(samples, epoch))) == 1).sum()) for epoch in range(epochs))

    assert abs(found - 2 * epochs) < 5 * sqrt(2 * epochs)


def distance_chi2(make: MakeOrder, samples: int, epochs: int, lags: Iterable[int]) -> list[float]:
    """For each lag, how unevenly the distances of indices `lag` positions apart are spread: deviations from chance."""
    orders = [make(samples, epoch) for epoch in range(epochs)]
    freedom = samples - 2
    found = []
    for lag in lags:
        distances = np.concatenate([(np.roll(order, -lag) - order) % samples for order in orders])
        counts = np.bincount(distances, minlength=samples)
        found.append((chi2(counts[1:], epochs * samples / (samples - 1)) - freedom) / sqrt(2 * freedom))
    return found


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize("samples", [6, 7, 8, 12, 33, 64, 1024, 1025, 1056, 2048, 3000])
def test_pairs_of_positions_do_not_keep_their_distance(make: MakeOrder, samples: int) -> None:
    """What a network shows first that has too few rounds for its size: four reach 180 here at 1025 samples, and eight,
    were no order drawn whole, 162 at 8 samples."""
    epochs = min(3000, 500_000 // samples)
    lags = [lag for lag in (1, 2, 3, 4, 8, 16, 32, 64, 128, samples // 2 - 1) if lag < samples / 2]

    assert max(map(abs, distance_chi2(make, samples, epochs, lags))) < 5


# ---- tiny views ----

TINY_EPOCHS = 5000


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize(("samples", "freedom"), [(2, 1), (3, 4), (5, 16), (8, 49), (10, 81), (16, 225)])
def test_in_a_tiny_view_every_sample_comes_everywhere_alike(make: MakeOrder, samples: int, freedom: int) -> None:
    """Position by value over 5000 epochs; at 10 samples grain's four rounds reach 186 on 81 degrees of freedom."""
    counts = np.zeros((samples, samples), np.int64)
    for epoch in range(TINY_EPOCHS):
        counts[np.arange(samples), make(samples, epoch)] += 1

    assert abs(chi2(counts, TINY_EPOCHS / samples) - freedom) < 5 * sqrt(2 * freedom)


@pytest.mark.parametrize("make", [ours, numpys])
@pytest.mark.parametrize(("samples", "orders"), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_every_order_of_a_tiny_view_comes_alike(make: MakeOrder, samples: int, orders: int) -> None:
    found = [tuple(make(samples, epoch).tolist()) for epoch in range(TINY_EPOCHS)]

    counts = np.array([found.count(one) for one in set(found)])

    assert len(counts) == orders
    assert abs(chi2(counts, TINY_EPOCHS / orders) - (orders - 1)) < 5 * sqrt(2 * (orders - 1))


# ---- orders have nothing to do with each other ----

NAMES = [
    ((100_003, 3, 1), (100_003, 4, 0)),
    ((100_003, 0, 0), (100_003, 0, 1)),
    ((100_003, 0, 0), (100_003, 1, 0)),
    ((100_003, 1, 0), (100_003, 0, 1)),
    ((100_003, 0, 0), (100_003, 2**32, 0)),
    ((100_003, 0, 0), (100_003, 0, 2**63)),
    ((100_003, 0, 0), (100_004, 0, 0)),
    ((100_003, 5, 5), (100_352, 5, 5)),
]
"""Pairs of (samples, seed, epoch): alike in their sum, their low or high bits, all but the size, the network's grid."""


@pytest.mark.parametrize(("first", "second"), NAMES)
def test_two_orders_have_nothing_in_common(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    samples = first[0]
    one, other = (view_indices("shuffle", *name, np.arange(samples)) for name in (first, second))

    distances = (one - other) % samples
    same_step = np.diff(one) == np.diff(other)

    # Positions with the same index, and pairs that stay together: one an epoch by chance. 10 is past 1 in 10^7.
    assert (distances == 0).sum() < 10
    assert same_step.sum() < 10
    assert chi2(np.bincount(distances * 10 // samples, minlength=10), samples / 10) < 9 + 5 * sqrt(18)


@pytest.mark.parametrize("samples", [10, 1000, 1025, 5000])
def test_an_epoch_repeats_one_position_of_the_epoch_before(samples: int) -> None:
    """On average, as of any two random orders: exactly one sample stands where it stood, whatever the size."""
    epochs = 500
    orders = [ours(samples, epoch) for epoch in range(epochs + 1)]

    repeats = [int((before == after).sum()) for before, after in pairwise(orders)]

    assert abs(np.mean(repeats) - 1) < 5 / sqrt(epochs)
    assert abs(np.var(repeats) - 1) < 5 * sqrt(3 / epochs)  # of a Poisson count's variance: (2 + 1/1) / epochs


# ---- blocks: as random as their window ----


def of(order: str, samples: int, epoch: int) -> Indices:
    starts = range(0, samples, PIECE)
    pieces = (np.arange(start, min(start + PIECE, samples)) for start in starts)
    return np.concatenate([view_indices(order, samples, 1, epoch, piece) for piece in pieces])


@pytest.mark.parametrize(
    ("order", "expected"), [("blocks:64x32", 8.9), ("blocks:64x128", 2.9), ("blocks:64x512", 1.48), ("blocks", 1.92)]
)
def test_how_mixed_a_batch_of_blocks_is_follows_from_the_blocks_in_its_window(order: str, expected: float) -> None:
    """Of ten classes that lie together in a million samples: 1 + 255 / window, less what a window is of the whole."""
    rows = batches(of(order, 10**6, 0)) * 10 // 10**6

    counts = np.stack([(rows == one).sum(1) for one in range(10)])
    ratio = ((counts - BATCH / 10) ** 2 / (BATCH / 10)).sum(0) / 9

    assert ratio.mean() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("order", ["blocks:64x32", "blocks:128x256", "blocks:1024x8"])
def test_no_bit_of_the_place_within_a_block_tells_one_batch_from_another(order: str) -> None:
    """Within a window a batch is drawn as from a shuffled view: as many of it as chance lets have each bit set."""
    size, window = (int(number) for number in order.removeprefix("blocks:").split("x"))
    rows = batches(of(order, size * window * 40, 0))

    for bit in range((size - 1).bit_length()):
        ratio = (rows >> bit & 1).sum(1).var(ddof=1) / (BATCH / 4 * (1 - BATCH / (size * window)))
        assert abs(ratio - 1) < 5 * sqrt(2 / len(rows)), bit


@pytest.mark.parametrize(("size", "window"), [(64, 32), (128, 8), (1024, 1)])
def test_neighbours_in_a_block_are_neighbours_in_the_order_by_chance_only(size: int, window: int) -> None:
    """Two a window, as a Poisson count, less those at the edges of blocks."""
    windows = 200
    order = of(f"blocks:{size}x{window}", size * window * windows, 0)

    found = int((np.abs(np.diff(order)) == 1).sum())

    expected = 2 * (1 - 1 / size) * windows
    assert abs(found - expected) < 5 * sqrt(expected)


def test_blocks_meet_others_in_every_epoch() -> None:
    """Of 16 windows with 32 blocks each, a pair of blocks that met meets again as often as any two do: 31 in 511."""
    blocks = 512
    met = np.zeros((2, blocks, blocks), bool)
    for epoch in range(2):
        for window in of("blocks:64x32", 64 * blocks, epoch).reshape(16, -1):
            together = np.unique(window // 64)
            met[epoch][np.ix_(together, together)] = True

    pairs = (met[0] & ~np.eye(blocks, dtype=bool)).sum() / 2
    again = (met[0] & met[1] & ~np.eye(blocks, dtype=bool)).sum() / 2

    assert pairs == 16 * 32 * 31 / 2
    expected = pairs * 31 / 511
    assert abs(again - expected) < 5 * sqrt(expected)


def test_the_short_block_stands_anywhere() -> None:
    places = np.array([of("blocks:64x1", 64 * 9 + 10, epoch).argmax() // 64 for epoch in range(1000)])

    counts = np.bincount(places, minlength=10)

    assert chi2(counts, 100) < 9 + 5 * sqrt(18)


# ---- replacement: each draw by itself ----


@pytest.mark.parametrize("samples", [1000, 4096, 100_003])
def test_every_sample_is_drawn_as_often_as_chance_has_it(samples: int) -> None:
    epochs = 2_000_000 // samples
    counts = np.bincount(np.concatenate([of("replacement", samples, epoch) for epoch in range(epochs)]))

    freedom = samples - 1
    assert abs(chi2(counts, epochs) - freedom) < 5 * sqrt(2 * freedom)


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 256, 1000])
def test_a_draw_says_nothing_about_another(lag: int) -> None:
    draws = of("replacement", 2**20, 0)
    cells = (draws >> 15)[:-lag] * 32 + (draws >> 15)[lag:]
    low = (draws & 31)[:-lag] * 32 + (draws & 31)[lag:]

    for pairs in (cells, low):
        counts = np.bincount(pairs, minlength=1024)
        assert abs(chi2(counts, len(pairs) / 1024) - 1023) < 5 * sqrt(2 * 1023)


@pytest.mark.parametrize(("first", "second"), NAMES)
def test_draws_of_two_names_have_nothing_in_common(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    samples = first[0]
    one, other = (view_indices("replacement", *name, np.arange(samples)) for name in (first, second))

    assert (one == other).sum() < 10  # one by chance
    assert chi2(np.bincount((one - other) % samples * 10 // samples, minlength=10), samples / 10) < 9 + 5 * sqrt(18)
