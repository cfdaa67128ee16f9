"""An array in a file, found but not yet open, and open: what the formats have in common.

Finding one reads headers only, so what is wrong with the file shows then, not in the middle of an epoch.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.npy import Header
from feedline_server.sources.arrays.stamp import Stamp
from feedline_wire import IDS
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """Rows of a column that lie in this process' memory one after the other, as they travel."""

    address: int
    row_nbytes: int
    rows: int
    stamp: Stamp
    """The file that they are in: checked before and after they are read."""
    fd: int
    """It, open."""
    offset: int
    """Where in it they begin."""
    held: object
    """What keeps them where they are."""


def read_into(fd: int, target: memoryview, offset: int) -> bool:
    """Fill memory (bytes) with what a file has from there on; False if the file ends before that. Raises OSError."""
    done = 0
    while done < len(target):
        got = os.preadv(fd, [target[done:]], offset + done)
        if not got:
            return False
        done += got
    return True


class Rows:
    """An open array, read by rows. It holds its file open until it is collected."""

    @property
    def extent(self) -> Extent | None:
        """All rows, where they can be read by their addresses; None where only `gather` reads them."""
        return None

    def announce(self, rows: NDArray[np.int64]) -> None:
        """These rows are gathered next: have them read from the disk meanwhile, where the kernel can be asked to."""

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """Write these rows, in any order, repeats allowed, all of them in range, into `out`.

        `out` is C-contiguous, little-endian and of shape (len(rows), *shape of a row). Raises BadSample, whose
        `samples` are rows, if one cannot be read, and DataError if the file changed since the array was found.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file, a row a sample: a plain value, cheap to keep by the thousand."""

    stamp: Stamp
    """The file as it was."""
    member: str
    """Its name inside the file; empty in an `.npy`."""
    header: Header
    """Dtype and shape."""

    @property
    def named(self) -> str:
        """How messages call it."""
        return f"{self.stamp.path}:{self.member}" if self.member else str(self.stamp.path)

    @property
    def cost(self) -> str | None:
        """What reading it row by row costs, as a sentence for the operator; None if that is nothing to speak of."""
        return None

    def open(self, *, large: bool) -> Rows:
        """Open it; `large` is what `is_large` says of the data it is part of. DataError if the file changed."""
        raise NotImplementedError

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """What its identity is made of: the form, and what stands for its bytes."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class InMemory(Stored):
    """Values that were made of an array when it was found."""

    values: Array

    def open(self, *, large: bool) -> Rows:
        """See Stored."""
        return MemoryRows(self.values)

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """See Stored."""
        yield f"{self.header.dtype.str} {self.header.shape} in memory".encode()
        yield self.values.tobytes()


class MemoryRows(Rows):
    """Rows of an array in memory."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""
        out[...] = self._values[rows]


class ArrayFile(Protocol):
    """A file with arrays in it, open; close it with `with`."""

    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Every array in it, sorted; `x` if the format gives its only one no name."""
        ...

    def header(self, name: str) -> Header:
        """Dtype and shape of one; DataError if it is damaged or may not be served."""
        ...

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name."""
        ...

    def read(self, name: str, accept: Callable[[Header], None]) -> Array:
        """One as a whole, once its header was accepted (or `accept` raises); DataError if it cannot be read."""
        ...

    def stored(self, name: str) -> Stored:
        """One, to be read by rows; DataError if it cannot be."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def named(self, name: str) -> str:
        """How messages call one."""
        return f"{self.path}:{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def chosen(file: ArrayFile, arrays: Mapping[str, str] | None) -> dict[str, str]:
    """The name in the file of each column: as declared, or all there are; an only one is the column `x`.

    Whether a declared one is there is seen when it is read. DataError if there is none, or no name for a column.
    """
    if arrays is None:
        names = file.names
        arrays = {"x": names[0]} if len(names) == 1 else {name: name for name in names}
    if not arrays:
        raise DataError(f"{file.path}: has no arrays in it")
    for name in arrays:
        check_name(name, file.path)
    return dict(arrays)


def check_name(column: str, path: Path) -> None:
    """DataError if a column has the name of one that every batch has."""
    if column == IDS:
        raise DataError(f"{path}: {IDS} is the column of sample ids that every batch has; give it another name")


def check_rows(array: Stored) -> Stored:
    """The array; DataError unless it has a row for every sample, and something in each."""
    header = array.header
    if not header.shape:
        raise DataError(f"{array.named}: holds a single value; wanted an array with a row for every sample")
    if not header.shape[0]:
        raise DataError(f"{array.named}: has no samples, its shape is {header.shape}; wanted at least one row")
    if not header.nbytes:
        raise DataError(
            f"{array.named}: its samples hold no values, its shape is {header.shape}; wanted no dimension of size 0"
        )
    return array


def costs(arrays: Iterable[Stored]) -> Iterator[str]:
    """A sentence for every way of storing that is slow to read at random."""
    found: dict[str, list[Stored]] = {}
    for array in arrays:
        if array.cost is not None:
            found.setdefault(array.cost, []).append(array)
    for cost, slow in found.items():
        nbytes = sum(array.header.nbytes for array in slow)
        others = f" and {len(slow) - 1} more are" if len(slow) > 1 else " is"
        yield f"{slow[0].named}{others} ({nbytes >> 20} MiB) {cost}"
