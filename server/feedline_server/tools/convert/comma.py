"""CSV files as columns: pyarrow reads them block by block, and each column, or all inputs together, becomes one `.npy`.

The law: a column has one type from the first line to the last. What is no number is refused by name, never guessed at;
a missing value is NaN among floats and refused among anything else.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy_format

from feedline_server.tools.convert.conversion import Converted, unfinished
from feedline_wire import IDS
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_NBYTES = 4 << 20
"""Of text that is read at once; types are told from the first block."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a CSV file is meant."""

    target: str | None = None
    """The column that is `y`; all others are `x` together, float32. None: each column by itself."""
    codes: tuple[str, ...] = ()
    """Columns of text that become numbers: 0 for the value that comes first, and so on."""
    floats: tuple[str, ...] = ()
    """Columns of floats although their first values are whole."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""


def convert_csv(source: Path, folder: Path, wanted: Wanted, show: Callable[[int, int], None]) -> Converted:
    """Write a CSV file, whose first line has the names, to `folder`, which must not be there, as columns.

    `show` is told how many bytes of how many are read. DataError naming column and line for what is no number.
    """
    if folder.exists():
        raise InvalidRequest(f"{folder}: is there already; name a folder that is not, or move this one away")
    with unfinished(folder) as place:
        for old in place.iterdir():
            old.unlink()  # of a run that was ended; a CSV file can only be read from its beginning
        rows, nbytes = _written(source, place, wanted, show)
        (place / "loader.toml").write_text(_description(source, place, rows))
        os.rename(place, folder)  # noqa: PTH104 - takes no other folder's place
    return Converted(folder, rows, nbytes, 0)


def _written(source: Path, place: Path, wanted: Wanted, show: Callable[[int, int], None]) -> tuple[int, int]:
    """Rows and bytes."""
    codes: dict[str, dict[str, int]] = {name: {} for name in wanted.codes}
    rows, files = 0, dict[str, Growing]()
    with ExitStack() as opened:
        file = opened.enter_context(source.open("rb"))
        size = os.fstat(file.fileno()).st_size
        for block in _blocks(file, source, wanted):
            for name, array in _arrays(block, source, rows, wanted, codes).items():
                if name not in files:
                    files[name] = opened.enter_context(Growing(place / f"{name}.npy"))
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


# ---- reading ----


def _blocks(file: BinaryIO, source: Path, wanted: Wanted) -> Iterator["pa.RecordBatch"]:
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError as error:
        raise DataError(f"{source}: CSV files are read with pyarrow: pip install 'feedline[arrow]'") from error
    types = dict.fromkeys(wanted.codes, pa.string()) | dict.fromkeys(wanted.floats, pa.float64())
    try:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=BLOCK_NBYTES),
            convert_options=csv.ConvertOptions(column_types=types),
        )
        _check_names(reader.schema.names, source, wanted)
        yield from reader
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{source}: {error}. If a column begins with whole numbers and has others later, name it with --float; "
            "text becomes numbers with --codes, or is left out with --drop"
        ) from error


def _check_names(names: list[str], source: Path, wanted: Wanted) -> None:
    said = [*wanted.codes, *wanted.floats, *wanted.drop, *([wanted.target] if wanted.target else [])]
    if unknown := [name for name in said if name not in names]:
        raise InvalidRequest(f"{source}: has no column {unknown[0]!r}; it has: {', '.join(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{source}: has several columns {twice[0]!r}; give each a name of its own in the first line")
    if strange := [name for name in names if name == IDS or "/" in name or not name or name.startswith(".")]:
        raise DataError(f"{source}: a column cannot be called {strange[0]!r}, columns become files; rename it")


def _arrays(
    block: "pa.RecordBatch", source: Path, before: int, wanted: Wanted, codes: Mapping[str, dict[str, int]]
) -> dict[str, Array]:
    """The block's columns by the names of their files."""
    named = {
        name: _array(column, f"{source}: column {name!r}", before, codes.get(name))
        for name, column in zip(block.schema.names, block.columns, strict=True)
        if name not in wanted.drop
    }
    if wanted.target is None:
        return named
    target = named.pop(wanted.target)
    if not named:
        raise DataError(f"{source}: has no column beside {wanted.target!r}; wanted inputs too")
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


# ---- writing ----


class Growing:
    """An `.npy` whose number of rows is known at its end; until then its name ends in `.part`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.with_suffix(".npy.part").open("wb")
        self._rows = 0
        self._first: Array | None = None

    def append(self, rows: Array) -> None:
        """Add rows of one dtype and shape."""
        if self._first is None:
            self._first = rows
            self._write_header()
        if rows.dtype != self._first.dtype:
            raise DataError(
                f"{self._path.stem}: is {rows.dtype} where it was {self._first.dtype}; read it with --float"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def finish(self) -> int:
        """Write the number of rows, have all of it on the disk, and give the file its name; the bytes of data."""
        assert self._first is not None
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.with_suffix(".npy.part").rename(self._path)
        return self._rows * (self._first.nbytes // len(self._first))

    def _write_header(self) -> None:
        assert self._first is not None
        # numpy leaves room for the first dimension to grow, so that both headers have one length.
        head: dict[str, Any] = npy_format.header_data_from_array_1_0(self._first)
        npy_format.write_array_header_1_0(self._file, head | {"shape": (self._rows, *self._first.shape[1:])})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
