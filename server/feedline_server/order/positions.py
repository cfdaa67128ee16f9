"""Which index of a view stands at each position of an epoch's order.

Pure arithmetic on (order, samples, seed, epoch, position): nothing is opened, nothing is drawn one after the other,
nothing is remembered that could not be derived again. Position 10^9 costs what position 0 costs.

Each order of an epoch has a name, and what is random in it is hashed from the name (`permutation`). The name is text so
that no number outgrows its field, and not a sum: seed 3 in epoch 1 is not seed 4 in epoch 0.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.order.blocks import block_indices, due_indices
from feedline_server.order.buckets import Measure, bucket_indices
from feedline_server.order.permutation import Words, drawn, permuted
from feedline_wire.errors import InvalidRequest
from feedline_wire.orders import FORMS, Order, parse

ORDER_VERSIONS: Mapping[str, int] = {"shuffle": 1, "sequential": 1, "replacement": 1, "blocks": 1, "buckets": 1}
"""Of each kind of order. Raised when any position of it changes: see batches/fingerprint."""

ORDERS_BY_LENGTH = tuple(ORDER_VERSIONS)
"""Every kind of order that samples can be asked in which differ in length; the first is the default."""

ORDERS = ORDERS_BY_LENGTH[:-1]
"""Every kind for samples of one length."""

PIECE = 4096
"""Positions that are computed at once. Batches follow each other, and 4,096 positions cost three times what 256 do: of
the 160 us in which a batch of 1 MiB was assembled, 25 were its order and 5 are."""

PIECES = 8
"""Remembered, each 32 KiB: a few trainers' epochs, or the ranks of one."""

LEAST_AHEAD = 2
"""Of a window, the part that is worth to be read ahead. What is asked for x windows before its turn was taken row by
row before that to (1 - x)^2 / 2: an eighth at a half, and a half at nothing, which is no faster than not to ask."""

_OfEpoch: TypeAlias = Callable[[int, Words], NDArray[np.int64]]
"""(epoch, positions below `samples`) → indices."""


def view_indices(  # noqa: PLR0917
    order: str,
    samples: int,
    seed: int,
    epoch: int,
    positions: NDArray[np.int64],
    lengths: Measure | None = None,
) -> NDArray[np.int64]:
    """The index in the view, 0..samples-1, at each of `positions` in an epoch's order.

    Positions at or past `samples` run on: position p is position p % samples of epoch + p // samples. `positions` is
    one-dimensional, in any order, with repeats if you like. Seed and epoch are any integers from 0. `lengths` tells how
    long the samples at indices are, if they differ; equal ones must hash alike, or what is sorted is sorted anew.
    InvalidRequest for an order that does not exist, a negative position, or any position of an empty view.
    """
    of_epoch = _rule(parse(order), samples, seed, lengths)
    if not len(positions):
        return np.empty(0, np.int64)
    within = positions.astype(np.uint64)  # a copy, in which a negative position is a huge one
    if int(within.max()) < samples:
        return of_epoch(epoch, within)
    _check(samples, positions)
    laps, within = np.divmod(within, np.uint64(samples))
    return _run_on(of_epoch, epoch, laps, within)


def run_indices(  # noqa: PLR0917
    order: str, samples: int, seed: int, epoch: int, offset: int, rows: int
) -> NDArray[np.int64]:
    """What `view_indices` gives for `rows` positions from `offset` on; not to be written to."""
    end = offset + rows
    first, last = offset // PIECE, (end - 1) // PIECE
    if rows > PIECE or end > samples:
        return view_indices(order, samples, seed, epoch, np.arange(offset, end, dtype=np.int64))
    indices = _piece(order, samples, seed, epoch, first)
    if first < last:
        indices = np.concatenate((indices, _piece(order, samples, seed, epoch, last)))
    start = offset % PIECE
    return indices[start : start + rows]


@lru_cache(PIECES)
def _piece(order: str, samples: int, seed: int, epoch: int, number: int) -> NDArray[np.int64]:
    start = number * PIECE
    positions = np.arange(start, min(start + PIECE, samples), dtype=np.int64)
    indices = view_indices(order, samples, seed, epoch, positions)
    indices.flags.writeable = False  # it is kept, and what is kept must not change
    return indices


def run_ahead(  # noqa: PLR0917
    order: str, samples: int, seed: int, epoch: int, offset: int, rows: int, most: int
) -> NDArray[np.int64]:
    """What should be read from a disk while `rows` positions from `offset` on are served, because it is wanted later.

    Runs of neighbours, that the order will take one by one. None if it is not of that kind, or if no more than `most`
    samples can be kept, and these are not a window, which is being served, and half of the next.
    """
    named = parse(order)
    window = named.size * named.window
    ahead = min(window, most - window)
    if named.family != "blocks" or not window or ahead * LEAST_AHEAD < window:
        return np.empty(0, np.int64)
    return due_indices(_name(named, samples, seed, epoch), samples, named.size, ahead, offset, offset + rows)


def _name(order: Order, samples: int, seed: int, epoch: int) -> str:
    version = ORDER_VERSIONS[order.family]
    return f"feedline order {version}: {order} samples={samples:d} seed={seed:d} epoch={epoch:d}"


def _rule(order: Order, samples: int, seed: int, lengths: Measure | None) -> _OfEpoch:
    """How an epoch of the order is computed."""

    def name(epoch: int) -> str:
        return _name(order, samples, seed, epoch)

    match order.family:
        case "shuffle":
            return lambda epoch, positions: permuted(name(epoch), samples, positions)
        case "sequential":
            return lambda _epoch, positions: positions.view(np.int64)
        case "replacement":
            return lambda epoch, positions: drawn(name(epoch), samples, positions)
        case "blocks":
            return lambda epoch, positions: block_indices(
                name(epoch), samples, order.size, order.window, positions.view(np.int64)
            )
        case "buckets":
            if lengths is None:
                raise InvalidRequest(f"samples of one length make no buckets; ask for one of: {', '.join(ORDERS)}")
            return lambda epoch, positions: bucket_indices(
                name(epoch), samples, order.size, order.window, positions.view(np.int64), lengths
            )
        case "stream":
            raise InvalidRequest(f"samples with ids are no stream; ask for one of: {FORMS}")


def _check(samples: int, positions: NDArray[np.int64]) -> None:
    if samples < 1:
        raise InvalidRequest(f"the view has {samples} samples and {len(positions)} were asked for; ask for none")
    lowest = int(positions.min())
    if lowest < 0:
        raise InvalidRequest(f"position {lowest} was asked for; positions count from 0")


def _run_on(of_epoch: _OfEpoch, epoch: int, laps: Words, positions: Words) -> NDArray[np.int64]:
    """Positions of several epochs: row i belongs to epoch + laps[i]."""
    indices = np.empty(len(positions), np.int64)
    by_lap = np.argsort(laps, kind="stable")
    passed, starts = np.unique(laps[by_lap], return_index=True)
    for lap, rows in zip(passed, np.split(by_lap, starts[1:]), strict=True):
        indices[rows] = of_epoch(epoch + int(lap), positions[rows])
    return indices
