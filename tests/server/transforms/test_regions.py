"""Parts of images that random resized crops take."""

import math

import numpy as np
import pytest

from feedline_server.sources.source import SampleRequest
from feedline_server.transforms.randomness import words
from feedline_server.transforms.regions import WORDS, regions

COUNT = 20_000


def drawn(count: int = COUNT) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    ids = np.arange(count)
    return words(SampleRequest(ids, np.zeros(count, np.int64), 3), "0 random_resized_crop", WORDS)


def test_regions_lie_inside_with_areas_and_ratios_between_their_bounds() -> None:
    top, left, height, width = regions(drawn(), 375, 500, (0.08, 1.0), (3 / 4, 4 / 3)).T

    assert min(top.min(), left.min()) == 0
    assert min(height.min(), width.min()) > 0
    assert (top + height).max() == 375
    assert (left + width).max() == 500
    share, ratio = height * width / (375 * 500), width / height
    assert 0.078 < share.min() < 0.09  # whole pixels: a little beyond
    assert 0.7 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.4


def test_areas_and_places_are_uniform_and_a_ratio_is_as_likely_as_its_inverse() -> None:
    """Of an image of 1000 x 1000 and areas up to a quarter, of which every draw fits."""
    top, _, height, width = regions(drawn(), 1000, 1000, (0.05, 0.25), (1 / 2, 2.0)).T

    share = (height * width / 1e6 - 0.05) / 0.2
    place = top / (1000 - height)
    logarithm = np.log2(width / height)
    for values, least, most in ((share, 0, 1), (place, 0, 1), (logarithm, -1, 1)):
        counts, _ = np.histogram(np.clip(values, least, most), 10, (least, most))
        assert abs(counts - COUNT / 10).max() < 6 * math.sqrt(COUNT / 10)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 1000, (0, 493, 10, 13)),
        (1000, 10, (493, 0, 13, 10)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_where_no_draw_fits_the_largest_part_in_the_middle_is_taken(
    height: int, width: int, expected: tuple[int, ...]
) -> None:
    found = regions(drawn(50), height, width, (0.9, 1.0), (3 / 4, 4 / 3))

    assert {tuple(row) for row in found.tolist()} == {expected}


def test_bounds_may_be_one_value() -> None:
    found = regions(drawn(50), 400, 400, (0.25, 0.25), (1.0, 1.0))

    assert {tuple(row) for row in found[:, 2:].tolist()} == {(200, 200)}


def test_what_was_drawn_once_is_drawn_for_ever() -> None:
    """Written out: it must be the same on every processor and with every numpy."""
    assert regions(drawn(4), 375, 500, (0.08, 1.0), (3 / 4, 4 / 3)).tolist() == [
        [55, 190, 245, 238],
        [51, 94, 241, 230],
        [17, 50, 351, 438],
        [208, 210, 124, 147],
    ]
