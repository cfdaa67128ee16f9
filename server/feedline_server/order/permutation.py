"""Keyed permutations: a bijection of 0..samples-1 for each name, index in and index out.

A Feistel network (Luby and Rackoff 1988) on a grid of cells, walked until it lands inside (Black and Rogaway 2002). The
grid has 2^k columns and as many rows as are needed, so less than one row of cells is spare and hardly anything has to
walk, whatever the number of samples. Small ones are drawn whole. All that is random is hashed from the name.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Of the network. Four show at 5000 samples (pairs of positions keep their distance) and six at 1056, barely; eight
nowhere from 64 samples on (docs/design.md)."""

SMALL = 1024
"""Samples up to which an order is drawn whole: 8 KiB and 40 us an epoch. Below 64 samples a network of 8 rounds shows,
and at 8 samples even 16 rounds do; a batch then costs 4 us instead of 40 to 90 (benchmarks/order.py)."""

_KEPT = 256
"""Permutations that are kept, by their keys or whole if small: 2 MiB at most, more than a worker's trainers are in."""

# A constant is an array without dimensions: as an operand it costs half of what a numpy scalar costs.
Words: TypeAlias = NDArray[np.uint64]

# The multipliers of splitmix64's finaliser (Steele, Lea and Flood 2014).
_SPREAD = np.array(0xBF58476D1CE4E5B9, np.uint64)
_SPREAD_AGAIN = np.array(0x94D049BB133111EB, np.uint64)
_HALF = np.array(32, np.uint64)
_LOW_HALF = np.array(0xFFFF_FFFF, np.uint64)


def permuted(name: str, samples: int, positions: Words) -> NDArray[np.int64]:
    """What stands at each of `positions`, all below `samples`, in the permutation of that name."""
    if samples <= SMALL:
        return _small_order(name, samples)[positions]
    return _walked(_grid(samples), _round_keys(name), positions)


def drawn(name: str, samples: int, positions: Words) -> NDArray[np.int64]:
    """A number of 0..samples-1 at each of `positions`, each drawn by itself: the same number may come again."""
    first, second = _draw_keys(name)
    words = positions ^ first
    spare = np.empty_like(words)
    _mix(words, spare)
    np.right_shift(words, _HALF, spare)  # the fold that a network's hash can do without: here all 64 bits are used
    np.bitwise_xor(words, spare, words)
    np.bitwise_xor(words, second, words)
    _mix(words, spare)
    np.right_shift(words, _HALF, spare)
    np.bitwise_xor(words, spare, words)
    return _high_half(words, samples).view(np.int64)


def random_below(name: str, bound: int) -> int:
    """One number of 0..bound-1."""
    return int(random_words(name, 1)[0]) * bound >> 64


def random_words(name: str, count: int) -> Words:
    """The words that a name hashes to: the same in any language."""
    return np.frombuffer(shake_128(name.encode("ascii")).digest(8 * count), "<u8").astype(np.uint64)


# ---- what is random ----


@lru_cache(_KEPT)
def _small_order(name: str, samples: int) -> NDArray[np.int64]:
    """A small permutation whole: its indices, sorted by a random word each."""
    order = np.argsort(random_words(name, samples), kind="stable").astype(np.int64)
    order.flags.writeable = False  # it is kept, and what is kept must not change
    return order


@lru_cache(_KEPT)
def _round_keys(name: str) -> tuple[Words, ...]:
    """One word a round."""
    return tuple(_word(int(key)) for key in random_words(name, ROUNDS))


@lru_cache(_KEPT)
def _draw_keys(name: str) -> tuple[Words, Words]:
    first, second = random_words(name, 2)
    return _word(int(first)), _word(int(second))


# ---- the network ----


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells in which positions lie: position = row * 2^column_bits + column."""

    samples: int
    column_bits: Words
    column_mask: Words
    column_shift: Words
    """Leaves the top `column_bits` of a word."""
    rows: Words
    has_spare_cells: bool


@lru_cache(_KEPT)
def _grid(samples: int) -> _Grid:
    bits = (samples - 1).bit_length() // 2
    rows = -(-samples >> bits)
    return _Grid(
        samples=samples,
        column_bits=_word(bits),
        column_mask=_word((1 << bits) - 1),
        column_shift=_word(64 - bits),
        rows=_word(rows),
        has_spare_cells=rows << bits > samples,
    )


def _walked(grid: _Grid, keys: tuple[Words, ...], positions: Words) -> NDArray[np.int64]:
    """Where the network leads from each position; what lands on a spare cell goes on from there."""
    indices = _network(grid, keys, positions)
    while grid.has_spare_cells and int(indices.max()) >= grid.samples:
        outside = np.flatnonzero(indices >= np.uint64(grid.samples))
        indices[outside] = _network(grid, keys, indices[outside])
    return indices.view(np.int64)


def _network(grid: _Grid, keys: tuple[Words, ...], cells: Words) -> Words:
    """The cell that each cell is sent to: a hash of the column moves the row, then one of the row the column.

    A hash is the top bits of a full 64-bit mixer, which depend on every bit of what went in. One that never brings high
    bits down makes every batch all even or all odd (Levanter's order, measured at 2^20 samples).
    """
    column = cells & grid.column_mask
    row = cells >> grid.column_bits
    mixed = np.empty_like(cells)
    spare = np.empty_like(cells)
    for row_key, column_key in zip(keys[::2], keys[1::2], strict=True):
        # row = (row + 32 bits of hash(column) * rows / 2^32) mod rows
        np.bitwise_xor(column, row_key, mixed)
        _mix(mixed, spare)
        np.right_shift(mixed, _HALF, mixed)
        np.multiply(mixed, grid.rows, mixed)
        np.right_shift(mixed, _HALF, mixed)
        np.add(row, mixed, row)
        np.subtract(row, grid.rows, spare)  # a huge number where row < rows, so that the smaller one is the remainder
        np.minimum(row, spare, out=row)
        # column = column ^ column_bits of hash(row)
        np.bitwise_xor(row, column_key, mixed)
        _mix(mixed, spare)
        np.right_shift(mixed, grid.column_shift, mixed)
        np.bitwise_xor(column, mixed, column)
    np.left_shift(row, grid.column_bits, row)
    np.bitwise_or(row, column, row)
    return row


def _mix(words: Words, spare: Words) -> None:
    """splitmix64's finaliser in place, less its first and last fold: positions are short, a network takes the top."""
    np.multiply(words, _SPREAD, words)
    np.right_shift(words, _HALF, spare)
    np.bitwise_xor(words, spare, words)
    np.multiply(words, _SPREAD_AGAIN, words)


def _word(value: int) -> Words:
    word = np.array(value, np.uint64)
    word.flags.writeable = False
    return word


def _high_half(words: Words, factor: int) -> Words:
    """The high 64 bits of each word times a factor below 2^63, by halves: numpy has no wider integers."""
    high, low = words >> _HALF, words & _LOW_HALF
    factor_high, factor_low = _word(factor >> 32), _word(factor & 0xFFFF_FFFF)
    middle = high * factor_low + (low * factor_low >> _HALF)
    whole: Words = middle >> _HALF
    if factor >> 32:
        whole += high * factor_high + (low * factor_high + (middle & _LOW_HALF) >> _HALF)
    return whole
