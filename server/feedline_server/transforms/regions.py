"""Which part of an image a random resized crop takes: arithmetic on random words, an image a row.

As torchvision's RandomResizedCrop draws it: an area within bounds, a ratio of width to height that is as likely to be
half as to be double, a place; up to ten times, until the part fits into the image. Nothing but sums, products,
quotients and square roots, which IEEE 754 rounds alike everywhere: exponentials and logarithms differ between
processors.
"""

import math

import numpy as np
from numpy.typing import NDArray

from feedline_server.transforms.randomness import Words, below

TRIES = 10
"""torchvision's."""

WORDS = 2 * TRIES + 2
"""Random words for an image: an area and a ratio for each try, and a place."""

RATIO_BITS = 16
"""Of a ratio: steps of 1/65,536 of the way between its bounds are finer than pixels."""

Interval = tuple[float, float]


def regions(words: Words, height: int, width: int, scale: Interval, ratio: Interval) -> NDArray[np.int64]:
    """(top, left, height, width) for each row of `words`, which has WORDS of them, inside an image of this size."""
    share = (words[:, 0 : 2 * TRIES : 2] >> np.uint64(11)).astype(np.float64) / 2.0**53
    area = (scale[0] + (scale[1] - scale[0]) * share) * (height * width)
    drawn = _ratios(words[:, 1 : 2 * TRIES : 2], ratio)
    heights, widths = np.rint(np.sqrt(area / drawn)), np.rint(np.sqrt(area * drawn))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = np.argmax(fits, axis=1)[:, np.newaxis]
    found = np.empty((len(words), 4), np.int64)
    for place, tried in ((2, heights), (3, widths)):
        found[:, place] = np.take_along_axis(tried, first, axis=1)[:, 0]
    found[:, 0] = below(words[:, -2], height - found[:, 2] + 1)
    found[:, 1] = below(words[:, -1], width - found[:, 3] + 1)
    found[~fits.any(axis=1)] = _middle(height, width, ratio)
    return found


def _ratios(words: Words, ratio: Interval) -> NDArray[np.float64]:
    """least * (most / least) ** u: bit by bit of u, whose factors are square roots of each other."""
    found = np.full(words.shape, ratio[0])
    factor = ratio[1] / ratio[0]
    for bit in range(1, RATIO_BITS + 1):
        factor = math.sqrt(factor)
        found[(words >> np.uint64(64 - bit)) & np.uint64(1) == 1] *= factor
    return found


def _middle(height: int, width: int, ratio: Interval) -> tuple[int, int, int, int]:
    """What is taken where nothing fitted: the largest part in the middle whose ratio is within bounds."""
    rows, columns = height, width
    if width < height * ratio[0]:
        rows = max(1, round(width / ratio[0]))
    elif width > height * ratio[1]:
        columns = max(1, round(height * ratio[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
