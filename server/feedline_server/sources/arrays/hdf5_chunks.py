"""Rows of HDF5 chunks that lie plainly in the file: read there, without HDF5 and its copies.

HDF5 is asked where a chunk is when it is first wanted: 40 us with a file's older index, which is read for it.
"""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.mapped import ask_file_for, runs_of
from feedline_server.sources.arrays.npy import Header
from feedline_server.sources.arrays.stored import Rows, Stored, read_into
from feedline_wire.errors import BadSample
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    import h5py

MOST_KEPT = 1 << 15
"""Chunks whose places are remembered: some 5 MB."""


def lie_plainly(dataset: "h5py.Dataset", header: Header) -> bool:
    """Whether rows lie in chunks as they are in memory: whole ones, of numpy's own type, and nothing done to them.

    Rows of less than a page are better read by HDF5, many at once.
    """
    import h5py

    return (
        dataset.chunks is not None
        and not header.fortran
        and header.nbytes >= header.shape[0] * mmap.PAGESIZE
        and dataset.chunks[1:] == dataset.shape[1:]
        and not dataset.id.get_create_plist().get_nfilters()
        # Some versions of HDF5 tell places without what is before the file's own beginning.
        and not dataset.file.userblock_size
        and bool(dataset.id.get_type().equal(h5py.h5t.py_create(header.dtype, logical=True)))
    )


class PlainChunks(Rows):
    """A dataset that is open, and of which `lie_plainly` is true; `large` is what `is_large` says of its data."""

    def __init__(self, array: Stored, dataset: "h5py.Dataset", fd: int, *, large: bool) -> None:
        self._of = array
        self._dataset = dataset  # holds the file open
        self._fd = fd
        self._offsets: dict[int, int] = {}
        self._together = dataset.chunks[0] if dataset.chunks else 1  # `lie_plainly`: it has some
        self._row_nbytes = array.header.nbytes // array.header.shape[0]
        self._is_announced = large

    def announce(self, rows: NDArray[np.int64]) -> None:
        """See Rows."""
        if not self._is_announced:
            return
        with suppress(BadSample):  # `gather` says it
            for offset, _, count in self._pieces(rows):
                ask_file_for(self._fd, offset, count * self._row_nbytes)

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""
        self._of.stamp.check(self._fd)
        target = out.reshape(len(rows), self._row_nbytes // out.itemsize).view(np.uint8).reshape(-1).data
        for offset, place, count in self._pieces(rows):
            self._read(
                offset, target[place * self._row_nbytes : (place + count) * self._row_nbytes], rows[place], count
            )
        if self._of.header.dtype != out.dtype:
            out.byteswap(inplace=True)
        self._of.stamp.check(self._fd)

    def _pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """What lies in a row in the file: where it begins, its place among the rows asked for, how many it has."""
        for first, at, count in runs_of(rows):
            row = first
            while row < first + count:
                within = row % self._together
                here = min(first + count - row, self._together - within)
                yield self._offset(row - within, row, here) + within * self._row_nbytes, at + row - first, here
                row += here

    def _offset(self, first: int, row: int, count: int) -> int:
        """Where the chunk begins whose first row that is; so many rows of it are wanted from `row` on."""
        if (known := self._offsets.get(first)) is not None:
            return known
        try:
            chunk = self._dataset.id.get_chunk_info_by_coord((first, *(0 for _ in self._dataset.shape[1:])))
        except Exception as error:  # as many ways as HDF5 has
            self._of.stamp.check(self._fd)
            raise self._bad(row, count, error) from error
        if chunk.byte_offset is None or chunk.size != self._together * self._row_nbytes:
            raise self._bad(row, count, f"its chunk has {chunk.size} bytes")
        if len(self._offsets) >= MOST_KEPT:
            self._offsets.clear()
        offset = self._offsets[first] = int(chunk.byte_offset)
        return offset

    def _read(self, offset: int, target: memoryview, row: int, count: int) -> None:
        try:
            is_whole = read_into(self._fd, target, offset)
        except OSError as error:
            raise self._bad(int(row), count, error.strerror) from error
        if not is_whole:
            raise self._of.stamp.changed(0, "it was cut")

    def _bad(self, row: int, count: int, why: object) -> BadSample:
        samples = range(row, row + count)
        return BadSample(
            f"{self._of.named}: rows {row}..{samples[-1]} cannot be read ({why}); write it again", samples=samples
        )
