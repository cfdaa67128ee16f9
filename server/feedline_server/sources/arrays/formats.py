"""Files with arrays in them, by their suffix: `.npy`, `.npz`, `.h5`, `.hdf5`."""

from collections.abc import Callable
from pathlib import Path

from feedline_server.declared.forms import ARRAYS, HDF5
from feedline_server.sources.arrays import npy, stamp
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import ArrayFile, Stored, check_name, check_rows
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array

ONLY = "x"
"""The name of an array that is alone in its file and has none there."""


class NpyFile(ArrayFile):
    """An `.npy`, as a file with one array in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = npy.opened(path)

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
        return Plain(stamp.of(self.path, self._file), "", self.header(name))

    def close(self) -> None:
        """See ArrayFile."""
        self._file.close()


def open_file(path: Path) -> ArrayFile:
    """The file, to be closed with `with`; DataError if it cannot be read or is of no kind known here."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return NpyFile(path)
    if suffix == ".npz":
        from feedline_server.sources.arrays.npz import NpzFile

        return NpzFile(path)
    if suffix in HDF5:
        from feedline_server.sources.arrays.hdf5 import H5File  # h5py takes 0.3 s to import, and may not be there

        return H5File(path)
    raise DataError(f"{path}: is a {suffix or 'file without a suffix'}; wanted one of {', '.join(ARRAYS)}")


def find_column(path: Path) -> Stored:
    """The array in an `.npy`, as the column of the file's name; DataError if it cannot be one."""
    check_name(path.stem, path)
    with NpyFile(path) as file:
        return check_rows(file.stored(ONLY))
