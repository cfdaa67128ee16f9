"""HDF5 files (their kind is kinds/hdf5): contiguous datasets lie plainly in the file, chunked ones are read by h5py.

A file is read and nothing beside it. Links inside it are followed; external links, external storage and virtual
datasets name other files, so they are refused; and what was never written is refused, because HDF5 would give zeros.
Arrays that MATLAB wrote (`save -v7.3`) have the shape that MATLAB shows, which is the file's from last to first.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from feedline_server.host import machine
from feedline_server.sources.arrays import npy, stamp
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.decompressed import DECODED, Arrays, Piece, key_of
from feedline_server.sources.arrays.hdf5_chunks import PlainChunks, lie_plainly
from feedline_server.sources.arrays.hdf5_links import NAME_THE_OTHERS, datasets_below, followed
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import ArrayFile, InMemory, Rows, Stored
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.listing import listed
from feedline_wire.tensors import Array, wire_dtype

if TYPE_CHECKING:
    import h5py

READ_AT_ONCE = 64 << 20
"""Bytes of neighbouring rows taken from h5py in one call, at most: what a gather needs beside the batch."""

MAX_DATASETS = 100_000
"""Of a file. A few groups that are linked many times over make millions of paths."""

SWMR = 4
"""The flag in the superblock's byte 11 of a file that is written in SWMR mode (HDF5 file format, superblock 3)."""

FULLY_ALLOCATED = 2
"""H5D_SPACE_STATUS_ALLOCATED: every byte, or every chunk, was written."""


