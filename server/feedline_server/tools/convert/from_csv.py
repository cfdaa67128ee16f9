"""CSV files as columns: pyarrow reads them block by block, and each column, or all inputs together, becomes one `.npy`.

A column has one type from the first line to the last. What is no number is refused by name, never guessed at; a missing
value is NaN among floats and refused among anything else.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from feedline_server.tools.convert.destination import Converted, GrowingColumn, unfinished
from feedline_wire import IDS
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_NBYTES = 4 << 20
"""Of text that is read at once; types are told from the first block."""


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """How a CSV file is to be read."""

    target: str | None = None
    """The column that is `y`; all others are `x` together, float32. None: each column by itself."""
    codes: Sequence[str] = ()
    """Columns of text that become numbers: 0 for the value that comes first, and so on."""
    floats: Sequence[str] = ()
    """Columns of floats although their first values are whole."""
    drop: Sequence[str] = ()
    """Columns that are left out."""


def convert_csv(source: Path, folder: Path, options: CsvOptions, show: Callable[[int, int], None]) -> Converted:
    """Write a CSV file, whose first line has the names, to `folder`, which must not be there, as columns.

    `show` gets how many bytes of how many are read. Raises DataError naming column and line of what is no number.
    """
    with unfinished(folder, anew=True) as place:  # a CSV file can only be read from its beginning
        rows, nbytes = _written(source, place, options, show)
        (place / "loader.toml").write_text(_description(source, place, rows))
    return Converted(rows, nbytes)


def _written(source: Path, place: Path, options: CsvOptions, show: Callable[[int, int], None]) -> tuple[int, int]:
    """Rows and bytes."""
    codes: dict[str, dict[str, int]] = {name: {} for name in options.codes}
    rows, files = 0, dict[str, GrowingColumn]()
    with ExitStack() as opened:
        file = opened.enter_context(source.open("rb"))
        size = os.fstat(file.fileno()).st_size
        for block in _blocks(file, source, options):
            for name, array in _arrays(block, source, rows, options, codes).items():
                if name not in files:
                    files[name] = opened.enter_context(closing(GrowingColumn(place, name)))
                files[name].append(array)
            rows += block.num_rows
            show(file.tell(), size)
        if not rows:
            raise DataError(f"{source}: has no line below that of the names; wanted at least one sample")
        nbytes = sum(file.finish() for file in files.values())
    for name, known in codes.items():
        (place / f"{name}.codes.json").write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return rows, nbytes


def _description(source: Path, place: Path, rows: int) -> str:
    names = sorted(path.stem for path in place.glob("*.npy"))
    lines = [f"# {rows:,} samples of {source.name}.", "[datasets.data]", 'kind = "columns"']
    if names != ["x", "y"]:
        lines.append(f"# Say which are which: inputs = [{', '.join(map(json.dumps, names))}] and targets = […]")
    return "\n".join(lines) + "\n"


def _blocks(file: BinaryIO, source: Path, options: CsvOptions) -> Iterator["pa.RecordBatch"]:
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError as error:
        raise DataError(f"{source}: CSV files are read with pyarrow: {pip_install('arrow')}") from error
    types = dict.fromkeys(options.codes, pa.string()) | dict.fromkeys(options.floats, pa.float64())
    try:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=BLOCK_NBYTES),
            convert_options=csv.ConvertOptions(column_types=types),
        )
        _check_names(reader.schema.names, source, options)
        yield from reader
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{source}: {error}. If a column begins with whole numbers and has others later, name it with --float; "
            "text becomes numbers with --codes, or is left out with --drop"
        ) from error


def _check_names(names: list[str], source: Path, options: CsvOptions) -> None:
    named = [*options.codes, *options.floats, *options.drop, *([options.target] if options.target else [])]
    if unknown := [name for name in named if name not in names]:
        raise InvalidRequest(f"{source}: has no column {unknown[0]!r}; it has: {', '.join(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{source}: has several columns {twice[0]!r}; give each a name of its own in the first line")
    if strange := [name for name in names if name == IDS or "/" in name or not name or name.startswith(".")]:
        raise DataError(f"{source}: a column cannot be called {strange[0]!r}, columns become files; rename it")


def _arrays(
    block: "pa.RecordBatch", source: Path, before: int, options: CsvOptions, codes: Mapping[str, dict[str, int]]
) -> dict[str, Array]:
    """The block's columns by the names of their files."""
    named = {
        name: _array(column, f"{source}: column {name!r}", before, codes.get(name))
        for name, column in zip(block.schema.names, block.columns, strict=True)
        if name not in options.drop
    }
    if options.target is None:
        return named
    target = named.pop(options.target)
    if not named:
        raise DataError(f"{source}: has no column beside {options.target!r}; wanted inputs too")
    return {"x": np.stack([array.astype(np.float32) for array in named.values()], axis=1), "y": target}


def _array(column: "pa.Array", named: str, before: int, codes: dict[str, int] | None) -> Array:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or codes is not None):
        raise DataError(
            f"{named} holds {kind}, which cannot be served; make numbers of its values with --codes, "
            "or leave it out with --drop"
        )
    if column.null_count and not pa.types.is_floating(kind):
        # The line of names is the first; what stands in quotes over several lines moves those behind it.
        line = before + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]) + 2
        raise DataError(
            f"{named} has no value in line {line}, and only floats can say so (NaN); fill it in, read the column as "
            "floats with --float, or leave it out with --drop"
        )
    if codes is None:
        found: Array = column.to_numpy(zero_copy_only=False)
        return found
    return np.array([codes.setdefault(text, len(codes)) for text in column.to_pylist()], np.int64)
