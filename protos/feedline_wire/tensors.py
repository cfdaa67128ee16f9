"""How arrays lie in a batch's body.

Each array starts on a 64-byte boundary (a cache line, and what lets TensorFlow and JAX take it without a copy), in C
order, little-endian. Only dtypes of the allow-list travel: no objects, no strings, nothing that would need unpickling.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feedline_wire.errors import DataError, ProtocolMismatch

if TYPE_CHECKING:
    from feedline_wire import loader_pb2 as pb

ALIGNMENT = 64
"""Bytes. TensorFlow and JAX alias numpy memory at this alignment and copy it otherwise (measured)."""

DTYPES = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    }
)
"""Every dtype that may be on the wire, by numpy's name."""

MAX_DIMENSIONS = 32
"""Of one array, the batch's own included: numpy 1.26 makes no more."""

MAX_NBYTES = 2**63 - 1
"""Of one array, as numpy counts: a dimension of size 0 counts as 1."""

VARIES = -1
"""The size of a dimension that differs from batch to batch."""

Array = NDArray[Any]

_LITTLE_ENDIAN = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}


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
        return self.dtype.itemsize * math.prod(1 if size == VARIES else size for size in self.shape)


@dataclass(frozen=True, slots=True)
class Placed:
    """One array's place in a body."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements. Python's integers: a hostile shape must not overflow into a small number."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each array of a batch lies, and how long the body is."""

    arrays: tuple[Placed, ...]
    nbytes: int

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled as it travels: both ways are remembered, where numpy's dtypes one by one cost 15 us, with every batch.
        return read_header, (write_header(self),)


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
        # Python's integers: billions of rows, as a hostile key may ask for, must not overflow into a small body.
        end = offset + dtype.itemsize * math.prod(shape)
    return Layout(tuple(placed), end)


def batch_layout(columns: Sequence[Column], rows: int) -> Layout:
    """The layout of `rows` samples of columns whose shapes are all fixed."""
    return lay_out((column.name, column.dtype, (rows, *column.shape)) for column in columns)


def views(body: Array, layout: Layout) -> dict[str, Array]:
    """The arrays of a body (uint8, 1-D) by name: views of it, no copy."""
    found: dict[str, Array] = {}
    for array in layout.arrays:
        found[array.name] = np.ndarray(array.shape, array.dtype, body, array.offset)
    return found


def clear_padding(body: Array, layout: Layout) -> None:
    """Zero what lies between the arrays of a body.

    Memory that was used before would otherwise send along what was in it, and a key would not always be the same bytes.
    """
    end = 0
    for array in layout.arrays:
        body[end : array.offset] = 0
        end = array.offset + array.dtype.itemsize * math.prod(array.shape)
    body[end : layout.nbytes] = 0


def to_header(layout: Layout) -> "pb.BatchHeader":
    """The layout as it travels."""
    from feedline_wire import loader_pb2 as pb

    return pb.BatchHeader(
        nbytes=layout.nbytes,
        arrays=[
            pb.Array(name=array.name, dtype=array.dtype.name, shape=array.shape, offset=array.offset)
            for array in layout.arrays
        ],
    )


@functools.lru_cache(maxsize=64)
def write_header(layout: Layout) -> bytes:
    """The layout as bytes that travel. Remembered, like what `read_header` makes of them."""
    return to_header(layout).SerializeToString()


def from_header(header: "pb.BatchHeader") -> Layout:
    """The layout that arrived, checked: every array is of an allowed dtype, on its boundary and inside the body.

    The body ends where the last array does: no memory is taken for bytes that belong to none.
    """
    placed = []
    end = 0
    for array in header.arrays:
        dtype = _allowed(array.dtype)
        shape = tuple(array.shape)
        # Python's integers: a hostile shape must not overflow into a small number.
        nbytes = dtype.itemsize * math.prod(shape)
        if array.offset % ALIGNMENT or array.offset + nbytes > header.nbytes:
            raise ProtocolMismatch(
                f"array {array.name!r} at byte {array.offset} ({nbytes} bytes) does not fit a body of {header.nbytes}"
            )
        # An array without elements fits anywhere, but numpy refuses to make one of too many or too long dimensions.
        if len(shape) > MAX_DIMENSIONS or dtype.itemsize * math.prod(max(size, 1) for size in shape) > MAX_NBYTES:
            raise ProtocolMismatch(f"array {array.name!r} has the shape {shape}, which no array can have")
        placed.append(Placed(array.name, dtype, shape, array.offset))
        end = max(end, array.offset + nbytes)
    if header.nbytes != end:
        raise ProtocolMismatch(f"a batch announced {header.nbytes} bytes; its arrays end at {end}")
    return Layout(tuple(placed), header.nbytes)


@functools.lru_cache(maxsize=64)
def read_header(wire: bytes) -> Layout:
    """The layout that arrived as bytes, checked. Remembered: nearly all batches of an epoch have the same header."""
    from google.protobuf.message import DecodeError

    from feedline_wire import loader_pb2 as pb

    try:
        return from_header(pb.BatchHeader.FromString(wire))
    except DecodeError as error:
        raise ProtocolMismatch(f"{len(wire)} bytes stand where a batch's header belongs and are none") from error


def to_columns(messages: "Iterable[pb.Column]") -> tuple[Column, ...]:
    """The columns that arrived."""
    columns = []
    for message in messages:
        if any(size < VARIES for size in message.shape):
            raise ProtocolMismatch(
                f"column {message.name!r} has the shape {tuple(message.shape)}, which no array can have"
            )
        columns.append(Column(message.name, _allowed(message.dtype), tuple(message.shape)))
    return tuple(columns)


def from_columns(columns: Iterable[Column]) -> "list[pb.Column]":
    """The columns as they travel."""
    from feedline_wire import loader_pb2 as pb

    return [pb.Column(name=column.name, dtype=column.dtype.name, shape=column.shape) for column in columns]


def _allowed(name: str) -> np.dtype[Any]:
    dtype = _LITTLE_ENDIAN.get(name)
    if dtype is None:
        raise ProtocolMismatch(f"dtype {name!r} is not one this side knows; upgrade the older of trainer and loader")
    return dtype
