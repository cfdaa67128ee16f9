"""The kind `arrow`: columns of Arrow and Parquet files, of one or of all in a folder; or of sub-folders, as views.

Folders `KEY=VALUE` are a column of numbers. Files may have their columns in any order, and no rows.

What lies plainly in a mapped file is copied from there; what must be decoded is decoded a group at a time, and
as many groups are kept as fit the bound of a process.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ArrowConfig
from feedline_server.declared.forms import ARROW
from feedline_server.host import machine
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.arrow import ArrowFile, Group, IpcFile, as_arrays, as_group, open_arrow_file
from feedline_server.sources.arrays.content import one_of
from feedline_server.sources.arrays.decompressed import DECODED, Arrays, Piece, key_of
from feedline_server.sources.arrays.mapped import ask_for, is_large, most_ahead, runs_of
from feedline_server.sources.arrays.resident import RESIDENT
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import check_name
from feedline_server.sources.arrays.suffixes import format_of, suffix_of
from feedline_server.sources.arrays.tabular import Tabular, tabular
from feedline_server.sources.files import hive
from feedline_server.sources.files.hive import PartFile, part_files
from feedline_server.sources.ragged import Ragged, joined, values_of
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import Opened, gathered
from feedline_server.sources.tables.concatenated import parts_of
from feedline_server.sources.tables.table import train_first, with_views
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Array, Column

VIEWS_KEPT = 1024
"""Groups of mapped files whose arrays are kept: they are views of some kilobytes, or bits of a megabyte, each."""

Rows = NDArray[np.int64]


class ArrowColumns:
    """Files with the same columns, laid end to end; `said` has columns with one value for all rows of each file."""

    def __init__(self, files: Sequence[ArrowFile], said: Mapping[str, NDArray[np.int64]], known: Tabular) -> None:
        self._files = files
        self._known = known
        self._said = said
        self._groups = [(file, number) for file in files for number in range(len(file.rows))]
        self._file_of = [place for place, file in enumerate(files) for _ in file.rows]
        self._starts = np.cumsum([0, *(rows for file in files for rows in file.rows)], dtype=np.int64)
        self.samples = int(self._starts[-1])
        self.columns = (*files[0].columns, *(Column(name, np.dtype("<i8"), ()) for name in said))
        as_served = (known.config.arrays, known.config.fill, known.config.units, known.names, known.sizes)
        self._keys = [key_of(file.stamp.version, file.columns, *as_served) for file in files]
        self._row_nbytes = sum(column.row_nbytes for column in files[0].columns if VARIES not in column.shape)
        self._is_shared = not any(VARIES in column.shape for column in files[0].columns)
        self._large = is_large(sum(file.stamp.size for file in files))
        nbytes = sum(file.stamp.size for file in files)
        is_read_ahead = self._large and any(map(_is_mapped, files))
        self.most_ahead = most_ahead(self.samples, nbytes, machine.memory_nbytes()) if is_read_ahead else 0
        self._mapped = lru_cache(VIEWS_KEPT)(self._load)

    def __repr__(self) -> str:
        return f"<ArrowColumns {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: Rows, out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        parts = list(parts_of(ids, self._starts))
        for place, rows, _ in parts:
            self._announce(place, rows, out)
        packed: list[Piece] = []
        for place, rows, places in parts:
            file, number = self._groups[place]
            file.check()
            if file.packed and self._is_shared:
                packed.append(
                    Piece(
                        self._key(place),
                        file.rows[number] * (self._row_nbytes + len(file.columns)),
                        partial(self._decode, place),
                        partial(self._take_decoded, place, rows, places, out),
                    )
                )
            else:
                self._take(self._group(place), place, rows, places, out)
                file.check()
        DECODED.use(packed)

    def _decode(self, place: int) -> Arrays:
        found = as_arrays(self._load(place))
        self._groups[place][0].check()  # before others may use it
        return found

    def _take_decoded(self, place: int, rows: Rows, places: Rows, out: Mapping[str, Array], arrays: Arrays) -> None:
        self._take(as_group(arrays), place, rows, places, out)

    def _take(self, group: Group, place: int, rows: Rows, places: Rows, out: Mapping[str, Array]) -> None:
        """Rows of a group to their places in a batch."""
        for name, target in out.items():
            if name in self._said:
                target[places] = self._said[name][self._file_of[place]]
                continue
            if name in group.missing and group.missing[name][rows].any():
                self._refuse(group.missing[name][rows], place, rows, name)
            target[places] = values_of(group.arrays[name])[rows]

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        return (file.stamp for file in self._files)

    def announce(self, ids: Rows, names: Collection[str]) -> None:
        """See Announcing."""
        for place, rows, _ in parts_of(ids, self._starts):
            self._announce(place, rows, names)

    def content(self) -> Iterator[bytes]:
        """See Source. How rows are grouped shows in the bytes; it is looked at as files, not as columns."""
        sampling = one_of(len(self._files))
        for file in self._files:
            with npy.opened(file.stamp.path, "the file that was there") as bytes_of:
                file.stamp.check(bytes_of.fileno())
                yield from sampling.read(bytes_of)
                file.stamp.check(bytes_of.fileno())
        for name, values in self._said.items():
            yield name.encode()
            yield values.astype("<i8").tobytes()
        # Which number a text has follows from all texts, and not all bytes are looked at.
        yield from (f"{name} {list(names)}".encode() for name, names in self._known.names.items())

    def _group(self, place: int) -> Group:
        """A group, of memory that nobody else writes to; BadSample if its bytes are damaged."""
        file, _ = self._groups[place]
        file.check()
        if not file.packed:
            return self._mapped(place)
        return as_group(DECODED.get(self._key(place), lambda: self._decode(place)))

    def _key(self, place: int) -> bytes:
        _, number = self._groups[place]
        return key_of(self._keys[self._file_of[place]], number)

    def _load(self, place: int) -> Group:
        file, number = self._groups[place]
        try:
            return file.group(number)
        except DataError as error:
            if error.elsewhere:  # the file changed, and others may have the one that was here
                raise
            samples = range(int(self._starts[place]), int(self._starts[place + 1]))
            raise BadSample(f"samples {samples.start}..{samples.stop - 1}: {error}", samples=samples) from error

    def _announce(self, place: int, rows: Rows, names: Iterable[str]) -> None:
        """Have the kernel read what is mapped and wanted, before any of it is waited for."""
        file, _ = self._groups[place]
        if not self._large or not _is_mapped(file):
            return
        group = self._group(place)
        for name in names:
            if name in self._said:
                continue
            array = values_of(group.arrays[name])
            row_nbytes = array.nbytes // len(array)
            if (offset := file.offset(array)) is not None:
                runs = runs_of(rows)
                ask_for(file.mapping, offset, row_nbytes, runs)
                RESIDENT.touched(file.mapping, len(rows) * row_nbytes, len(runs))

    def _refuse(self, missing: Array, place: int, rows: Rows, name: str) -> None:
        samples = (rows[missing] + self._starts[place]).tolist()
        what = "null"
        if name in self._known.names:
            what = f"null, or none of the {len(self._known.names[name])} texts that codes names"
        elif name in self._known.sizes:
            what = "null, or a list of another length than the others"
        raise BadSample(
            f"sample {samples[0]} has no value ({what}) in the column {name!r} of "
            f"{self._groups[place][0].stamp.path}; fill it (fill = {{{name} = …}}), or leave the sample out of views",
            samples=samples,
        )


class ArrowSequences(ArrowColumns):
    """The same with columns of lists that differ in length: a RaggedSource."""

    @property
    def _varying(self) -> list[str]:
        return [column.name for column in self.columns if column.shape[:1] == (VARIES,)]

    @property
    def longest(self) -> Mapping[str, int]:
        """See RaggedSource: as far as the first group of each file shows."""
        firsts = [self._group(self._file_of.index(place)) for place in range(len(self._files))]
        return {name: max(_lists(group, name).longest for group in firsts) for name in self._varying}

    def lengths(self, ids: Rows) -> Rows:
        """See RaggedSource: of the longest list of each."""
        check_ids(ids, self.samples)
        found = np.zeros(len(ids), np.int64)
        for place, rows, places in parts_of(ids, self._starts):
            group = self._group(place)
            found[places] = np.max([_lists(group, name).lengths[rows] for name in self._varying], axis=0)
        return found

    def read(self, ids: Rows) -> dict[str, Array | Ragged]:
        """See RaggedSource."""
        check_ids(ids, self.samples)
        varying = self._varying
        single = [column for column in self.columns if column.name not in varying]
        lists: dict[str, list[Array]] = {name: [np.empty(0)] * len(ids) for name in varying}
        for place, rows, places in parts_of(ids, self._starts):
            group = self._group(place)
            for name in varying:
                if name in group.missing and group.missing[name][rows].any():
                    self._refuse(group.missing[name][rows], place, rows, name)
                found = _lists(group, name)
                for at, row in zip(places.tolist(), rows.tolist(), strict=True):
                    lists[name][at] = found[row]
            self._groups[place][0].check()
        return {**gathered(self, ids, single), **{name: joined(of) for name, of in lists.items()}}


def _lists(group: Group, name: str) -> Ragged:
    found = group.arrays[name]
    assert isinstance(found, Ragged), "what varies is read as lists"
    return found


def _is_mapped(file: ArrowFile) -> TypeGuard[IpcFile]:
    """Whether columns are views of the file."""
    return isinstance(file, IpcFile) and not file.packed


def opened(config: ArrowConfig) -> Opened:
    """The columns of all files that are meant, with views as declared, or as the sub-folders are. Raises DataError."""
    parts = arrow_files(config.path)
    files = [file for part in parts.values() for file in part]
    keys = set().union(*(file.keys for file in files))
    left = sorted(keys - set(config.drop))
    named = {key: key for key in left} if config.arrays is None else config.arrays
    in_file = config.arrays and {column: name for column, name in config.arrays.items() if name not in keys}
    _check_drop(config, keys)
    tables = [open_arrow_file(file.path, in_file, config.drop) for file in files]
    known = tabular(tables, config)
    for table in tables:
        table.serve(known.forms(table))
    for file, table in zip(files, tables, strict=True):
        _check_alike(table, file.path, tables[0], files[0].path)
    said = hive.values_of(files, [name for name in named.values() if name in keys])
    of_folders = {column: said[name] for column, name in named.items() if name in said}
    for name in [column.name for column in tables[0].columns] + list(of_folders):
        check_name(name, files[0].path)
    if both := [column.name for column in tables[0].columns if column.name in of_folders]:
        raise DataError(
            f"{files[0].path}: has a column {both[0]!r}, and so say its folders; rename the folders, or choose the "
            "columns that are meant with arrays"
        )
    full = [place for place, table in enumerate(tables) if sum(table.rows)]
    if not full:
        raise DataError(f"{config.path}: has no rows; wanted at least one")
    varies = any(column.shape[:1] == (VARIES,) for column in tables[0].columns)
    source = (ArrowSequences if varies else ArrowColumns)(
        [tables[place] for place in full],
        {column: values.of_file[full] for column, values in of_folders.items()},
        known,
    )
    folder = config.path if config.path.is_dir() else config.path.parent
    counts = iter(sum(table.rows) for table in tables)
    rows = {name: sum(next(counts) for _ in part) for name, part in parts.items()}
    if empty := [name for name, count in rows.items() if not count]:
        raise DataError(f"{config.path}: view {empty[0]!r} has no rows; give it some or remove it")
    found = with_views(source, rows, config.views, folder)
    return replace(
        found,
        notes=lambda: (*_notes(tables), *found.notes()),
        files=[file.path for file in files],
        categories={**{column: of.names for column, of in of_folders.items() if of.names}, **known.names},
        missing=missing_values(tables, config),
    )


def missing_values(tables: Sequence[ArrowFile], config: ArrowConfig) -> Mapping[str, int]:
    """How many rows have no value in each column, as far as the files say it, but for what is filled."""
    counts = {
        column.name: sum(table.nulls(column.name) for table in tables)
        for column in tables[0].columns
        if column.name not in config.fill
    }
    return {name: count for name, count in counts.items() if count}


def _check_drop(config: ArrowConfig, keys: Collection[str]) -> None:
    """DataError if a column is dropped that no file has."""
    if config.drop:
        (first, *_), *_ = arrow_files(config.path).values()
        there = {*open_arrow_file(first.path, None, ()).kinds, *keys}
        if unknown := [name for name in config.drop if name not in there]:
            raise DataError(f"{first.path}: has no column {unknown[0]!r} to drop; it has {listed(sorted(there))}")


def arrow_files(path: Path) -> dict[str, list[PartFile]]:
    """The files of each part: {"": the path itself, or the files in it}, or {view: the files of its sub-folder}."""
    if not path.is_dir():
        return {"": [PartFile(path, {})]}
    if own := list(part_files(path, _is_part)):
        return {"": own}
    folders = [child for child in path.iterdir() if child.is_dir() and child.name[0] != "."]
    inside = {folder.name: list(part_files(folder, _is_part)) for folder in folders}
    parts = train_first({name: files for name, files in inside.items() if files})
    if not parts:
        raise DataError(f"{path}: found no {', '.join(ARROW)} file here or one folder down")
    return parts


def _is_part(path: Path) -> bool:
    """Not what Spark writes beside its parts, such as _metadata, which has no suffix."""
    hidden = path.name.startswith(".") or (path.name.startswith("_") and not path.suffix)
    tells = not hidden and (suffix_of(path.name) in {"", ".arrow", ".parquet"})  # not every image is looked at
    return tells and npy.is_file(path, ARROW) and format_of(path) in {".arrow", ".parquet"}


def _check_alike(table: ArrowFile, path: Path, first: ArrowFile, first_path: Path) -> None:
    """DataError naming a column that one file has and the other has not, or has otherwise."""
    mine, others = ({column.name: column for column in one.columns} for one in (table, first))
    for name in (*others, *mine):
        if mine.get(name) != others.get(name):
            raise DataError(
                f"{path}: {_has(mine, name)}, but {first_path} {_has(others, name)}; give all files the same columns, "
                "or choose some with arrays"
            )


def _has(columns: Mapping[str, Column], name: str) -> str:
    return f"has {columns[name]}" if name in columns else f"has no column {name!r}"


def _notes(files: Sequence[ArrowFile]) -> Iterator[str]:
    yield from dict.fromkeys(form.note for file in files for form in file.forms.values() if form.note)
    packed = [file for file in files if file.packed]
    row_nbytes = sum(column.row_nbytes for column in files[0].columns if VARIES not in column.shape)
    nbytes = sum(sum(file.rows) for file in packed) * row_nbytes
    if nbytes > DECODED.shared_nbytes(machine.cores()):
        most = max(max(file.rows, default=0) for file in packed)
        yield (
            f"{packed[0].stamp.path}{f' and {len(packed) - 1} more' if len(packed) > 1 else ''}: {nbytes >> 20} MiB in "
            f"row groups of up to {most} rows, {DECODED.cost(most, most * row_nbytes)}"
        )
