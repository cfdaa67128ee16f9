"""Samples of one column that differ in their first dimension, one after the other in one array.

Sample i is `values[offsets[i]:offsets[i + 1]]`; nothing stands between samples, and nothing is filled in before
`pad_into`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedline_wire.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Samples of different length: `values` of shape (all their steps, …), `offsets` int64 of shape (samples + 1,)."""

    values: Array
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, sample: int) -> Array:
        return self.values[self.offsets[sample] : self.offsets[sample + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many steps each sample has."""
        return np.diff(self.offsets)

    @property
    def longest(self) -> int:
        """Steps of the longest sample; 0 if there is none."""
        return int(self.lengths.max(initial=0))


def values_of(column: Array | Ragged) -> Array:
    """The values of a column: of all samples, or of all steps."""
    return column.values if isinstance(column, Ragged) else column


def with_values(column: Array | Ragged, values: Array) -> Array | Ragged:
    """A column of the same lengths, of other values."""
    return Ragged(values, column.offsets) if isinstance(column, Ragged) else values


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where samples of these lengths begin when they are laid end to end, and the end of all."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def joined(samples: Sequence[Array]) -> Ragged:
    """These arrays, which agree in dtype and all but their first dimension, as one column; there is at least one."""
    return Ragged(np.concatenate(samples), offsets_of([len(sample) for sample in samples]))


def starts_in(padded_length: int, ragged: Ragged) -> NDArray[np.int64]:
    """Where each step of the samples stands once every sample takes `padded_length` steps."""
    samples = np.arange(len(ragged), dtype=np.int64)
    return np.repeat(samples * padded_length - ragged.offsets[:-1], ragged.lengths) + np.arange(
        ragged.offsets[0], ragged.offsets[-1]
    )


def pad_into(out: Array, ragged: Ragged) -> None:
    """Write the samples into `out`, C-contiguous (samples, at least the longest's steps, …), zeros behind each."""
    out[...] = 0
    steps = out.reshape(-1, *out.shape[2:])
    steps[starts_in(out.shape[1], ragged)] = ragged.values[ragged.offsets[0] : ragged.offsets[-1]]
