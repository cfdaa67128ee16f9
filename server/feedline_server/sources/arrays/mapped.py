"""Arrays that lie plainly in a file, memory-mapped there: an `.npy`, a member of an `.npz`, a dataset of an HDF5 file.

Nothing is read before it is gathered, and a gather copies from the page cache straight into the batch. A file that
was written to since it was found is an error, never another batch under the same key; one that was renamed or removed
is served from where it is.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedline_server.host import machine
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.resident import RESIDENT
from feedline_server.sources.arrays.stored import Extent, Rows, Stored, read_into
from feedline_wire.errors import BadSample
from feedline_wire.tensors import Array

READ_AHEAD = 128 << 10
"""Bytes in a row. Linux reads so much ahead by default, and from about here that is the faster way (measured). Of what
it is asked for at once it may read no more than that either (`force_page_cache_ra`), and says nothing."""

AHEAD_SHARE = 2
"""Of the memory, the part that may hold data which is being served and what is read ahead of it, of all trainers
together. A quarter is the arena's."""

AHEAD_SHARE_OF_LARGE_ROWS = 4
"""The same for rows of `READ_AHEAD` bytes and more: at random they come about as fast as in a row, and an epoch begins
with a window that is read beside what is served."""

SMALL = 1 << 20
"""Bytes of an array that stays mapped however large the data it is part of: labels, of which little is open at once."""


class Plain(Stored):
    """An array that lies in a file as it is in memory, from `header.offset` on."""

    __slots__ = ()

    def open(self, *, large: bool) -> "Mapped":
        """The array, mapped; `large` is what `is_large` says of the data it is part of."""
        with npy.opened(self.stamp.path, "the file that was there") as file:
            self.stamp.check(file.fileno())
            mapping = mmap.mmap(file.fileno(), self.header.offset + self.header.nbytes, access=mmap.ACCESS_READ)
            fd = os.dup(file.fileno())
        opened = Mapped(self, mapping, fd, is_read=large and self.header.nbytes > SMALL)
        weakref.finalize(opened, os.close, fd)  # as the mapping's own descriptor goes with the mapping
        return opened

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """The form and what stands for the bytes."""
        header = self.header
        yield f"stored as {header.dtype.str} fortran={header.fortran} {header.shape}".encode()
        with npy.opened(self.stamp.path, "the file that was there") as file:
            self.stamp.check(file.fileno())
            if self.member:
                yield from sampling.read(file, header.offset, header.nbytes)
            else:
                yield from sampling.read(file)
            self.stamp.check(file.fileno())


