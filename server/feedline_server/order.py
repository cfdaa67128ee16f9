"""Which index of a view stands at each position of an epoch's order.

Pure arithmetic on (order, samples, seed, epoch, position): nothing is opened, nothing is drawn one after the other,
nothing is remembered that could not be derived again. Position 10^9 costs what position 0 costs.

`shuffle` is a keyed bijection of 0..samples-1: a Feistel network (Luby and Rackoff 1988) on a grid of cells, walked
until it lands inside (Black and Rogaway 2002). The grid has 2^k columns and as many rows as are needed, so less than
one row of cells is spare and hardly anything has to walk, whatever the number of samples. Small views are drawn whole.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from feedline_wire.errors import InvalidRequest

ORDER_VERSION = 1
"""Of the permutation. Raised when any position of any order changes: who resumes must find the order that was left."""

Order: TypeAlias = Literal["shuffle", "sequential"]
ORDERS: tuple[str, ...] = get_args(Order)
"""Every order there is, by name."""

ROUNDS = 8
"""Of the network. Four show at 5000 samples (pairs of positions keep their distance) and six at 1056, barely; eight
nowhere from 64 samples on (docs/design.md)."""

SMALL = 1024
"""Samples up to which an order is drawn whole: 8 KiB and 40 us an epoch. Below 64 samples a network of 8 rounds shows,
and at 8 samples even 16 rounds do; a batch then costs 4 us instead of 40 to 90 (benchmarks/order.py)."""

_KEPT = 256
"""Orders whose keys, or which themselves if small, are kept: 2 MiB at most, more than a worker's trainers are in."""

# A constant is an array without dimensions: as an operand it costs half of what a numpy scalar costs.
_Words: TypeAlias = NDArray[np.uint64]

# The multipliers of splitmix64's finaliser (Steele, Lea and Flood 2014).
_SPREAD = np.array(0xBF58476D1CE4E5B9, np.uint64)
_SPREAD_AGAIN = np.array(0x94D049BB133111EB, np.uint64)
_HALF = np.array(32, np.uint64)


def view_indices(order: str, samples: int, seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index in the view, 0..samples-1, at each of `positions` in an epoch's order.

    Positions at or past `samples` run on: position p is position p % samples of epoch + p // samples. `positions` is
    one-dimensional, in any order, with repeats if you like. Seed and epoch are any integers from 0.
    InvalidRequest for an order that does not exist, a negative position, or any position of an empty view.
    """
    if order not in ORDERS:
        raise InvalidRequest(f"order is {order!r}; ask for one of: {', '.join(ORDERS)}")
    if not len(positions):
        return np.empty(0, np.int64)
    within = positions.astype(np.uint64)  # a copy, in which a negative position is a huge one
    if int(within.max()) < samples:
        return _shuffled(samples, seed, epoch, within) if order == "shuffle" else within.view(np.int64)
    _check(samples, positions)
    laps, within = np.divmod(within, np.uint64(samples))
    return _shuffled_laps(samples, seed, epoch, laps, within) if order == "shuffle" else within.view(np.int64)


def _check(samples: int, positions: NDArray[np.int64]) -> None:
    if samples < 1:
        raise InvalidRequest(f"the view has {samples} samples and {len(positions)} were asked for; ask for none")
    lowest = int(positions.min())
    if lowest < 0:
        raise InvalidRequest(f"position {lowest} was asked for; positions count from 0")


def _shuffled_laps(samples: int, seed: int, epoch: int, laps: _Words, positions: _Words) -> NDArray[np.int64]:
    """Positions of several epochs: row i belongs to epoch + laps[i]."""
    indices = np.empty(len(positions), np.int64)
    by_lap = np.argsort(laps, kind="stable")
    passed, starts = np.unique(laps[by_lap], return_index=True)
    for lap, rows in zip(passed, np.split(by_lap, starts[1:]), strict=True):
        indices[rows] = _shuffled(samples, seed, epoch + int(lap), positions[rows])
    return indices


def _shuffled(samples: int, seed: int, epoch: int, positions: _Words) -> NDArray[np.int64]:
    """Positions of one epoch, all below `samples`."""
    if samples <= SMALL:
        return _small_order(samples, seed, epoch)[positions]
    return _permuted(_grid(samples), _round_keys(samples, seed, epoch), positions)


# ---- what is random ----


@lru_cache(_KEPT)
def _small_order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A small view's whole order: its indices, sorted by a random word each."""
    order = np.argsort(_random_words(samples, samples, seed, epoch), kind="stable").astype(np.int64)
    order.flags.writeable = False  # it is kept, and what is kept must not change
    return order


@lru_cache(_KEPT)
def _round_keys(samples: int, seed: int, epoch: int) -> tuple[_Words, ...]:
    """One word a round."""
    return tuple(_word(int(key)) for key in _random_words(ROUNDS, samples, seed, epoch))


def _random_words(count: int, samples: int, seed: int, epoch: int) -> _Words:
    """All that is random in an order: the words that its name hashes to.

    The name is hashed, not a sum: seed 3 in epoch 1 is not seed 4 in epoch 0. It is text so that no number outgrows its
    field and any language can write the same.
    """
    name = f"feedline order {ORDER_VERSION}: shuffle samples={samples:d} seed={seed:d} epoch={epoch:d}"
    return np.frombuffer(shake_128(name.encode("ascii")).digest(8 * count), "<u8").astype(np.uint64)


# ---- the network ----


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells in which a view's positions lie: position = row * 2^column_bits + column."""

    samples: int
    column_bits: _Words
    column_mask: _Words
    column_shift: _Words
    """Leaves the top `column_bits` of a word."""
    rows: _Words
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


def _permuted(grid: _Grid, keys: tuple[_Words, ...], positions: _Words) -> NDArray[np.int64]:
    """Where the network leads from each position; whoever lands on a spare cell goes on from there."""
    indices = _network(grid, keys, positions)
    while grid.has_spare_cells and int(indices.max()) >= grid.samples:
        outside = np.flatnonzero(indices >= np.uint64(grid.samples))
        indices[outside] = _network(grid, keys, indices[outside])
    return indices.view(np.int64)


def _network(grid: _Grid, keys: tuple[_Words, ...], cells: _Words) -> _Words:
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


def _mix(words: _Words, spare: _Words) -> None:
    """splitmix64's finaliser in place, less its first and last fold: its input is short and only its top is used."""
    np.multiply(words, _SPREAD, words)
    np.right_shift(words, _HALF, spare)
    np.bitwise_xor(words, spare, words)
    np.multiply(words, _SPREAD_AGAIN, words)


def _word(value: int) -> _Words:
    word = np.array(value, np.uint64)
    word.flags.writeable = False
    return word
