"""The kind `arrow`: columns of Arrow and Parquet files, of one or of all in a folder; or of sub-folders, as views.

What lies plainly in a mapped file is copied from there; what must be decoded is decoded a group at a time, and
as many groups are kept as fit the bound of a process.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ArrowConfig
from feedline_server.declared.forms import ARROW
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.arrow import ArrowFile, Group, IpcFile, open_arrow_file
from feedline_server.sources.arrays.content import one_of
from feedline_server.sources.arrays.decompressed import DECODED
from feedline_server.sources.arrays.mapped import ahead_nbytes, ask_for, is_large, runs_of
from feedline_server.sources.arrays.resident import RESIDENT
from feedline_server.sources.arrays.stored import check_name
from feedline_server.sources.source import Opened, check_ids
from feedline_server.sources.tables.concatenated import parts_of
from feedline_server.sources.tables.table import train_first, with_views
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import Array

VIEWS_KEPT = 1024
"""Groups of mapped files whose arrays are kept: they are views of some kilobytes, or bits of a megabyte, each."""

Rows = NDArray[np.int64]


class ArrowColumns:
    """Files with the same columns, laid end to end."""

    def __init__(self, files: Sequence[ArrowFile]) -> None:
        self._files = files
        self._groups = [(file, number) for file in files for number in range(len(file.rows))]
        self._starts = np.cumsum([0, *(rows for file in files for rows in file.rows)], dtype=np.int64)
        self.samples = int(self._starts[-1])
        self.columns = files[0].columns
        self._large = is_large(sum(file.stamp.size for file in files))
        nbytes = sum(file.stamp.size for file in files)
        ahead = ahead_nbytes(large=self._large and any(map(_is_mapped, files)))
        self.most_ahead = self.samples * ahead // nbytes
        self._mapped = lru_cache(VIEWS_KEPT)(self._load)

    def __repr__(self) -> str:
        return f"<ArrowColumns {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: Rows, out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        parts = list(parts_of(ids, self._starts))
        for place, rows, _ in parts:
            self._announce(place, rows, out)
        for place, rows, places in parts:
            group = self._group(place)  # one at a time: a batch may have a row of each of many decoded ones
            for name, target in out.items():
                if name in group.missing and group.missing[name][rows].any():
                    self._refuse(group.missing[name][rows], place, rows, name)
                target[places] = group.arrays[name][rows]

    def announce(self, ids: Rows, names: Collection[str]) -> None:
        """See Announcing."""
        for place, rows, _ in parts_of(ids, self._starts):
            self._announce(place, rows, names)

    def content(self) -> Iterator[bytes]:
        """See Source. How rows are grouped shows in the bytes; it is looked at as files, not as columns."""
        sampling = one_of(len(self._files))
        for file in self._files:
            with npy.opened(file.stamp.path, "the file that was there") as bytes_of:
                yield from sampling.read(bytes_of)
            file.stamp.check()

    def _group(self, place: int) -> Group:
        """A group's arrays; BadSample if its bytes are damaged, DataError if its file changed."""
        file, number = self._groups[place]
        file.stamp.check()
        if file.packed:
            return DECODED.get((file.stamp, number, file.columns), lambda: self._load(place))
        return self._mapped(place)

    def _load(self, place: int) -> Group:
        file, number = self._groups[place]
        try:
            return file.group(number)
        except DataError as error:
            samples = range(int(self._starts[place]), int(self._starts[place + 1]))
            raise BadSample(f"samples {samples.start}..{samples.stop - 1}: {error}", samples=samples) from error

    def _announce(self, place: int, rows: Rows, names: Iterable[str]) -> None:
        """Have the kernel read what is mapped and wanted, before any of it is waited for."""
        file, _ = self._groups[place]
        if not self._large or not _is_mapped(file):
            return
        group = self._group(place)
        for name in names:
            array = group.arrays[name]
            row_nbytes = array.nbytes // len(array)
            if (offset := file.offset(array)) is not None:
                runs = runs_of(rows)
                ask_for(file.mapping, offset, row_nbytes, runs)
                RESIDENT.touched(file.mapping, len(rows) * row_nbytes, len(runs))

    def _refuse(self, missing: Array, place: int, rows: Rows, name: str) -> None:
        samples = (rows[missing] + self._starts[place]).tolist()
        raise BadSample(
            f"sample {samples[0]} has no value (null) in the column {name!r} of {self._groups[place][0].stamp.path}; "
            "fill it, or leave the sample out of the view",
            samples=samples,
        )


def _is_mapped(file: ArrowFile) -> TypeGuard[IpcFile]:
    """Whether columns are views of the file."""
    return isinstance(file, IpcFile) and not file.packed


def opened(config: ArrowConfig) -> Opened:
    """The columns of all files that are meant, with views as declared, or as the sub-folders are. Raises DataError."""
    parts = arrow_files(config.path)
    files = {path: open_arrow_file(path, config.arrays) for paths in parts.values() for path in paths}
    (first, one), *others = files.items()
    for path, file in others:
        if file.columns != one.columns:
            raise DataError(
                f"{path}: has {listed(list(map(str, file.columns)))}, but {first} has "
                f"{listed(list(map(str, one.columns)))}; give all files the same columns, or choose some with arrays"
            )
    for column in one.columns:
        check_name(column.name, first)
    source = ArrowColumns(list(files.values()))
    folder = config.path if config.path.is_dir() else config.path.parent
    rows = {name: sum(sum(files[path].rows) for path in paths) for name, paths in parts.items()}
    found = with_views(source, rows, config.views, folder)
    return replace(found, notes=lambda: (*_notes(list(files.values())), *found.notes()))


def arrow_files(path: Path) -> dict[str, list[Path]]:
    """The files of each part: {"": the path itself, or the files in it}, or {view: the files of its sub-folder}."""
    if not path.is_dir():
        return {"": [path]}
    own = _files_in(path)
    if own:
        return {"": own}
    inside = {child.name: _files_in(child) for child in path.iterdir() if child.is_dir() and child.name[0] != "."}
    parts = train_first({name: files for name, files in inside.items() if files})
    if not parts:
        raise DataError(f"{path}: found no {', '.join(ARROW)} file here or one folder down")
    return parts


def _files_in(folder: Path) -> list[Path]:
    with npy.reading(folder, "a folder of files"):
        return sorted(one for one in folder.iterdir() if one.suffix.lower() in ARROW and one.name[0] != ".")


def _notes(files: Sequence[ArrowFile]) -> Iterator[str]:
    packed = [file for file in files if file.packed]
    row_nbytes = sum(column.row_nbytes for column in files[0].columns)
    nbytes = sum(sum(file.rows) for file in packed) * row_nbytes
    if nbytes > DECODED.limit:
        most = max(max(file.rows) for file in packed)
        yield (
            f"{packed[0].stamp.path}{f' and {len(packed) - 1} more' if len(packed) > 1 else ''}: "
            f"row groups are decoded whole to read one row (up to {most} rows, {most * row_nbytes >> 20} MiB), "
            f"and a worker keeps {DECODED.limit >> 20} of {nbytes >> 20} MiB; "
            "write them as uncompressed Arrow files, or in smaller groups"
        )