class Mapped(Rows):
    """A plain array that is open. Rows are read as bytes, so neither alignment nor byte order stands in the way.

    Of large data, runs of a page or more are read with read calls instead of through the mapping, which would have to
    be let go of all the time: 18 us of processor time for a row of 16 KiB instead of 24 (docs/design.md).
    """

    def __init__(self, array: Plain, mapping: mmap.mmap, fd: int, *, is_read: bool) -> None:
        header = array.header
        self._of = array
        self._mapping = mapping
        self._fd = fd
        self._is_read = is_read
        """By read calls where they are of use, and the mapping let go of; else the array stays mapped."""
        self._row_nbytes = header.nbytes // header.shape[0]
        run = header.dtype.itemsize if header.fortran else self._row_nbytes
        if is_read and run < READ_AHEAD:
            # Reading ahead brings mostly rows that are gone from the page cache before they are asked for.
            mapping.madvise(mmap.MADV_RANDOM)
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        self._array: Array = np.ndarray(header.shape, header.dtype, mapping, header.offset, order=order)
        self._rows: NDArray[np.uint8] | None = None
        if self._array.flags.c_contiguous:
            self._rows = np.ndarray((len(self._array), self._row_nbytes), np.uint8, mapping, header.offset)

    @property
    def extent(self) -> Extent | None:
        """See Rows. Of large data none: it is read by read calls, or let go of behind what was read."""
        header = self._of.header
        if self._rows is None or self._is_read or not header.is_wire_order:
            return None
        return Extent(
            self._rows.ctypes.data, self._row_nbytes, len(self._rows), self._of.stamp, self._fd, header.offset, self
        )

    def announce(self, rows: NDArray[np.int64]) -> None:
        """See Rows."""
        if self._is_read and self._rows is not None:
            ask_for(self._mapping, self._of.header.offset, self._row_nbytes, runs_of(rows))

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""
        self._of.stamp.check(self._fd)
        self._gather(rows, out)
        self._of.stamp.check(self._fd)

    def _gather(self, rows: NDArray[np.int64], out: Array) -> None:
        if self._rows is None:
            # np.take would first copy the whole array into C order; indexing touches only these rows.
            out[...] = self._array[rows]
            self._let_go(rows, len(rows) * (self._row_nbytes // self._array.itemsize))
            return
        target = out.reshape(len(rows), self._row_nbytes // out.itemsize).view(np.uint8)
        runs = runs_of(rows) if self._is_read else []
        if self._is_read and target.size >= len(runs) * mmap.PAGESIZE:
            self._read(runs, target.reshape(-1).data)
        else:
            # mode="clip" writes straight into `out`; the default goes through a temporary at half the speed.
            np.take(self._rows, rows, axis=0, mode="clip", out=target)
            self._let_go(rows, len(runs))
        if self._array.dtype != out.dtype:
            out.byteswap(inplace=True)

    def _read(self, runs: "Iterable[Run]", target: memoryview) -> None:
        for row, place, count in runs:
            start, end = place * self._row_nbytes, (place + count) * self._row_nbytes
            try:
                is_whole = read_into(self._fd, target[start:end], self._of.header.offset + row * self._row_nbytes)
            except OSError as error:
                rows = range(row, row + count)
                raise BadSample(
                    f"{self._of.named}: rows {row}..{rows[-1]} cannot be read ({error.strerror})", samples=rows
                ) from error
            if not is_whole:
                raise self._of.stamp.changed(0, "it was cut")

    def _let_go(self, rows: NDArray[np.int64], places: int) -> None:
        if self._is_read:
            RESIDENT.touched(self._mapping, len(rows) * self._row_nbytes, places)


Run = tuple[int, int, int]
"""Rows that follow each other: the first of them, its place among those asked for, and how many they are."""


def runs_of(rows: NDArray[np.int64]) -> list[Run]:
    """The runs that make up the rows, in their order."""
    if not len(rows):
        return []
    places = [0, *(np.flatnonzero(rows[1:] - rows[:-1] != 1) + 1).tolist(), len(rows)]
    return [(int(rows[place]), place, end - place) for place, end in pairwise(places)]


def ask_for(mapping: mmap.mmap, offset: int, row_nbytes: int, runs: Iterable[Run]) -> None:
    """Have the kernel read all runs of an array at once, before any of them is waited for.

    Else they are read one after the other, or page after page: 64 cold rows of 16 KiB took 25-55 us each when asked
    for, 340-410 us when not, and 2,700-4,700 us with the kernel's own reading ahead.
    """
    for row, _, count in runs:
        start = offset + row * row_nbytes
        page, end = start - start % mmap.PAGESIZE, start + count * row_nbytes
        for piece in range(page, end, READ_AHEAD):
            mapping.madvise(mmap.MADV_WILLNEED, piece, min(end - piece, READ_AHEAD))


def ask_file_for(fd: int, offset: int, nbytes: int) -> None:
    """Have the kernel read a piece of a file; nothing is waited for."""
    for piece in range(offset, offset + nbytes, READ_AHEAD):
        os.posix_fadvise(fd, piece, min(offset + nbytes - piece, READ_AHEAD), os.POSIX_FADV_WILLNEED)


def most_ahead(samples: int, nbytes: int, memory_nbytes: int) -> int:
    """Of samples of large data, so many bytes together, those that may be kept from when they are read until served."""
    is_of_large_rows = nbytes >= samples * READ_AHEAD
    share = AHEAD_SHARE_OF_LARGE_ROWS if is_of_large_rows else AHEAD_SHARE
    return samples * (memory_nbytes // share) // nbytes


def is_large(nbytes: int, memory_nbytes: int | None = None) -> bool:
    """Whether data is too large for the page cache to hold it in the end, so that reading ahead is of no use."""
    return nbytes > (machine.memory_nbytes() if memory_nbytes is None else memory_nbytes) // 2