class H5File(ArrayFile):
    """An HDF5 file, open."""

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        """`file` is the file, open; it becomes this object's."""
        self.path = path
        file, self._stamp = stamp.opened(path, "an HDF5 file", file)
        with file:
            self._file = _open(path, file)
        self._found: dict[str, h5py.Dataset] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """See ArrayFile. Datasets in groups are named by their path, what is linked by the link's.

        DataError naming a link that leads out of the file, to nothing, or to a group that it is in.
        """
        names = sorted(islice(datasets_below("", self._file, self.path), MAX_DATASETS + 1))
        if len(names) > MAX_DATASETS:
            raise DataError(f"{self.path}: has more than {MAX_DATASETS} datasets; {NAME_THE_OTHERS}")
        return tuple(names)

    def header(self, name: str) -> npy.Header:
        """See ArrayFile. The offset is 0, whether or not the dataset lies plainly somewhere."""
        return self._checked(name, self._dataset(name))

    def __contains__(self, name: str) -> bool:
        try:
            return _is_dataset(self._dataset(name))
        except DataError:
            return False

    def read(self, name: str, accept: Callable[[npy.Header], None]) -> Array:
        """See ArrayFile."""
        dataset = self._dataset(name)
        accept(self._checked(name, dataset))
        try:
            return _as_shown(np.asarray(dataset[()]), dataset)
        except Exception as error:  # as many ways as there are filters
            raise DataError(f"{self.named(name)}: cannot be read ({error}); write it again") from error

    def stored(self, name: str) -> "Plain | Chunked":
        """See ArrayFile."""
        dataset = self._dataset(name)
        header = self._checked(name, dataset)
        offset = _offset(dataset, header.dtype)
        if not offset:
            filters = dataset.id.get_create_plist().get_nfilters()
            return Chunked(self._stamp, name, header, dataset.chunks or dataset.shape, bool(filters))
        if offset + header.nbytes > self._stamp.size:
            raise DataError(f"{self.named(name)}: is cut short, the file has {self._stamp.size} bytes; copy it again")
        return Plain(self._stamp, name, replace(header, offset=offset))

    def texts(self, name: str) -> list[str]:
        """All of a dataset that holds a text a sample. DataError if it does not, or cannot be read."""
        import h5py

        dataset, named = self._dataset(name), self.named(name)
        self._check_here(named, dataset)
        if h5py.check_string_dtype(dataset.dtype) is None or len(dataset.shape) != 1:
            raise DataError(
                f"{named}: holds {dataset.dtype} of shape {dataset.shape}; codes makes numbers of one text a sample"
            )
        try:
            return [str(text) for text in dataset.asstr(errors="strict")[()]]
        except Exception as error:  # as many ways as there are filters
            raise DataError(f"{named}: cannot be read ({error}); write it again") from error

    def coded(self, name: str, numbers: NDArray[np.int64]) -> Stored:
        """Numbers that stand for the texts of a dataset, as an array of this file."""
        return InMemory(self._stamp, name, npy.Header(numbers.dtype, numbers.shape, False, 0), numbers)

    def sampled(self, name: str, sampling: Sampling) -> Iterator[bytes]:
        """What stands for a dataset's bytes: all its values if they are few, else the beginnings of some chunks."""
        dataset = self._dataset(name)
        yield b"%d bytes in chunks" % dataset.id.get_storage_size()
        if dataset.nbytes <= sampling.whole or dataset.chunks is None:
            yield np.ascontiguousarray(dataset[()]).tobytes()
            return
        chunks = -(-dataset.shape[0] // dataset.chunks[0])
        for block in range(sampling.blocks):
            row = block * (chunks - 1) // (sampling.blocks - 1) * dataset.chunks[0]
            chunk = dataset.id.get_chunk_info_by_coord((row, *(0 for _ in dataset.shape[1:])))
            yield os.pread(self.fd, min(sampling.block_bytes, chunk.size), chunk.byte_offset)

    @property
    def fd(self) -> int:
        """The descriptor that h5py reads with."""
        return int(self._file.id.get_vfd_handle())

    def rows(self, name: str) -> "h5py.Dataset":
        """The dataset, for as long as its file is held open by it."""
        return self._dataset(name)

    def close(self) -> None:
        """See ArrayFile."""
        self._file.close()

    def _dataset(self, name: str) -> "h5py.Dataset":
        if name not in self._found:
            self._found[name] = self._looked_up(name)
        return self._found[name]

    def _looked_up(self, name: str) -> "h5py.Dataset":
        """The dataset of this name in this very file."""
        found: Any = followed(self._file, name, self.path)
        if not _is_dataset(found):
            raise DataError(f"{self.named(name)}: is no dataset; the file has {listed(sorted(self._file))}")
        return found

    def _check_here(self, named: str, dataset: "h5py.Dataset") -> None:
        """DataError if a dataset's data is not in this very file."""
        if dataset.external or dataset.is_virtual:
            raise DataError(
                f"{named}: lies in other files ({'external storage' if dataset.external else 'a virtual dataset'}), "
                "which are never read; copy the data into this file"
            )
        if dataset.shape is None or "MATLAB_empty" in dataset.attrs:
            raise DataError(f"{named}: holds nothing; wanted an array with a row for every sample")

    def _checked(self, name: str, dataset: "h5py.Dataset") -> npy.Header:
        """Dtype and shape; DataError if it may not be served."""
        import h5py

        named = self.named(name)
        self._check_here(named, dataset)
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        if is_text or dataset.attrs.get("MATLAB_class") == b"char":
            column = name.rpartition("/")[2]
            coded = f'codes = ["{column}"] makes numbers of them, ' if is_text else ""
            raise DataError(f'{named}: holds strings, which are not served; {coded}drop = ["{column}"] leaves them out')
        try:
            dtype = np.dtype(wire_dtype(dataset.dtype).str).newbyteorder(dataset.dtype.byteorder)
        except DataError as error:
            raise DataError(f"{named}: {error}") from None
        is_matlab = _is_matlab(dataset)
        header = npy.Header(dtype, dataset.shape[::-1] if is_matlab else dataset.shape, is_matlab, 0)
        if header.nbytes and dataset.id.get_space_status() != FULLY_ALLOCATED:
            raise DataError(f"{named}: {_missing(dataset)} never written and would be read as zeros; write all of it")
        _check_filters(dataset, named)
        return header


@dataclass(frozen=True, slots=True)
class Chunked(Stored):
    """A dataset that does not lie plainly in its file."""

    chunks: tuple[int, ...]
    """The shape of one, in the file's own order of dimensions, which is the header's from last to first if it is
    Fortran's."""

    is_packed: bool
    """Compressed, or otherwise to be decoded whole to have any row."""

    @property
    def together(self) -> int:
        """Rows in a chunk: all are decoded when one is."""
        return self.chunks[-1 if self.header.fortran else 0] if self.chunks else 1

    @property
    def cost(self) -> str | None:
        """What the operator should know, if not all of it is kept decoded."""
        row_nbytes = self.header.nbytes // self.header.shape[0]
        if self.together == 1 or not self.is_packed or self.header.nbytes <= DECODED.shared_nbytes(machine.cores()):
            return None
        return (
            f"in compressed chunks of {self.together} rows, {DECODED.cost(self.together, self.together * row_nbytes)}"
        )

    def open(self, *, large: bool) -> Rows:
        """The dataset, open."""
        # Not closed here: the dataset holds the file, and both go with the rows.
        file = H5File(self.stamp.path)
        self.stamp.check(file.fd)
        dataset = file.rows(self.member)
        if lie_plainly(dataset, self.header):
            return PlainChunks(self, dataset, file.fd, large=large)
        return ChunkedRows(self, dataset, file.fd)

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """The form and what stands for the bytes."""
        yield f"{self.header.dtype.str} {self.header.shape} in chunks{' fortran' * self.header.fortran}".encode()
        with H5File(self.stamp.path) as file:
            self.stamp.check(file.fd)
            yield from file.sampled(self.member, sampling)
            self.stamp.check(file.fd)


class ChunkedRows(Rows):
    """A chunked dataset that is open. Compressed chunks are decoded whole and kept; of others rows are read."""

    def __init__(self, array: Chunked, dataset: "h5py.Dataset", fd: int) -> None:
        self._of = array
        self._dataset, self._fd = dataset, fd
        header = array.header
        self._row_nbytes = header.nbytes // header.shape[0]
        self._block = max(1, min(array.together, READ_AT_ONCE // self._row_nbytes))
        self._is_kept = array.is_packed and self._block > 1
        self._key = key_of(array.stamp.version, array.member)

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""
        self._of.stamp.check(self._fd)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        edges = np.flatnonzero(np.diff(ordered // self._block)) + 1
        runs = zip(np.split(order, edges), np.split(ordered, edges), strict=True)
        if self._is_kept:
            DECODED.use([self._piece(places, wanted, out) for places, wanted in runs if len(wanted)])
        else:
            for places, wanted in runs:
                if len(wanted):
                    first, last = int(wanted[0]), int(wanted[-1])
                    out[places] = self._read(first, last + 1)[wanted - first]
        self._of.stamp.check(self._fd)

    def _piece(self, places: NDArray[np.int64], wanted: NDArray[np.int64], out: Array) -> Piece:
        """Rows of one chunk."""
        first = int(wanted[0]) // self._block * self._block
        stop = min(first + self._block, self._of.header.shape[0])

        def decode() -> Arrays:
            found = self._read(first, stop)
            self._of.stamp.check(self._fd)  # before others may use it
            return {"": found}

        def use(arrays: Arrays) -> None:
            out[places] = arrays[""][wanted - first]

        return Piece(key_of(self._key, first), (stop - first) * self._row_nbytes, decode, use)

    def _read(self, start: int, stop: int) -> Array:
        try:
            if self._of.header.fortran:
                return np.asarray(self._dataset[..., start:stop]).T
            return np.asarray(self._dataset[start:stop])
        except Exception as error:  # as many ways as there are filters
            self._of.stamp.check(self._fd)
            raise BadSample(
                f"{self._of.named}: rows {start}..{stop - 1} cannot be read ({error}); write it again",
                samples=range(start, stop),
            ) from error


def _open(path: Path, file: BinaryIO) -> "h5py.File":
    try:
        import h5py
    except ImportError as error:
        raise InvalidRequest(f"{path}: reading HDF5 needs h5py: {pip_install('h5')}") from error
    try:
        # A lock, where the file system has them, finds a file that is still being written; where it has none, as on
        # many network file systems, h5py's default would refuse to open anything.
        return h5py.File(f"/proc/self/fd/{file.fileno()}", "r", locking="best-effort")  # this one, not who has its name
    except BlockingIOError as error:
        raise DataError(f"{path}: is being written by another process; serve it when it is finished") from error
    except OSError as error:
        start = file.read(12)
        if start.startswith(b"MATLAB 5.0"):
            raise DataError(f"{path}: is of MATLAB's older format; save it with '-v7.3', which is HDF5") from error
        if start.startswith(b"\x89HDF") and start[8] == 3 and start[11] & SWMR:
            raise DataError(
                f"{path}: is being written in SWMR mode, or its writer ended without closing it; serve it when it is "
                f"finished. If nobody writes it: h5clear -s {path}"
            ) from error
        raise DataError(f"{path}: is cut short or no HDF5 file ({error}); copy or write it again") from error


def _is_matlab(dataset: "h5py.Dataset") -> bool:
    """MATLAB wrote it, which stores arrays from their last dimension to their first."""
    return "MATLAB_class" in dataset.attrs


def _as_shown(array: Array, dataset: "h5py.Dataset") -> Array:
    return array.T if _is_matlab(dataset) else array


def _is_dataset(found: object) -> bool:
    import h5py

    return isinstance(found, h5py.Dataset)


def _offset(dataset: "h5py.Dataset", dtype: np.dtype[Any]) -> int:
    """Where the bytes of a contiguous dataset begin in the file; 0 if they do not lie there as they are in numpy."""
    import h5py

    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or not dataset.nbytes:
        return 0
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
        return 0  # a type of its own, which h5py converts
    return dataset.id.get_offset() or 0


def _missing(dataset: "h5py.Dataset") -> str:
    if not dataset.chunks:
        return "was"
    chunks = int(np.prod([-(-size // of) for size, of in zip(dataset.shape, dataset.chunks, strict=True)]))
    return f"{chunks - dataset.id.get_num_chunks()} of its {chunks} chunks were"


def _check_filters(dataset: "h5py.Dataset", named: str) -> None:
    import h5py

    created = dataset.id.get_create_plist()
    for place in range(created.get_nfilters()):
        number, _, _, label = created.get_filter(place)
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{named}: is compressed with {label.decode(errors='replace') or number}, which h5py cannot read here; "
                "write it with gzip or without compression"
            )
