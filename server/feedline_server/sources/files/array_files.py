"""Samples' arrays in `.npy`, `.npz` and HDF5 files, read file by file.

Every sample holds what the first one holds, or it is a BadSample naming both.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays import content, npy
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.files.sample_files import Files
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column, wire_dtype


class ArrayFiles:
    """One file of each sample, a Part: what the first one holds, and what the others therefore must."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._pattern = files.pattern
        path = Path(files.path(0))
        opened, _ = files.opened(0)
        with open_file(path, opened) as file:
            self._names = self._pattern.columns(file)
            self._headers = {column: file.header(name) for column, name in self._names.items()}
        for column, header in self._headers.items():
            if not header.nbytes:
                of = f":{column}" if len(self._headers) > 1 else ""
                raise DataError(
                    f"{path}{of}: holds no values, its shape is {header.shape}; wanted no dimension of size 0"
                )
        self.columns = tuple(
            Column(column, wire_dtype(header.dtype), header.shape) for column, header in self._headers.items()
        )
        self._prefix = self._first_bytes(*self._headers.values()) if len(self._headers) == 1 else b""

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Part."""
        bodies: NDArray[np.uint8] | None = None
        if self._prefix:
            (target,) = out.values()
            (header,) = self._headers.values()
            bodies = target.reshape(len(ids), header.nbytes // target.itemsize).view(np.uint8)
        for row, sample in enumerate(ids.tolist()):
            try:
                if bodies is None or not self._read_alike(sample, bodies[row]):
                    self._read(sample, {column: array[row : row + 1] for column, array in out.items()})
            except OSError as error:
                raise self._files.unreadable(sample, error) from error

    def content(self) -> Iterator[bytes]:
        """See Part."""
        for sample in self._files.looked_into:
            try:
                opened, _ = self._files.opened(sample)
                with open_file(Path(self._files.path(sample)), opened) as file:
                    arrays = [(column, file.stored(name)) for column, name in self._pattern.columns(file).items()]
            except DataError as error:  # a bad sample, which is an error when it is asked for; the others are served
                if error.elsewhere:  # but this one changed
                    raise
                yield b"unreadable"
                continue
            for column, array in arrays:
                yield column.encode()
                yield from array.content(content.ID_FILE)

    def files(self) -> Iterator[Stamps]:
        """See Part."""
        yield self._files

    def _read_alike(self, sample: int, body: NDArray[np.uint8]) -> bool:
        """Read an `.npy` whose header is the first one's, byte for byte: the usual case. False if it is another."""
        path = self._files.path(sample)
        if not path.endswith(".npy"):
            return False
        fd, status = self._files.open(sample)
        try:
            prefix = bytearray(len(self._prefix))
            is_whole = os.readv(fd, [prefix, body.data]) == status.st_size == len(prefix) + len(body)
            self._files.has_read(sample, status, fd, *((prefix, body.data) if is_whole else ()))
        finally:
            os.close(fd)
        return is_whole and prefix == self._prefix

    def _read(self, sample: int, out: Mapping[str, Array]) -> None:
        """Read any file that holds the same dtypes and shapes; BadSample if it does not."""
        opened, status = self._files.opened(sample)
        with opened:
            fd = os.dup(opened.fileno())  # h5py and zipfile close what they are given
            try:
                self._read_arrays(sample, opened, out)
            finally:
                try:  # what cannot be read may be half of a file that is being written
                    self._files.has_read(sample, status, fd)
                finally:
                    os.close(fd)

    def _read_arrays(self, sample: int, opened: BinaryIO, out: Mapping[str, Array]) -> None:
        try:
            with open_file(Path(self._files.path(sample)), opened) as file:
                alike = all(name in file for name in self._names.values())
                names = self._names if alike else self._pattern.columns(file)
                for column, row in out.items():
                    if column not in names:
                        self._check_alike(sample, column, None)
                    accept = partial(self._check_alike, sample, column)
                    row.reshape(self._headers[column].shape)[...] = file.read(names[column], accept)
        except BadSample:
            raise
        except DataError as error:
            raise BadSample(f"{self._files.file(sample)}: {error}", samples=[sample]) from error

    def _first_bytes(self, header: npy.Header) -> bytes:
        """Those before the data of the first sample's `.npy`; none if samples cannot be read by comparing them."""
        if not self._files.path(0).endswith(".npy") or not header.is_wire_order:
            return b""
        opened, _ = self._files.opened(0)
        with opened as file:
            return file.read(header.offset)

    def _check_alike(self, sample: int, column: str, header: npy.Header | None) -> None:
        first = self._headers[column]
        if header and header.shape == first.shape and wire_dtype(header.dtype) == wire_dtype(first.dtype):
            return
        of = f" in {column!r}" if len(self._headers) > 1 else ""
        raise BadSample(
            f"{self._files.file(sample)} holds {header or 'nothing'}{of}, {self._files.file(0)} holds {first}; "
            "give all samples one shape and dtype",
            samples=[sample],
        )
