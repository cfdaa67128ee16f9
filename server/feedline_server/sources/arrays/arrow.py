"""Arrow and Parquet files (the kind is kinds/arrow): rows in groups, each group's columns as numpy arrays.

What its columns are served as is decided for all files together (arrays/tabular); a missing value is refused when its
row is asked for.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of pyarrow.compute when it is imported)

import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from feedline_server.sources.arrays import npy, stamp
from feedline_server.sources.arrays.decompressed import DECODED
from feedline_server.sources.arrays.suffixes import format_of
from feedline_server.sources.arrays.tabular import Form
from feedline_server.sources.ragged import Ragged, offsets_of, values_of
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Array, Column

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET = ".parquet"

MAGIC = b"ARROW1"
"""What a file of Arrow's IPC format begins with; what has it not is a stream of the same messages."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Group:
    """Some rows of one file, by column."""

    arrays: Mapping[str, Array | Ragged]
    missing: Mapping[str, Array]
    """Where a column has no value, as bools; only columns that lack some."""


def as_arrays(group: Group) -> dict[str, Array]:
    """A group as arrays alone, by a sign and the column's name.

    `=`: its values; `?`: where it has none; `@`: of lists that differ in length, where each begins.
    """
    return {
        **{f"={name}": values_of(array) for name, array in group.arrays.items()},
        **{f"?{name}": array for name, array in group.missing.items()},
        **{f"@{name}": array.offsets for name, array in group.arrays.items() if isinstance(array, Ragged)},
    }


def as_group(arrays: Mapping[str, Array]) -> Group:
    """The group again."""
    parts = {sign: {name[1:]: array for name, array in arrays.items() if name[0] == sign} for sign in "=?@"}
    lists = {name: Ragged(parts["="][name], offsets) for name, offsets in parts["@"].items()}
    return Group({**parts["="], **lists}, parts["?"])


class _Table:
    """What both formats have in common: columns by name, and what they are served as."""

    path: Path
    rows: list[int]
    packed: bool
    """Groups are decoded into memory of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forms: Mapping[str, Form] = {}
        self.columns: tuple[Column, ...] = ()
        """Of what is served; see `serve`."""
        self.kinds: dict[str, pa.DataType] = {}
        """The type of each column in the file."""

    def serve(self, forms: Mapping[str, Form]) -> None:
        """Serve columns so. DataError if a group takes more memory than a worker keeps."""
        self.forms = forms
        self.columns = tuple(form.column for form in forms.values())
        self.packed = self.packed or any(_is_made(form) for form in forms.values())
        if self.packed:
            _check_size(self.path, self.rows, self.columns)

    def _group(self, found: "Mapping[str, pa.Array]") -> Group:
        arrays: dict[str, Array | Ragged] = {}
        missing: dict[str, Array] = {}
        for name, form in self.forms.items():
            plain = form.applied(found[name])
            if form.column.shape[:1] == (VARIES,):
                arrays[name], lacking = _ragged(plain, form)
            else:
                arrays[name], lacking = _values(plain, form)
            if lacking is not None:
                missing[name] = lacking
        return Group(arrays, missing)


def _is_made(form: Form) -> bool:
    """Whether a column's values are not those that lie in the file."""
    return form.plain is not None or form.fill is not None or form.column.shape[:1] == (VARIES,)


