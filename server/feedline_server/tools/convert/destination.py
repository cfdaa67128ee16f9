"""What a conversion writes: a folder of `.npy` columns, there whole or not at all.

Everything happens in a folder beside, which takes the destination's name at the very end. A column that lacks pieces
has another name, so no loader takes it for one.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.tensors import Array, Column

UNFINISHED = ".converting"
"""What the folder's name ends with until all is written."""

JOURNAL = "journal"
"""The file in it without which the work cannot go on where it was."""

PART = ".part"
"""What the name of a file ends with that has not all its pieces."""

COPIED_ROWS = 64
"""Rows that are copied at once: a usual batch."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did."""

    samples: int
    nbytes: int
    continued: int = 0
    """Samples that an earlier run, which was ended, had written."""
    bad: Mapping[int, str] = field(default_factory=dict)
    """Samples that cannot be read, and why: no view has them."""


@contextmanager
def unfinished(folder: Path, *, anew: bool) -> Iterator[Path]:
    """The folder that the work is done in; renamed to `folder`, which must not be there, where the context ends well.

    Where it ends otherwise, the folder stays if there is a journal in it, and is removed if not. `anew` empties it of
    what an earlier run left. Raises InvalidRequest if another process converts to it.
    """
    if folder.exists():
        raise InvalidRequest(f"{folder}: is there already; name a folder that is not, or move this one away")
    place = folder.with_name(folder.name + UNFINISHED)
    place.mkdir(parents=True, exist_ok=True)
    lock = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequest(f"{place}: another process is converting to it; wait for it, or end it") from error
        for old in place.iterdir() if anew else ():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        try:
            yield place
        except BaseException:
            if not (place / JOURNAL).exists():
                shutil.rmtree(place)
            raise
        os.rename(place, folder)  # noqa: PTH104 - takes no other folder's place
    finally:
        os.close(lock)


# ---- columns of a known length: written in any order, by several processes ----


def create(folder: Path, columns: Iterable[Column], samples: int) -> None:
    """Files of their final size and header for so many samples of each column; those that are there are replaced."""
    for column in columns:
        path = _part(folder, column.name)
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            npy_format.write_array_header_1_0(
                file, {"descr": column.dtype.str, "fortran_order": False, "shape": (samples, *column.shape)}
            )
            file.truncate(file.tell() + samples * column.row_nbytes)


def write(folder: Path, start: int, arrays: Mapping[str, Array]) -> None:
    """Put these samples, from number `start` on, into their files."""
    for name, array in arrays.items():
        memory = np.lib.format.open_memmap(_part(folder, name), mode="r+")
        memory[start : start + len(array)] = array
        del memory  # unmapped here, not at the next collection: a worker would grow by all that it wrote


def sync(folder: Path, names: Iterable[str]) -> None:
    """Blocks until everything written so far, by any process, is on the disk."""
    for name in names:
        with _part(folder, name).open("rb") as file:
            os.fsync(file.fileno())


def finish(folder: Path, names: Iterable[str], left_out: Collection[int]) -> None:
    """Give the files their names, without the rows that are left out: all pieces are there."""
    for name in names:
        path = _part(folder, name)
        if path.exists() and left_out:  # that of an earlier run that was ended is written anew
            _copy_without(left_out, path, copy := path.with_suffix(".left"))
            copy.rename(path.with_suffix(""))
            path.unlink()
        elif path.exists():
            path.rename(path.with_suffix(""))


def _copy_without(left_out: Collection[int], path: Path, copy: Path) -> None:
    rows = np.load(path, mmap_mode="r")
    kept = np.delete(np.arange(len(rows)), list(left_out))
    copied = npy_format.open_memmap(copy, mode="w+", dtype=rows.dtype, shape=(len(kept), *rows.shape[1:]))
    for start in range(0, len(kept), COPIED_ROWS):
        copied[start : start + COPIED_ROWS] = rows[kept[start : start + COPIED_ROWS]]
    copied.flush()


# ---- a column whose length is known at its end ----


class GrowingColumn:
    """An `.npy` that rows are appended to."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = _part(folder, name)
        self._file: BinaryIO = self._path.open("wb")
        self._rows = 0
        self._first: Array | None = None

    def append(self, rows: Array) -> None:
        """Add rows of one dtype and shape."""
        if self._first is None:
            self._first = rows
            self._write_header()
        if rows.dtype != self._first.dtype:
            name = self._path.name.removesuffix(f".npy{PART}")
            raise DataError(f"{name}: is {rows.dtype} where it was {self._first.dtype}; read it with --float")
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def finish(self) -> int:
        """Write the number of rows, wait until all is on the disk, and give the file its name; its data's bytes."""
        assert self._first is not None, "a column is finished after its first rows"
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.rename(self._path.with_suffix(""))
        return self._rows * (self._first.nbytes // len(self._first))

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _write_header(self) -> None:
        assert self._first is not None
        # numpy leaves room for the first dimension to grow, so that both headers have one length.
        head: dict[str, Any] = npy_format.header_data_from_array_1_0(self._first)
        npy_format.write_array_header_1_0(self._file, head | {"shape": (self._rows, *self._first.shape[1:])})


def _part(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy{PART}"
