"""Arrow and Parquet files (the kind is kinds/arrow): rows in groups, each group's columns as numpy arrays.

Numbers of one shape are read as they are; what has no such form, strings above all, is refused when the file
is opened, and a missing value when its row is asked for.
"""

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline_server.sources.arrays import stamp
from feedline_server.sources.arrays.decompressed import DECODED
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.listing import listed
from feedline_wire.tensors import Array, Column, wire_dtype

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET = ".parquet"

MAGIC = b"ARROW1"
"""What a file of Arrow's IPC format begins with; what has it not is a stream of the same messages."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Group:
    """Some rows of one file, by column."""

    arrays: Mapping[str, Array]
    missing: Mapping[str, Array]
    """Where a column has no value, as bools; only columns that lack some."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.missing.values()))


class IpcFile:
    """Record batches in a mapped file: columns are views of it, unless they are compressed or bits."""

    def __init__(self, path: Path, arrays: Mapping[str, str] | None) -> None:
        self._pa = _pyarrow(path)
        file, self.stamp = stamp.opened(path, "an Arrow or Parquet file")
        with file:
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._base: int = np.frombuffer(self.mapping, np.uint8).ctypes.data
        self._is_file = self.mapping[: len(MAGIC)] == MAGIC
        self._path = path
        try:
            schema = self._reader().schema
            self._places = _names(schema, arrays, path)
            self.columns = _columns(schema, self._places, path)
            self.packed = self._is_packed()
            if self.packed:
                # The fields of a batch are then these, in the schema's order.
                wanted = sorted(set(self._places.values()))
                self._places = {name: wanted.index(place) for name, place in self._places.items()}
                batches = self._reader(wanted)
                fields = wanted[:1]  # to count rows, one is decompressed
            else:
                batches, fields = self._reader(), []
            self.rows = [batch.num_rows for batch in self._batches(fields)]
            self._batch: Callable[[int], pa.RecordBatch] = (
                batches.get_batch if self._is_file else list(batches).__getitem__
            )
        except (self._pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: is cut short or no Arrow file ({error}); copy or write it again") from error
        if self.packed:
            _check_size(path, self.rows, self.columns)

    def group(self, number: int) -> Group:
        """One record batch."""
        try:
            batch = self._batch(number)
            return _as_group({name: batch.column(place) for name, place in self._places.items()}, self.columns)
        except (self._pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path}: batch {number} cannot be read ({error}); write it again") from error

    def offset(self, array: Array) -> int | None:
        """Where in the mapping an array of a group lies; None if it lies in memory of its own."""
        offset = int(array.ctypes.data) - self._base
        return offset if 0 <= offset < len(self.mapping) else None

    def _reader(self, fields: Sequence[int] = ()) -> "pa.ipc.RecordBatchFileReader":
        """The batches. With fields, only those are decompressed; but what lies plainly is then copied all the same."""
        ipc = self._pa.ipc
        options = ipc.IpcReadOptions(included_fields=list(fields))
        reads = ipc.open_file if self._is_file else ipc.open_stream
        return reads(self._pa.py_buffer(self.mapping), options=options)

    def _is_packed(self) -> bool:
        """Whether columns are compressed: a batch then lies in memory of its own. DataError if there are no rows."""
        first = next((batch for batch in self._batches() if batch.num_rows), None)
        if first is None:
            raise DataError(f"{self._path}: has no rows; wanted at least one")
        addresses = [
            buffer.address
            for column in first.columns
            for buffer in column.buffers()
            if buffer is not None and buffer.size
        ]
        packed = any(not 0 <= address - self._base < len(self.mapping) for address in addresses)
        if packed and not self._is_file:
            raise DataError(
                f"{self._path}: is a compressed stream, which can only be read from its beginning; "
                "write it as an Arrow file (pyarrow.ipc.new_file)"
            )
        return packed

    def _batches(self, fields: Sequence[int] = ()) -> "Iterator[pa.RecordBatch]":
        reader = self._reader(fields)
        if self._is_file:
            return map(reader.get_batch, range(reader.num_record_batches))
        return iter(reader)


class ParquetFile:
    """Row groups of a Parquet file, which are decoded whole."""

    packed = True

    def __init__(self, path: Path, arrays: Mapping[str, str] | None) -> None:
        pa = _pyarrow(path)
        file, self.stamp = stamp.opened(path, "an Arrow or Parquet file")
        file.close()
        self._path = path
        try:
            file = self._open()
            metadata = file.metadata
            self.rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            schema = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: is cut short or no Parquet file ({error}); copy or write it again") from error
        self._names = _names(schema, arrays, path)
        self._read = [schema.field(index).name for index in self._names.values()]
        self.columns = _columns(schema, self._names, path)
        if not sum(self.rows):
            raise DataError(f"{path}: has no rows; wanted at least one")
        _check_size(path, self.rows, self.columns)

    def group(self, number: int) -> Group:
        """One row group."""
        import pyarrow as pa

        try:
            table = self._open().read_row_group(number, columns=self._read, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path}: row group {number} cannot be read ({error}); write it again") from error
        found = dict(zip(self._names, map(table.column, self._read), strict=True))
        whole = {name: pa.concat_arrays(column.chunks) for name, column in found.items()}
        return _as_group(whole, self.columns)

    def _open(self) -> "pq.ParquetFile":
        import pyarrow.parquet as pq

        # Not kept: its footer takes a millisecond to read, a row group many, and descriptors are few.
        return pq.ParquetFile(self._path)


ArrowFile = IpcFile | ParquetFile


def open_arrow_file(path: Path, arrays: Mapping[str, str] | None) -> ArrowFile:
    """The file's columns: all, or the ones that are meant. DataError if they cannot be served."""
    return ParquetFile(path, arrays) if path.suffix.lower() == PARQUET else IpcFile(path, arrays)


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidRequest(f"{path}: reading Arrow and Parquet needs pyarrow: {pip_install('arrow')}") from error
    module: ModuleType = pa
    return module


def _check_size(path: Path, rows: Sequence[int], columns: Sequence[Column]) -> None:
    """DataError if a group that must be decoded whole is larger than what a worker keeps of such."""
    most = max(rows, default=0)
    nbytes = most * sum(column.row_nbytes for column in columns)
    if nbytes > DECODED.limit:
        raise DataError(
            f"{path}: has up to {most} rows in a group, which take {nbytes >> 20} MiB of memory when decoded, more "
            f"than the {DECODED.limit >> 20} MiB that a worker keeps; write it in smaller row groups, "
            "or as an uncompressed Arrow file"
        )


def _names(schema: "pa.Schema", arrays: Mapping[str, str] | None, path: Path) -> dict[str, int]:
    """The place in the schema of each column."""
    if arrays is None:
        arrays = {name: name for name in schema.names}
    if not arrays:
        raise DataError(f"{path}: has no columns")
    for column, name in arrays.items():
        there = schema.names.count(name)
        if there != 1:
            raise DataError(
                f"{path}: has {there or 'no'} columns named {name!r}, wanted as {column!r}; "
                f"it has {listed(schema.names)}"
            )
    return {column: schema.get_field_index(name) for column, name in arrays.items()}


def _columns(schema: "pa.Schema", names: Mapping[str, int], path: Path) -> tuple[Column, ...]:
    columns = []
    for name, index in names.items():
        try:
            dtype, shape = form(schema.field(index).type)
        except DataError as error:
            raise DataError(f"{path}: column {schema.field(index).name!r} {error}") from None
        columns.append(Column(name, dtype, shape))
    return tuple(columns)


def form(kind: "pa.DataType") -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of one value of a type; DataError, beginning with what it holds, if it has none."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise DataError(f"holds permuted tensors ({kind}); write them in C order")
        return form(kind.value_type)[0], tuple(kind.shape)
    if isinstance(kind, pa.BaseExtensionType):
        return form(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        dtype, shape = form(kind.value_type)
        return dtype, (kind.list_size, *shape)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return wire_dtype(np.dtype(kind.to_pandas_dtype())), ()
    raise DataError(f"holds {kind}, which is not served; {_remedy(kind)}, or name the columns that are meant (arrays)")


def _remedy(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return "store the codes as integers"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "its lists may differ in length, cast it to a fixed_size_list"
    if pa.types.is_temporal(kind):
        return "cast it to integers"
    if pa.types.is_struct(kind):
        return "flatten it into columns"
    return "encode it as numbers"


def _as_group(found: Mapping[str, "pa.Array"], columns: Sequence[Column]) -> Group:
    arrays, missing = {}, {}
    for column in columns:
        arrays[column.name], lacking = _values(found[column.name], column)
        if lacking is not None:
            missing[column.name] = lacking
    return Group(arrays, missing)


def _values(array: "pa.Array", column: Column) -> tuple[Array, Array | None]:
    """The values in the column's shape, without a copy where they lie plainly; and where there are none."""
    import pyarrow as pa

    rows = len(array)
    lacking: Array | None = None
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if array.null_count:
            here = array.is_null().to_numpy(zero_copy_only=False).reshape(rows, -1).any(axis=1)
            lacking = here if lacking is None else lacking | here
        if not pa.types.is_fixed_size_list(array.type):
            break
        size = array.type.list_size
        # Not flatten(): it leaves out what lies under a null, and every later row would take an earlier one's place.
        array = array.values.slice(array.offset * size, len(array) * size)
    if array.null_count:
        array = array.fill_null(pa.scalar(0).cast(array.type))
    return array.to_numpy(zero_copy_only=False).reshape(rows, *column.shape), lacking
