"""The order for samples of different length: those of a bucket are about equally long, so little is padded.

The shuffled epoch is cut into windows of so many buckets. Within a window samples are sorted by length and cut into
buckets, and the buckets are mixed. So with batches of a bucket's size each batch is one bucket, batches of long and of
short samples come in random order, and who is in a bucket with whom changes from epoch to epoch. A window's order
follows from its own samples alone: no batch depends on what was asked before, and any batch size may be asked.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.order.permutation import permuted, random_below

Indices: TypeAlias = NDArray[np.int64]
Measure: TypeAlias = Callable[[Indices], Indices]
"""Indices of a view → the length of each of these samples."""

_KEPT = 32
"""Windows whose order is kept: a worker's trainers are in one or two each. 2 MiB of windows of 8,192 samples."""


def bucket_indices(  # noqa: PLR0917
    name: str, samples: int, size: int, window: int, positions: Indices, lengths: Measure
) -> Indices:
    """What stands at each of `positions`, all below `samples`, in the order of that name.

    `size` is that of a bucket, `window` the buckets that are sorted together.
    """
    span = size * window
    indices = np.empty_like(positions)
    numbers = positions // span
    for number in np.unique(numbers).tolist():
        rows = np.flatnonzero(numbers == number)
        first = number * span
        found = _window(name, samples, size, first, min(first + span, samples), lengths)
        indices[rows] = found[positions[rows] - first]
    return indices


@lru_cache(_KEPT)
def _window(name: str, samples: int, size: int, first: int, end: int, lengths: Measure) -> Indices:  # noqa: PLR0917
    """The indices at the positions first..end-1, which are one window."""
    shuffled = permuted(name, samples, np.arange(first, end, dtype=np.uint64))
    by_length = shuffled[np.argsort(lengths(shuffled), kind="stable")]
    full, short = divmod(len(by_length), size)
    # The epoch's last window has a short bucket. It stands last, so that those before it are whole batches; of which
    # length its samples are is random, because under `drop` they are the ones that are left out.
    apart = random_below(f"{name} short bucket", full + 1) * size
    whole = np.concatenate([by_length[:apart], by_length[apart + short :]]).reshape(full, size)
    places = permuted(f"{name} window {first:d}", full, np.arange(full, dtype=np.uint64)) if full else np.arange(0)
    mixed = np.concatenate([whole[places].reshape(-1), by_length[apart : apart + short]])
    mixed.flags.writeable = False  # it is kept, and what is kept must not change
    return mixed
