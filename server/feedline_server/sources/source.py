"""What data is to the rest of the loader: samples with ids 0..samples-1, in named columns.

The law: a source writes exactly what its files hold, or raises. It never fills in: a model would train on zeros and
nobody would know.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.selection import Selection
from feedline_wire.errors import InvalidRequest
from feedline_wire.tensors import Array, Column


class Source(Protocol):
    """Data that can be read by sample id. Opening one is cheap: every worker does it."""

    @property
    def samples(self) -> int:
        """How many samples there are."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column that can be gathered: little-endian dtype and the shape of one sample."""
        ...

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """Write the samples with these ids, in any order, repeats allowed, into the columns that `out` names.

        Each array of `out` is C-contiguous, of the column's dtype and of shape (len(ids), *column.shape). Raises
        BadSample, whose `samples` name the ids, if one cannot be read, and DataError if a file changed since it was
        opened.
        """
        ...

    def content(self) -> Iterator[bytes]:
        """What the data's identity is made of: sizes, headers, sampled blocks of bytes; never paths or times."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A source, and what its files say about views."""

    source: Source
    views: Mapping[str, Selection]
    notes: tuple[str, ...] = ()
    """What an operator should know at the start and what stops nothing."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """How many samples each class has, in the order of their numbers; empty where there are no classes."""


def check_ids(ids: NDArray[np.int64], samples: int) -> None:
    """InvalidRequest if an id is not one of 0..samples-1: a gather that clips would quietly give another sample."""
    if len(ids) and (ids.min() < 0 or ids.max() >= samples):
        wrong = ids[(ids < 0) | (ids >= samples)]
        raise InvalidRequest(f"sample {wrong[0]} was asked for; ids are 0..{samples - 1}", samples=wrong[wrong >= 0])
