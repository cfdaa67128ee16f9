"""Files with arrays in them: `.npy`, `.npz`, HDF5."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from feedline_server.declared.forms import ARRAYS
from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stamp import Stamp
from feedline_server.sources.arrays.stored import ArrayFile, Stored, check_name, check_rows
from feedline_server.sources.arrays.suffixes import format_of
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array

ONLY = "x"
"""The name of an array that is alone in its file and has none there."""


class NpyFile(ArrayFile):
    """An `.npy`, as a file with one array in it."""

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        """`file` is the file, open; it becomes this object's."""
        self.path = path
        OPENING.note(str(path))
        self._file = file or npy.opened(path)

    @property
    def names(self) -> tuple[str, ...]:
        """See ArrayFile."""
        return (ONLY,)

    def header(self, name: str) -> npy.Header:
        """See ArrayFile."""
        if name != ONLY:
            raise DataError(f"{self.path}: has no array {name!r}; an .npy has one, which has no name")
        self._file.seek(0)
        return npy.read_header(self._file, self.path)

    def __contains__(self, name: str) -> bool:
        return name == ONLY

    def read(self, name: str, accept: Callable[[npy.Header], None]) -> Array:
        """See ArrayFile."""
        header = self.header(name)
        accept(header)
        return npy.read_array(self._file, self.path, header)

    def stored(self, name: str) -> Plain:
        """See ArrayFile."""
        return Plain(Stamp(self.path, self._file), "", self.header(name))

    def close(self) -> None:
        """See ArrayFile."""
        self._file.close()


def open_file(path: Path, file: BinaryIO | None = None) -> ArrayFile:
    """The file, to be closed with `with`; DataError if it cannot be read or is of no kind known here.

    `file` is the file, if it is open already; it is closed with it.
    """
    match format_of(path):
        case ".npy":
            return NpyFile(path, file)
        case ".npz":
            from feedline_server.sources.arrays.npz import NpzFile

            return NpzFile(path, file)
        case ".h5":
            from feedline_server.sources.arrays.hdf5 import H5File  # h5py takes 0.3 s to import, and may not be there

            return H5File(path, file)
        case suffix:
            raise DataError(f"{path}: is a {suffix or 'file without a suffix'}; wanted one of {', '.join(ARRAYS)}")


def find_column(path: Path, name: str) -> Stored:
    """The array in an `.npy`, as the column of this name; DataError if it cannot be one."""
    check_name(name, path)
    with NpyFile(path) as file:
        return check_rows(file.stored(ONLY))
