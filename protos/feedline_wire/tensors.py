"""How arrays lie in a batch's body.

Each array starts on a 64-byte boundary (a cache line, and what lets TensorFlow and JAX take it without a copy), in C order,
little-endian. Only dtypes of the allow-list travel: no objects, no strings, nothing that would need unpickling.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import DataError, ProtocolMismatch

ALIGNMENT = 64
"""Bytes. TensorFlow and JAX alias numpy memory at this alignment and copy it otherwise (measured)."""

DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)
"""Every dtype that may be on the wire, by numpy's name."""

VARIES = -1
"""The size of a dimension that differs from batch to batch."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One named array of a dataset: dtype and shape of a single sample (`VARIES` where batches differ)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size == VARIES else str(size) for size in self.shape)
        return f"{self.name} {self.dtype.name}({sizes})"

    @property
    def row_nbytes(self) -> int:
        """Bytes of one sample; a varying dimension counts as one."""
        return self.dtype.itemsize * int(np.prod([max(size, 1) for size in self.shape], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Placed:
    """One array's place in a body."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each array of a batch lies, and how long the body is."""

    arrays: tuple[Placed, ...]
    nbytes: int


def wire_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The little-endian dtype that stands for `dtype` on the wire; DataError if it may not travel."""
    if dtype.name not in DTYPES or dtype.hasobject or dtype.subdtype is not None:
        raise DataError(f"dtype {dtype} cannot be served; convert the data to one of: {', '.join(sorted(DTYPES))}")
    return dtype.newbyteorder("<")


def lay_out(arrays: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> Layout:
    """Place (name, dtype, whole shape) one after the other, each on its boundary."""
    placed = []
    end = 0
    for name, dtype, shape in arrays:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        placed.append(Placed(name, dtype, shape, offset))
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return Layout(tuple(placed), end)


def batch_layout(columns: Sequence[Column], rows: int) -> Layout:
    """The layout of `rows` samples of columns whose shapes are all fixed."""
    return lay_out((column.name, column.dtype, (rows, *column.shape)) for column in columns)


def views(body: Array, layout: Layout) -> dict[str, Array]:
    """The arrays of a body (uint8, 1-D) by name: views of it, no copy."""
    found = {}
    for array in layout.arrays:
        nbytes = array.dtype.itemsize * int(np.prod(array.shape, dtype=np.int64))
        found[array.name] = body[array.offset : array.offset + nbytes].view(array.dtype).reshape(array.shape)
    return found


def to_header(layout: Layout) -> pb.BatchHeader:
    """The layout as it travels."""
    return pb.BatchHeader(
        nbytes=layout.nbytes,
        arrays=[
            pb.Array(name=array.name, dtype=array.dtype.name, shape=array.shape, offset=array.offset)
            for array in layout.arrays
        ],
    )


def from_header(header: pb.BatchHeader) -> Layout:
    """The layout that arrived, checked: every array is of an allowed dtype, on its boundary and inside the body."""
    placed = []
    for array in header.arrays:
        dtype = _allowed(array.dtype)
        nbytes = dtype.itemsize
        for size in array.shape:  # Python integers: a hostile shape must not overflow into a small number
            nbytes *= size
        if array.offset % ALIGNMENT or array.offset + nbytes > header.nbytes:
            raise ProtocolMismatch(
                f"array {array.name!r} at byte {array.offset} ({nbytes} bytes) does not fit a body of {header.nbytes}"
            )
        placed.append(Placed(array.name, dtype, tuple(array.shape), array.offset))
    return Layout(tuple(placed), header.nbytes)


def to_columns(messages: Iterable[pb.Column]) -> tuple[Column, ...]:
    """The columns that arrived."""
    return tuple(Column(message.name, _allowed(message.dtype), tuple(message.shape)) for message in messages)


def from_columns(columns: Iterable[Column]) -> list[pb.Column]:
    """The columns as they travel."""
    return [pb.Column(name=column.name, dtype=column.dtype.name, shape=column.shape) for column in columns]




def _allowed(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise ProtocolMismatch(f"dtype {name!r} is not one this side knows; upgrade the older of trainer and loader")
    return np.dtype(name).newbyteorder("<")
