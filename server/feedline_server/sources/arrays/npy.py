"""What an `.npy` file says it holds, read without its data.

A file is believed only as far as its size allows, and nothing in it is ever unpickled. Every error names
the file, what was found and what was wanted.
"""

import math
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, wire_dtype

_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
"""Version 3.0 only differs for structured dtypes with names beyond Latin-1, which may not travel."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Header:
    """The array in a file: `offset` is where its data begins."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    def __str__(self) -> str:
        return f"{self.dtype}({', '.join(map(str, self.shape))})"

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def is_wire_order(self) -> bool:
        """The bytes lie as they travel: C order, little-endian."""
        return self.dtype == self.dtype.newbyteorder("<") and (not self.fortran or len(self.shape) <= 1)


@contextmanager
def reading(path: Path, wanted: str) -> Iterator[None]:
    """DataError, saying what was `wanted`, if what is done inside fails because the system cannot read something."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); wanted {wanted}") from error


def opened(path: Path, wanted: str = "an .npy file") -> BinaryIO:
    """The file, open for reading; DataError if it cannot be, or is no regular file."""
    with reading(path, wanted):
        # A named pipe would wait for who writes to it.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    try:
        check_regular(path, os.fstat(file.fileno()), wanted)
    except DataError:
        file.close()
        raise
    return file


def is_file(path: Path, suffixes: Collection[str]) -> bool:
    """Whether this is a file; DataError if it is named like one with such a suffix, and is a pipe or the like."""
    try:
        status = path.stat()
    except OSError:
        return False
    if path.suffix.lower() in suffixes and not stat.S_ISDIR(status.st_mode):
        check_regular(path, status, f"a file, as its name ends in {path.suffix}")
    return stat.S_ISREG(status.st_mode)


def check_regular(path: Path | str, status: os.stat_result, wanted: str) -> None:
    """DataError if this is no regular file: what is read from a pipe or a device is no sample, and may never come."""
    if not stat.S_ISREG(status.st_mode):
        what = next((name for kind, name in _KINDS.items() if stat.S_IFMT(status.st_mode) == kind), "no regular file")
        raise DataError(f"{path}: is {what}; wanted {wanted}, put a regular file there")


def read_header(file: IO[bytes], path: Path | str, end: int | None = None) -> Header:
    """The header where the file stands, checked against what follows; afterwards the file stands at the data.

    `end` is where the array must end at the latest; None: the file's end. `path` is for messages.
    """
    size = os.fstat(file.fileno()).st_size if end is None else end
    if size == file.tell():
        raise DataError(f"{path}: is empty (0 bytes); wanted an .npy file, save it again with numpy.save")
    with reading(Path(path), "the header of an .npy file"):
        start = file.read(npy_format.MAGIC_LEN)
    if start[: len(npy_format.MAGIC_PREFIX)] != npy_format.MAGIC_PREFIX:
        hint = "an .npz archive; save each array with numpy.save" if start[:2] == b"PK" else f"it begins with {start!r}"
        raise DataError(f"{path}: is not an .npy file ({hint})")
    version = tuple(start[len(npy_format.MAGIC_PREFIX) :])
    reader = _READERS.get(version)  # type: ignore[arg-type]  # two bytes, or fewer in a file that ends here
    if reader is None:
        raise DataError(f"{path}: is .npy version {version}; wanted 1.0 or 2.0, save it again with numpy.save")
    try:
        with reading(Path(path), "the header of an .npy file"):
            shape, fortran, dtype = reader(file)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # NumPy evaluates the header's text, and a damaged one fails in more ways than it documents
        raise DataError(f"{path}: its header is damaged ({error}); save the array again") from error
    header = Header(dtype, shape, fortran, file.tell())
    _check(header, path, size)
    return header


def read_array(file: BinaryIO, path: Path, header: Header) -> Array:
    """The whole array, from a file that stands at its data."""
    flat = np.fromfile(file, dtype=header.dtype, count=math.prod(header.shape))
    if flat.size < math.prod(header.shape):  # the file was cut since its header was checked
        raise DataError(f"{path}: ended after {flat.nbytes} of {header.nbytes} bytes of data")
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _check(header: Header, path: Path | str, size: int) -> None:
    if header.dtype.hasobject:
        raise DataError(
            f"{path}: holds Python objects, which are never unpickled; save numbers (numpy.save of a plain array)"
        )
    try:
        wire_dtype(header.dtype)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if any(length < 0 for length in header.shape):
        raise DataError(f"{path}: its header is damaged (shape {header.shape}); save the array again")
    found = size - header.offset
    if found < header.nbytes:
        raise DataError(
            f"{path}: is cut short, {found} bytes of data where {header} has {header.nbytes}; copy or save it again"
        )
