"""Columns: `.npy` files in a folder, one a column, memory-mapped; or sub-folders of them, one a view.

The law: nothing is read until it is gathered, and a gather copies from the page cache straight into the batch. A
file that changed since it was opened is an error, never another batch under the same key.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedline_server import machine
from feedline_server.declaration import ColumnsConfig
from feedline_server.sources import content, npy, stamp
from feedline_server.sources.concatenated import Concatenated
from feedline_server.sources.selection import declared, leaks
from feedline_server.sources.source import Opened, check_ids
from feedline_wire import IDS
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column, wire_dtype

EVERYTHING = "train"
"""The one view of a folder that says nothing about views."""

LOST = "lost+found"
"""What a file system keeps at its root; nobody but root can look into it, and a volume may be mounted right here."""

READ_AHEAD = 128 << 10
"""Bytes in a row. Linux reads so much ahead by default, and from about here that is the faster way (measured)."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """One column's file, mapped."""

    column: Column
    header: npy.Header
    array: Array
    stamp: stamp.Stamp

    def gather(self, ids: NDArray[np.int64], out: Array) -> None:
        """Write the rows `ids`, all of them in range, into `out`."""
        self.stamp.check()
        if self.header.is_wire_order and self.array.flags.aligned:
            # mode="clip" writes straight into `out`; the default goes through a temporary at half the speed.
            np.take(self.array, ids, axis=0, mode="clip", out=out)
        else:
            # np.take would first copy the whole column into C order; indexing touches only these rows.
            out[...] = self.array[ids]

    def content(self) -> Iterator[bytes]:
        """The header and what stands for the file's bytes."""
        header = self.header
        yield f"{self.column} stored as {header.dtype.str} fortran={header.fortran} {header.shape}".encode()
        with npy.opened(self.stamp.path) as file:
            yield from content.COLUMN.read(file)
        self.stamp.check()


class Columns:
    """Columns of one length in one folder."""

    def __init__(self, files: Mapping[str, Mapped]) -> None:
        self._files = files
        self.samples = next(iter(files.values())).header.shape[0]
        self.columns = tuple(file.column for file in files.values())

    def __repr__(self) -> str:
        return f"<Columns {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        for name, target in out.items():
            self._files[name].gather(ids, target)

    def content(self) -> Iterator[bytes]:
        """See Source."""
        for file in self._files.values():
            yield from file.content()


def open_columns(config: ColumnsConfig, *, checked: bool = False) -> Opened:
    """The folder's columns, with views as declared, or as its sub-folders are, or everything as one.

    `checked` leaves out what only makes notes. Raises DataError.
    """
    folder = config.path
    parts = column_folders(folder, tuple(config.views.values()))
    if not parts:
        raise DataError(
            f"{folder}: found no .npy file here or one folder down; wanted one a column, like x.npy and y.npy"
        )
    sources = [_open_folder(files) for files in parts.values()]
    source = sources[0] if len(sources) == 1 else _concatenated(folder, dict(zip(parts, sources, strict=True)))
    if config.views:
        views = {view: declared(view, text, source.samples, folder) for view, text in config.views.items()}
        return Opened(source, views, () if checked else tuple(leaks(views)))
    ends = np.cumsum([0, *(part.samples for part in sources)]).tolist()
    return Opened(
        source, {name or EVERYTHING: range(*place) for name, place in zip(parts, pairwise(ends), strict=True)}
    )


def column_folders(folder: Path, aside: tuple[str, ...] = ()) -> dict[str, list[Path]]:
    """The column files of each part: {"": files} of the folder itself, or {view: files} of its sub-folders.

    `train` comes first. Files named in `aside` are no columns. DataError if both could be meant.
    """
    try:
        children = sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child.name != LOST)
        own = _column_files(children, folder, aside)
        inside = {child.name: _column_files(child.iterdir(), folder, aside) for child in children if child.is_dir()}
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); wanted a folder of .npy files"
        ) from error
    inside = {name: files for name, files in inside.items() if files}
    names = {path.name for path in own}
    same = [name for name, files in inside.items() if names & {path.name for path in files}]
    if same:
        raise DataError(
            f"{folder}: the columns {_listed(names)} are here and also in {_listed(f'{name}/' for name in same)}; "
            "move away the ones that are not meant"
        )
    if own:
        return {"": own}
    return dict(sorted(inside.items(), key=lambda item: (item[0] != "train", item[0])))


def _column_files(entries: Iterable[Path], folder: Path, aside: tuple[str, ...]) -> list[Path]:
    apart = {folder / text for text in aside}
    return sorted(
        path
        for path in entries
        if path.suffix == ".npy" and not path.name.startswith(".") and path not in apart and path.is_file()
    )


def _open_folder(files: list[Path]) -> Columns:
    mapped = {path.stem: _map(path) for path in files}
    (first, *others) = mapped.values()
    for other in others:
        if other.header.shape[0] != first.header.shape[0]:
            raise DataError(
                f"{files[0].parent}: columns of different length, {first.stamp.path.name} has {first.header.shape[0]} "
                f"samples and {other.stamp.path.name} has {other.header.shape[0]}; wanted one row a sample in each"
            )
    return Columns(mapped)


def _map(path: Path) -> Mapped:
    if path.stem == IDS:
        raise DataError(f"{path}: {IDS} is the column of sample ids that every batch has; give the file another name")
    with npy.opened(path) as file:
        header = npy.read_header(file, path)
        found = stamp.of(path, file)
        if not header.shape:
            raise DataError(f"{path}: holds a single value; wanted an array with a row for every sample")
        if not header.shape[0]:
            raise DataError(f"{path}: has no samples, its shape is {header.shape}; wanted at least one row")
        if not header.nbytes:
            raise DataError(
                f"{path}: its samples hold no values, its shape is {header.shape}; wanted no dimension of size 0"
            )
        mapping = mmap.mmap(file.fileno(), header.offset + header.nbytes, access=mmap.ACCESS_READ)
    if reads_scattered(header, machine.memory_nbytes()):
        mapping.madvise(mmap.MADV_RANDOM)
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    array: Array = np.ndarray(header.shape, header.dtype, mapping, header.offset, order=order)
    return Mapped(Column(path.stem, wire_dtype(header.dtype), header.shape[1:]), header, array, found)


def reads_scattered(header: npy.Header, memory_nbytes: int) -> bool:
    """Whether the kernel should read single pages of a column instead of reading ahead.

    Reading ahead is best for what the page cache will hold in the end: it is full sooner. Of a larger file it brings
    mostly rows that are gone before they are asked for: shuffled cold rows of 4 KiB took 63 us each without it and
    3,500 us with it (256 rows of a 2 GiB file, read ahead of 8 MiB).
    """
    run = header.dtype.itemsize if header.fortran else header.nbytes // header.shape[0]
    return header.nbytes > memory_nbytes // 2 and run < READ_AHEAD


def _concatenated(folder: Path, parts: Mapping[str, Columns]) -> Concatenated:
    (first, one), *others = parts.items()
    for name, other in others:
        if other.columns != one.columns:
            raise DataError(
                f"{folder}: {first}/ has {_listed(one.columns)}, but {name}/ has {_listed(other.columns)}; "
                "give every sub-folder the same columns, or move away what is no view"
            )
    return Concatenated(parts)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, names)))
