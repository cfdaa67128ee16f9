"""CSV files as columns: pyarrow reads them block by block, and each column, or all inputs together, becomes one `.npy`.

A column has one type from the first line to the last. What is no number is refused by name, never guessed at; a missing
value is NaN among floats and refused among anything else.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feedline_server.settings.recognition import dataset_name
from feedline_server.tools.convert.columns import INPUTS, TARGET, ColumnOptions
from feedline_server.tools.convert.description import categories_table, in_toml
from feedline_server.tools.convert.destination import Converted, GrowingColumn, unfinished
from feedline_wire import IDS
from feedline_wire.errors import DataError
from feedline_wire.extras import pip_install
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_NBYTES = 4 << 20
"""Of text that is read at once; types are told from the first block."""

UNNAMED = "Unnamed: {}"
"""A column without a name, as pandas calls it: its index, mostly."""


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a CSV file is written."""

    delimiter: str = ","
    decimal: str = "."


def convert_csv(
    source: Path, folder: Path, options: ColumnOptions, show: Callable[[int, int], None], form: CsvForm
) -> Converted:
    """Write a CSV file, whose first line has the names, to `folder`, which must not be there, as columns.

    `show` gets how many bytes of how many are read. Raises DataError naming column and line of what is no number.
    """
    with unfinished(folder, anew=True) as place:  # a CSV file can only be read from its beginning
        rows, nbytes, codes = _written(source, place, options, form, show)
        categories = {TARGET if name == options.target else name: tuple(known) for name, known in codes.items()}
        (place / "loader.toml").write_text(
            _description(source, place, dataset_name(folder.absolute()), rows, categories)
        )
    return Converted(rows, nbytes)


def _written(
    source: Path, place: Path, options: ColumnOptions, form: CsvForm, show: Callable[[int, int], None]
) -> tuple[int, int, Mapping[str, Mapping[str, int]]]:
    """Rows, bytes, and which number each text of a column has."""
    codes: dict[str, dict[str, int]] = {name: {} for name in options.codes}
    rows, files = 0, dict[str, GrowingColumn]()
    with ExitStack() as opened:
        size = source.stat().st_size
        for block, read in _blocks(source, options, form):
            columns: dict[str, Array] = {}
            problems: list[str] = []
            for name, column in block.items():
                if name not in options.drop:
                    try:
                        columns[name] = _array(column, f"{source}: column {name!r}", rows, codes.get(name))
                    except DataError as error:
                        problems.append(str(error))
            if problems:
                raise DataError("\n".join(problems))
            for name, array in options.applied(columns, source, "line", _line(rows)).items():
                if name not in files:
                    files[name] = opened.enter_context(closing(GrowingColumn(place, name)))
                files[name].append(array)
            rows += len(next(iter(block.values())))
            show(min(read, size), size)
        if not rows:
            raise DataError(f"{source}: has no line below that of the names; wanted at least one sample")
        return rows, sum(file.finish() for file in files.values()), codes


def _line(row: int) -> int:
    # The line of names is the first; what stands in quotes over several lines moves those behind it.
    return row + 2


def _description(source: Path, place: Path, name: str, rows: int, categories: Mapping[str, tuple[str, ...]]) -> str:
    names = sorted(path.stem for path in place.glob("*.npy"))
    # Inputs together have lost their names: what some of them stand for is known by their order.
    known = {column: values for column, values in categories.items() if column in names}
    lines = [f"# {rows:,} samples of {source.name}.", f"[datasets.{in_toml(name)}]", 'kind = "columns"']
    if names != [INPUTS, TARGET]:
        lines.append(f"# Say which are which: inputs = [{', '.join(map(in_toml, names))}] and targets = […]")
    lines += [f"# {column}: {', '.join(values)}" for column, values in categories.items() if column not in known]
    return "\n".join([*lines, *categories_table(name, known)]) + "\n"


