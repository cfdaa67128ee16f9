"""`.npy` files that are written in pieces, in any order, by several processes.

The law: a file has its final size and header from the start, so a piece goes to its own place whoever writes it; and it
is called otherwise until all pieces are there.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from feedline_wire.tensors import Array, Column

PART = ".part"
"""What the name of a file ends with that has not all its pieces: no loader takes it for a column."""


def create(folder: Path, columns: Iterable[Column], samples: int) -> None:
    """Files for so many samples of each column; what is there already is replaced."""
    for column in columns:
        path = _path(folder, column.name)
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            npy_format.write_array_header_1_0(
                file, {"descr": column.dtype.str, "fortran_order": False, "shape": (samples, *column.shape)}
            )
            file.truncate(file.tell() + samples * column.row_nbytes)


def write(folder: Path, start: int, arrays: Mapping[str, Array]) -> None:
    """Put these samples, from number `start` on, into their files."""
    for name, array in arrays.items():
        memory = np.lib.format.open_memmap(_path(folder, name), mode="r+")
        memory[start : start + len(array)] = array
        del memory  # unmapped here, not at the next collection: a worker would grow by all that it wrote


def sync(folder: Path, names: Iterable[str]) -> None:
    """Have on the disk what was written by now, by whomever."""
    for name in names:
        descriptor = os.open(_path(folder, name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def finish(folder: Path, names: Iterable[str]) -> None:
    """Give the files their names: all pieces are there."""
    for name in names:
        path = _path(folder, name)
        if path.exists():
            path.rename(path.with_suffix(""))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy{PART}"
