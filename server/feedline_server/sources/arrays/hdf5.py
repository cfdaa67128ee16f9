"""HDF5 files (their kind is kinds/hdf5): contiguous datasets lie plainly in the file, chunked ones are read by h5py.

A file is read and nothing beside it. External links, external storage and virtual datasets name other files,
so they are refused; and what was never written is refused, because HDF5 would give zeros for it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays import npy, stamp
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import ArrayFile, Rows, Stored
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.listing import listed
from feedline_wire.tensors import Array, wire_dtype

if TYPE_CHECKING:
    import h5py

READ_AT_ONCE = 64 << 20
"""Bytes of neighbouring rows taken from h5py in one call, at most: what a gather needs beside the batch."""

MAX_LINKS = 16
"""Soft links followed to one dataset; more is a circle."""

FULLY_ALLOCATED = 2
"""H5D_SPACE_STATUS_ALLOCATED: every byte, or every chunk, was written."""


class H5File(ArrayFile):
    """An HDF5 file, open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file, self._stamp = stamp.opened(path, "an HDF5 file")
        file.close()
        self._file = _open(path)
        self._found: dict[str, h5py.Dataset] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """See ArrayFile. Datasets in groups are named by their path; links are left out."""
        names: list[str] = []
        self._file.visititems(lambda name, found: names.append(name) if _is_dataset(found) else None)
        return tuple(sorted(names))

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
            return np.asarray(dataset[()])
        except Exception as error:  # as many ways as there are filters
            raise DataError(f"{self.named(name)}: cannot be read ({error}); write it again") from error

    def stored(self, name: str) -> "Plain | Chunked":
        """See ArrayFile."""
        dataset = self._dataset(name)
        header = self._checked(name, dataset)
        offset = _offset(dataset, header.dtype)
        if not offset:
            return Chunked(self._stamp, name, header, _rows_together(dataset))
        if offset + header.nbytes > self._stamp.size:
            raise DataError(f"{self.named(name)}: is cut short, the file has {self._stamp.size} bytes; copy it again")
        return Plain(self._stamp, name, replace(header, offset=offset))

    def sampled(self, name: str, sampling: Sampling) -> Iterator[bytes]:
        """What stands for a dataset's bytes: all its values if they are few, else the beginnings of some chunks."""
        dataset = self._dataset(name)
        yield b"%d bytes in chunks" % dataset.id.get_storage_size()
        if dataset.nbytes <= sampling.whole or dataset.chunks is None:
            yield np.ascontiguousarray(dataset[()]).tobytes()
            return
        chunks = -(-dataset.shape[0] // dataset.chunks[0])
        with npy.opened(self.path, "an HDF5 file") as file:
            for block in range(sampling.blocks):
                row = block * (chunks - 1) // (sampling.blocks - 1) * dataset.chunks[0]
                chunk = dataset.id.get_chunk_info_by_coord((row, *(0 for _ in dataset.shape[1:])))
                yield os.pread(file.fileno(), min(sampling.block_bytes, chunk.size), chunk.byte_offset)

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
        import h5py

        found: Any = self._file  # Any: h5py has no types
        steps = [step for step in name.split("/") if step]
        for _ in range(MAX_LINKS + len(steps)):
            if not steps:
                break
            link = found.get(steps[0], getlink=True) if isinstance(found, h5py.Group) else None
            if link is None:
                raise DataError(f"{self.path}: has no dataset {name!r}; it has {listed(self.names)}")
            if isinstance(link, h5py.ExternalLink):
                raise DataError(
                    f"{self.named(name)}: is a link into another file ({link.filename}), which is never followed; "
                    "copy the data into this file, or serve that one"
                )
            if isinstance(link, h5py.SoftLink):
                found = self._file if link.path.startswith("/") else found
                steps = [*(step for step in link.path.split("/") if step), *steps[1:]]
                continue
            found = found[steps.pop(0)]
        if steps or not _is_dataset(found):
            raise DataError(f"{self.named(name)}: is no dataset; the file has {listed(self.names)}")
        return found

    def _checked(self, name: str, dataset: "h5py.Dataset") -> npy.Header:
        """Dtype and shape; DataError if it may not be served."""
        import h5py

        named = self.named(name)
        if dataset.external or dataset.is_virtual:
            raise DataError(
                f"{named}: lies in other files ({'external storage' if dataset.external else 'a virtual dataset'}), "
                "which are never read; copy the data into this file"
            )
        if dataset.shape is None:
            raise DataError(f"{named}: holds nothing; wanted an array with a row for every sample")
        if dataset.dtype.kind in "SU" or h5py.check_string_dtype(dataset.dtype) is not None:
            raise DataError(
                f"{named}: holds strings, which are not served; store numbers in their place, "
                "or name the arrays that are meant (arrays = {x = …})"
            )
        try:
            dtype = np.dtype(wire_dtype(dataset.dtype).str).newbyteorder(dataset.dtype.byteorder)
        except DataError as error:
            raise DataError(f"{named}: {error}") from None
        header = npy.Header(dtype, dataset.shape, False, 0)
        if header.nbytes and dataset.id.get_space_status() != FULLY_ALLOCATED:
            raise DataError(f"{named}: {_missing(dataset)} never written and would be read as zeros; write all of it")
        _check_filters(dataset, named)
        return header


@dataclass(frozen=True, slots=True)
class Chunked(Stored):
    """A dataset that does not lie plainly in its file."""

    together: int
    """Rows in a chunk: all are read when one is."""

    @property
    def cost(self) -> str | None:
        """What the operator should know."""
        if self.together == 1 or self.header.nbytes <= READ_AT_ONCE:
            return None
        return (
            f"stored in chunks of {self.together} rows, all of which a worker reads to have one of them; "
            "write it without chunks and compression, or in chunks of one row"
        )

    def open(self, *, large: bool) -> "ChunkedRows":
        """The dataset, open."""
        return ChunkedRows(self)

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """The form and what stands for the bytes."""
        yield f"{self.header.dtype.str} {self.header.shape} in chunks".encode()
        with H5File(self.stamp.path) as file:
            yield from file.sampled(self.member, sampling)
        self.stamp.check()


class ChunkedRows(Rows):
    """A chunked dataset that is open. Every chunk is read once for all the rows that are wanted of it."""

    def __init__(self, array: Chunked) -> None:
        self._of = array
        # Not closed here: the dataset holds the file, and both go with this object.
        self._dataset = H5File(array.stamp.path).rows(array.member)
        array.stamp.check()
        header = array.header
        row_nbytes = header.nbytes // header.shape[0]
        self._block = max(1, min(array.together, READ_AT_ONCE // row_nbytes))

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""
        self._of.stamp.check()
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        edges = np.flatnonzero(np.diff(ordered // self._block)) + 1
        for places, wanted in zip(np.split(order, edges), np.split(ordered, edges), strict=True):
            if len(wanted):
                first, last = int(wanted[0]), int(wanted[-1])
                out[places] = self._read(first, last + 1)[wanted - first]

    def _read(self, start: int, stop: int) -> Array:
        try:
            return np.asarray(self._dataset[start:stop])
        except Exception as error:  # as many ways as there are filters
            raise BadSample(
                f"{self._of.named}: rows {start}..{stop - 1} cannot be read ({error}); write it again",
                samples=range(start, stop),
            ) from error


def _open(path: Path) -> "h5py.File":
    try:
        import h5py
    except ImportError as error:
        raise InvalidRequest(f"{path}: reading HDF5 needs h5py: {pip_install('h5')}") from error
    try:
        # A lock, where the file system has them, finds a file that is still being written; where it has none, as on
        # many network file systems, h5py's default would refuse to open anything.
        return h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        raise DataError(f"{path}: is being written by another process; serve it when it is finished") from error
    except OSError as error:
        raise DataError(f"{path}: is cut short or no HDF5 file ({error}); copy or write it again") from error


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


def _rows_together(dataset: "h5py.Dataset") -> int:
    return int(dataset.chunks[0] if dataset.chunks else max(1, dataset.shape[0])) if dataset.shape else 1


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