def _blocks(source: Path, options: ColumnOptions, form: CsvForm) -> "Iterator[tuple[dict[str, pa.Array], int]]":
    """The columns of each block by name, and how many bytes were read for it."""
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError as error:
        raise DataError(f"{source}: CSV files are read with pyarrow: {pip_install('arrow')}") from error

    def reader(types: "Mapping[str, pa.DataType]") -> "tuple[csv.CSVStreamingReader, pa.OSFile]":
        # Not a file of Python's: the threads that read it wait for this one, which waits for them after an error.
        file = pa.OSFile(str(source), "rb")
        return csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=BLOCK_NBYTES),
            parse_options=csv.ParseOptions(delimiter=form.delimiter),
            convert_options=csv.ConvertOptions(column_types=types, decimal_point=form.decimal),
        ), file

    try:
        first, _ = reader({})
        written = first.schema.names
        first.close()
        names = [name.strip() or UNNAMED.format(number) for number, name in enumerate(written)]
        _check_names(names, source, options)
        declared = dict.fromkeys(options.codes, pa.string()) | dict.fromkeys(options.floats, pa.float64())
        declared = dict.fromkeys(options.drop, pa.binary()) | declared  # what is dropped may hold anything
        types = {text: declared[name] for text, name in zip(written, names, strict=True) if name in declared}
        blocks, file = reader(types)
        for block in blocks:
            yield dict(zip(names, block.columns, strict=True)), file.tell()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source}: {error}. {_remedy(source, form)}") from error


def _remedy(source: Path, form: CsvForm) -> str:
    """What to do about a file that is not read as it was said to be written."""
    with source.open("rb") as file:
        header, line = file.readline(BLOCK_NBYTES), file.readline(BLOCK_NBYTES)
    for delimiter in (";", "\t", "|"):
        if form.delimiter.encode() not in header and delimiter.encode() in header:
            decimal = " --decimal ," if re.search(rb"\d,\d", line) else ""
            written = "tab" if delimiter == "\t" else delimiter
            return f"Its first line has no {form.delimiter!r}, and has {written!r}: --delimiter '{written}'{decimal}"
    return (
        "If a column begins with whole numbers and has others later, name it with --float; text becomes numbers with "
        "--codes, or is left out with --drop"
    )


def _check_names(names: list[str], source: Path, options: ColumnOptions) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{source}: has several columns {twice[0]!r}; give each a name of its own in the first line")
    options.check(names, source)
    unnamed = UNNAMED.format("")
    if found := [name for name in names if name.startswith(unnamed) and name not in options.drop]:
        raise DataError(
            f"{source}: a column has no name, as pandas writes the index of a DataFrame; leave it out with --drop "
            f"'{found[0]}', or name it in the first line if it is data"
        )
    kept = set(names) - set(options.drop)
    if strange := [name for name in kept if name == IDS or "/" in name or name.startswith(".")]:
        raise DataError(
            f"{source}: a column cannot be called {strange[0]!r}, columns become files; rename it, or leave it out "
            "with --drop"
        )


def _array(column: "pa.Array", named: str, before: int, codes: dict[str, int] | None) -> Array:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or codes is not None):
        raise DataError(
            f"{named} holds {kind}, which cannot be served; make numbers of its values with --codes, "
            f"{_decimals(column)}or leave it out with --drop"
        )
    texts = [] if codes is None else [text.strip() for text in column.to_pylist()]
    empty = column.is_null().to_numpy(zero_copy_only=False) if codes is None else np.array([not text for text in texts])
    if empty.any() and not pa.types.is_floating(kind):
        remedy = "fill it in" if codes is not None else "fill it in, read the column as floats with --float"
        only = "an empty text is no code" if codes is not None else "only floats can say so (NaN)"
        raise DataError(
            f"{named} has no value in line {_line(before + int(np.flatnonzero(empty)[0]))}, and {only}; {remedy}, or "
            "leave it out with --drop"
        )
    if codes is None:
        found: Array = column.to_numpy(zero_copy_only=False)
        return found
    return np.array([codes.setdefault(text, len(codes)) for text in texts], np.int64)


def _decimals(column: "pa.Array") -> str:
    """What to say if a column's texts are numbers with a comma."""
    texts = column.slice(0, 100).to_pylist()
    is_decimal = all(isinstance(text, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text) for text in texts)
    return "read numbers such as 1,5 with --decimal ',', " if texts and is_decimal else ""