class IpcFile(_Table):
    """Record batches in a mapped file: columns are views of it, unless they are compressed or bits."""

    def __init__(self, path: Path, arrays: Mapping[str, str] | None, drop: Sequence[str]) -> None:
        super().__init__(path)
        self._pa = _pyarrow(path)
        file, self.stamp = stamp.opened(path, "an Arrow or Parquet file")
        with file:
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)
        self._base: int = np.frombuffer(self.mapping, np.uint8).ctypes.data
        self._is_file = self.mapping[: len(MAGIC)] == MAGIC
        try:
            schema = self._reader().schema
            self._places = _names(schema, arrays, drop, path)
            self.kinds = {name: schema.field(place).type for name, place in self._places.items()}
            self.packed = self._is_compressed = self._is_packed()
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

    def check(self) -> None:
        """DataError if the file was written to since it was opened: asked before and after it is read."""
        self.stamp.check(self._fd)

    def group(self, number: int) -> Group:
        """One record batch."""
        try:
            batch = self._batch(number)
            return self._group({name: batch.column(place) for name, place in self._places.items()})
        except (self._pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: batch {number} cannot be read ({error}); write it again") from error

    def chunks(self, name: str) -> "Iterator[pa.Array]":
        """See TableFile."""
        for number in range(len(self.rows)):
            yield self._batch(number).column(self._places[name])

    def leaves(self, name: str) -> list[tuple[int, int]] | None:
        """See TableFile: where each list ends is known without reading them."""
        return None

    def nulls(self, name: str) -> int:
        """How many rows of a column have no value, where that is known without decompressing them."""
        return 0 if self._is_compressed else sum(chunk.null_count for chunk in self.chunks(name))

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
        """Whether columns are compressed: a batch then lies in memory of its own."""
        first = next((batch for batch in self._batches() if batch.num_rows), None)
        if first is None:
            return False
        addresses = [
            buffer.address
            for column in first.columns
            for buffer in column.buffers()
            if buffer is not None and buffer.size
        ]
        packed = any(not 0 <= address - self._base < len(self.mapping) for address in addresses)
        if packed and not self._is_file:
            raise DataError(
                f"{self.path}: is a compressed stream, which can only be read from its beginning; "
                "write it as an Arrow file (pyarrow.ipc.new_file)"
            )
        return packed

    def _batches(self, fields: Sequence[int] = ()) -> "Iterator[pa.RecordBatch]":
        reader = self._reader(fields)
        if self._is_file:
            return map(reader.get_batch, range(reader.num_record_batches))
        return iter(reader)


class ParquetFile(_Table):
    """Row groups of a Parquet file, which are decoded whole."""

    packed = True

    def __init__(self, path: Path, arrays: Mapping[str, str] | None, drop: Sequence[str]) -> None:
        super().__init__(path)
        pa = _pyarrow(path)
        file, self.stamp = stamp.opened(path, "an Arrow or Parquet file")
        try:
            with file:
                parquet = pa.parquet.ParquetFile(file)
                self._groups = [parquet.metadata.row_group(place) for place in range(parquet.metadata.num_row_groups)]
                schema = parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: is cut short or no Parquet file ({error}); copy or write it again") from error
        self.rows = [group.num_rows for group in self._groups]
        places = _names(schema, arrays, drop, path)
        self._names = {name: schema.field(place).name for name, place in places.items()}
        self.kinds = {name: schema.field(place).type for name, place in places.items()}

    def check(self) -> None:
        """Nothing: a file is compared when a group is decoded."""

    def group(self, number: int) -> Group:
        """One row group. DataError if the file is not what it was."""
        return self._group(self._read(number, list(self._names)))

    def chunks(self, name: str) -> "Iterator[pa.Array]":
        """See TableFile."""
        for number in range(len(self.rows)):
            yield self._read(number, [name])[name]

    def leaves(self, name: str) -> list[tuple[int, int]] | None:
        """See TableFile."""
        return [
            (group.num_rows, sum(column.num_values for column in self._leaf_columns(group, name)))
            for group in self._groups
        ]

    def nulls(self, name: str) -> int:
        """How many rows of a column have no value, as far as the file says it."""
        if _is_nested(self.kinds[name]):
            return 0
        found = [column.statistics for group in self._groups for column in self._leaf_columns(group, name)]
        return sum(one.null_count for one in found if one is not None and one.has_null_count)

    def _leaf_columns(self, group: "pq.RowGroupMetaData", name: str) -> "Iterator[pq.ColumnChunkMetaData]":
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema.split(".")[0] == self._names[name]:
                yield column

    def _read(self, number: int, names: Sequence[str]) -> "dict[str, pa.Array]":
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Not kept open: its footer takes a millisecond to read, a row group many, and descriptors are few.
        with npy.opened(self.path, "the file that was there") as file:
            self.stamp.check(file.fileno())
            try:
                columns = [self._names[name] for name in names]
                table = pq.ParquetFile(file).read_row_group(number, columns=columns, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                self.stamp.check(file.fileno())
                raise DataError(f"{self.path}: row group {number} cannot be read ({error}); write it again") from error
            self.stamp.check(file.fileno())
        return {name: _whole(table.column(self._names[name])) for name in names}


def _whole(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


def _is_nested(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(kind))


ArrowFile = IpcFile | ParquetFile


def open_arrow_file(path: Path, arrays: Mapping[str, str] | None, drop: Sequence[str]) -> ArrowFile:
    """The file's columns: the ones that are meant, or all but those that are dropped. DataError if there are none."""
    return ParquetFile(path, arrays, drop) if format_of(path) == PARQUET else IpcFile(path, arrays, drop)


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
    nbytes = most * sum(column.row_nbytes for column in columns if VARIES not in column.shape)
    if nbytes > DECODED.limit:
        raise DataError(
            f"{path}: has up to {most} rows in a group, which take {nbytes >> 20} MiB of memory when decoded, more "
            f"than the {DECODED.limit >> 20} MiB that a worker keeps; write it in smaller row groups, "
            "or as an uncompressed Arrow file"
        )


def _names(schema: "pa.Schema", arrays: Mapping[str, str] | None, drop: Sequence[str], path: Path) -> dict[str, int]:
    """The place in the schema of each column."""
    if arrays is None:
        arrays = {name: name for name in schema.names if name not in drop}
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


def _ragged(array: "pa.Array", form: Form) -> tuple[Ragged, Array | None]:
    """Lists one after the other; and which are missing."""
    import pyarrow.compute as pc

    lacking = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    values = array.flatten()
    if values.null_count and form.fill is None:
        rows = np.repeat(np.arange(len(array)), lengths)[values.is_null().to_numpy(zero_copy_only=False)]
        lacking = np.zeros(len(array), bool) if lacking is None else lacking
        lacking[rows] = True
    one = Form(Column(form.column.name, form.column.dtype, form.column.shape[1:]), fill=form.fill or 0)
    return Ragged(_values(values, one)[0], offsets_of(lengths)), lacking


def _values(array: "pa.Array", form: Form) -> tuple[Array, Array | None]:
    """The values in the column's shape, without a copy where they lie plainly; and where there are none."""
    import pyarrow as pa

    rows, fill = len(array), form.fill if not isinstance(form.fill, str) else None
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
        array = array.fill_null(pa.scalar(0 if fill is None else fill).cast(array.type))
    values = array.to_numpy(zero_copy_only=False).reshape(rows, *form.column.shape)
    return values, None if fill is not None and not form.column.shape else lacking
