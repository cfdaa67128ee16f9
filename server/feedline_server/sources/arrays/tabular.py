"""What columns of Arrow tables are served as: numbers as they are, text by number, times in a unit, lists by length.

Decided for all files of a dataset together, so that a number means the same in each. What could mean several things is
refused, all columns at once, with the lines to write.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of pyarrow.compute when it is imported)

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from feedline_server.declared.datasets import ArrowConfig
from feedline_wire.errors import DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Column, wire_dtype

if TYPE_CHECKING:
    import pyarrow as pa

EXACT = 1 << 24
"""Values in lists up to which every list's length is looked at when a dataset is opened: half a second. Of more in
Parquet files, the number of values in each row group tells whether lists are of one length."""

INT64 = np.dtype("<i8")


class TableFile(Protocol):
    """A file with rows, as far as is asked to decide what it is served as."""

    path: Path

    @property
    def kinds(self) -> "Mapping[str, pa.DataType]":
        """The type of each column."""
        ...

    def chunks(self, name: str) -> "Iterator[pa.Array]":
        """All values of a column, group after group."""
        ...

    def leaves(self, name: str) -> list[tuple[int, int]] | None:
        """Rows of each group, and how many values their lists have together; None where only reading them tells."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """What a column of one file is served as."""

    column: Column
    plain: "Callable[[pa.Array], pa.Array] | None" = None
    """Makes of its values such as numpy reads; None: they are."""
    fill: bool | int | float | str | None = None
    """What stands where there is no value."""
    note: str = ""

    def applied(self, array: "pa.Array") -> "pa.Array":
        """The values as numbers. DataError if one cannot be one."""
        import pyarrow as pa

        try:
            return array if self.plain is None else self.plain(array)
        except pa.ArrowInvalid as error:
            raise DataError(f"column {self.column.name!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class Tabular:
    """What is the same for all files of a dataset."""

    config: ArrowConfig
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each coded column: what its numbers stand for."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of each column of lists: how long they are; VARIES if not all are of one length."""

    def forms(self, file: TableFile) -> dict[str, Form]:
        """What each column of a file is served as. DataError naming all that are nothing, with the lines to write."""
        forms: dict[str, Form] = {}
        refused: dict[str, Refused] = {}
        for name, kind in file.kinds.items():
            try:
                forms[name] = self._form(name, kind)
            except Refused as error:
                refused[name] = error
        if refused:
            raise DataError(f"{file.path}: {_lines(refused)}")
        return forms

    def _form(self, name: str, kind: "pa.DataType") -> Form:
        import pyarrow as pa

        fill = self.config.fill.get(name)
        if name in self.names:
            number_of = pa.array(self.names[name], pa.string())
            return Form(Column(name, INT64, ()), lambda array: _coded(array, number_of, fill))
        if pa.types.is_dictionary(kind):
            inner = self._form(name, kind.value_type)
            return Form(inner.column, lambda array: inner.applied(array.dictionary_decode()), fill, inner.note)
        if pa.types.is_decimal(kind):
            note = f"column {name!r} holds {kind}, and is served as float64, rounded to its 16 digits"
            return Form(Column(name, np.dtype("<f8"), ()), lambda array: array.cast(pa.float64()), fill, note)
        if pa.types.is_temporal(kind):
            return Form(Column(name, INT64, ()), _counted(name, kind, self.config.units.get(name)), fill)
        if _is_list(kind):
            try:
                dtype, shape = form(kind.value_type)
            except Refused as error:
                raise Refused(kind) from error
            size = self.sizes[name]
            plain = None if size == VARIES else lambda array: _of_one_length(array, size)
            return Form(Column(name, dtype, (size, *shape)), plain, fill)
        dtype, shape = form(kind)
        return Form(Column(name, dtype, shape), None, fill)


class Refused(Exception):
    """A type that is not served; `key` is what an operator says of it in loader.toml."""

    def __init__(self, kind: object, key: str = "drop", why: str = "") -> None:
        super().__init__(f"{kind}{f': {why}' if why else ''}")
        self.key = key


def tabular(files: Sequence[TableFile], config: ArrowConfig) -> Tabular:
    """What is to be known of all files before one is served. DataError if what is declared is about no such column."""
    kinds = {name: kind for file in files for name, kind in file.kinds.items()}
    for key in ("codes", "fill", "units"):
        if unknown := [name for name in getattr(config, key) if name not in kinds]:
            raise DataError(
                f"{files[0].path}: {key} names the column {unknown[0]!r}; the columns are {', '.join(kinds)}"
            )
    coded = {name: config.codes.get(name, ()) for name, kind in kinds.items() if name in config.codes or _is_code(kind)}
    if wrong := [name for name in coded if not _is_text(kinds[name])]:
        raise DataError(
            f"{files[0].path}: codes makes numbers of text, and the column {wrong[0]!r} holds {kinds[wrong[0]]}; leave "
            "it out of codes"
        )
    names = {name: declared or _names(files, name) for name, declared in coded.items()}
    for name, fill in config.fill.items():
        if name in names and str(fill) not in names[name]:
            names[name] = (*names[name], str(fill))
    lists = [name for name, kind in kinds.items() if _is_list(kind)]
    return Tabular(config, names, {name: _list_size(files, name) for name in lists})


def form(kind: "pa.DataType") -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of one value of a type that is numbers of one shape. Refused, if it is not."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise Refused(kind, why="permuted tensors; write them in C order")
        return form(kind.value_type)[0], tuple(kind.shape)
    if isinstance(kind, pa.BaseExtensionType):
        return form(kind.storage_type)
    if pa.types.is_fixed_size_list(kind) and not _is_text(kind.value_type):
        dtype, shape = form(kind.value_type)
        return dtype, (kind.list_size, *shape)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return wire_dtype(np.dtype(kind.to_pandas_dtype())), ()
    raise Refused(kind, "codes" if _is_text(kind) else "drop", "flatten it" if pa.types.is_struct(kind) else "")


def _lines(refused: Mapping[str, Refused]) -> str:
    """Which columns are not served as they stand, and what to write about them."""
    by_key = {key: [name for name, one in refused.items() if one.key == key] for key in ("codes", "units", "drop")}
    lines = []
    if coded := by_key["codes"]:
        lines.append(f"codes = {json.dumps(coded)} (text becomes numbers)")
    if timed := by_key["units"]:
        units = ", ".join(f'{json.dumps(name)} = "s"' for name in timed)
        lines.append(f"units = {{{units}}} (whole seconds, or D, ms, us, ns)")
    left = by_key["drop"] or coded or timed
    lines.append(f"drop = {json.dumps(left)} (left out)")
    kinds = listed(f"{name} ({one})" for name, one in refused.items())
    return f"these columns are not served as they are: {kinds}; write in loader.toml {', or '.join(lines)}"


# ---- kinds of columns ----


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_code(kind: "pa.DataType") -> bool:
    """A column whose file has numbers for its texts already."""
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind)) and _is_text(kind)


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _names(files: Sequence[TableFile], name: str) -> tuple[str, ...]:
    """The texts of a column: in the order that the files themselves have for them if it is one, else sorted."""
    import pyarrow as pa

    texts: set[str] = set()
    orders: set[tuple[str, ...] | None] = set()
    for file in files:
        for chunk in file.chunks(name):
            is_coded = isinstance(chunk, pa.DictionaryArray)
            orders.add(tuple(_trimmed(chunk.dictionary).to_pylist()) if is_coded else None)
            texts.update(_trimmed(chunk.dictionary_decode() if is_coded else chunk).unique().drop_null().to_pylist())
    order = orders.pop() if len(orders) == 1 else None
    if order is not None and len(set(order)) == len(order) and None not in order:
        return order
    return tuple(sorted(texts))


def _trimmed(array: "pa.Array") -> "pa.Array":
    """Texts without the blanks around them; null where nothing is left."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _coded(array: "pa.Array", names: "pa.Array", fill: object) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = _trimmed(array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array)
    if fill is not None:
        texts = texts.fill_null(str(fill))
    return pc.index_in(texts, value_set=names).cast(pa.int64())


def _counted(name: str, kind: "pa.DataType", unit: str | None) -> "Callable[[pa.Array], pa.Array]":
    """Times as whole numbers of a unit; what is no whole number of it is an error."""
    import pyarrow as pa

    if unit is None:
        raise Refused(kind, "units")
    if unit == "D":
        return lambda array: array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pa.types.is_duration(kind):
        counted = pa.duration(unit)
    elif pa.types.is_time(kind):
        counted = pa.time32(unit) if unit in {"s", "ms"} else pa.time64(unit)
    else:
        counted = pa.timestamp(unit, kind.tz if pa.types.is_timestamp(kind) else None)
    whole = pa.int32() if pa.types.is_time32(counted) else pa.int64()
    return lambda array: array.cast(counted).cast(whole).cast(pa.int64())


# ---- lists ----


def _list_size(files: Sequence[TableFile], name: str) -> int:
    """How long the lists of a column are; VARIES if not all are of one length."""
    counts = [file.leaves(name) for file in files]
    known = [count for one in counts if one is not None for count in one if count[0]]
    if None not in counts and sum(leaves for _, leaves in known) > EXACT:
        found: Iterable[int] = {leaves // rows if leaves % rows == 0 else VARIES for rows, leaves in known}
    else:
        found = _lengths(files, name)
    lengths = set(found)
    return lengths.pop() if len(lengths) == 1 and lengths != {0} else VARIES


def _lengths(files: Sequence[TableFile], name: str) -> set[int]:
    """Two different lengths of lists, or the only one there is."""
    import pyarrow.compute as pc

    found: set[int] = set()
    for file in files:
        for chunk in file.chunks(name):
            found.update(pc.list_value_length(chunk).unique().drop_null().to_pylist())
            if len(found) > 1:
                return found
    return found


def _of_one_length(array: "pa.Array", size: int) -> "pa.Array":
    """Lists as vectors; a list of another length is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(array)
    fits = pc.equal(lengths, size)
    if pc.all(fits, skip_nulls=False).as_py():
        return pa.FixedSizeListArray.from_arrays(array.flatten(), size)
    filler = pa.nulls(1, array.type.value_type)
    kept = fits.fill_null(False).to_numpy(zero_copy_only=False)
    rows = np.zeros((len(array), size), np.int64)
    starts = np.cumsum([0, *lengths.fill_null(0).to_pylist()])[:-1]
    rows[kept] = starts[kept, np.newaxis] + 1 + np.arange(size)
    values = pa.concat_arrays([filler, array.flatten()]).take(pa.array(rows.reshape(-1)))
    return pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(~kept))
