"""The arrays of an `.npz`: those stored as they are lie plainly in the file, compressed ones are decompressed whole.

An archive is a directory of byte ranges and no more. Nothing is extracted, and no name in it is ever a path.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from feedline_server.host import machine
from feedline_server.sources.arrays import npy, stamp
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.decompressed import DECODED, Arrays, Piece, key_of
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import ArrayFile, Rows, Stored
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import Array

LOCAL_HEADER = 30
"""Bytes before a member's name and extra field, whose lengths stand at 26 and 28 (PKWARE's APPNOTE 4.3.7). The
directory at the archive's end tells lengths too, but an extra field may have another one there."""

ENCRYPTED = 1
"""The bit of a member's flags."""

SUFFIX = ".npy"

STEP_NBYTES = 256 << 10
"""Decompressed at once: what a member's file gives in one piece is put together of all before, and copied then."""


class NpzFile(ArrayFile):
    """An `.npz`, open. A member's checksum is compared when it is read as a whole, not when it is mapped."""

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        """`file` is the file, open; it becomes this object's."""
        self.path = path
        self._file, self._stamp = stamp.opened(path, "an .npz file", file)
        try:
            self._archive = self._opened()
            self._members = self._checked()
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """See ArrayFile."""
        return tuple(sorted(self._members))

    def header(self, name: str) -> npy.Header:
        """See ArrayFile. The offset is one in the archive; of a compressed member, one in what it holds."""
        info = self._member(name)
        if info.compress_type == zipfile.ZIP_STORED:
            start = self._start(info)
            self._file.seek(start)
            return npy.read_header(self._file, self.named(name), min(start + info.file_size, self._stamp.size))
        with self._unpacking(name) as file:
            return npy.read_header(file, self.named(name), info.file_size)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, accept: Callable[[npy.Header], None]) -> Array:
        """See ArrayFile."""
        with self._unpacking(name) as file:
            header = npy.read_header(file, self.named(name), self._member(name).file_size)
            accept(header)
            data = np.empty(header.nbytes, np.uint8)
            got = _filled(data.data, file)
            data.flags.writeable = False
            file.read(1)  # the checksum is compared at the end, which may be one step further
        if got < header.nbytes:
            raise DataError(f"{self.named(name)}: ended after {got} of {header.nbytes} bytes of data")
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        return np.ndarray(header.shape, header.dtype, data, order=order)

    def stored(self, name: str) -> "Plain | Deflated":
        """See ArrayFile."""
        info, header = self._member(name), self.header(name)
        if info.compress_type == zipfile.ZIP_STORED:
            return Plain(self._stamp, name, header)
        if header.nbytes > DECODED.limit:
            raise DataError(
                f"{self.named(name)}: is compressed and takes {header.nbytes >> 20} MiB of memory, more than the "
                f"{DECODED.limit >> 20} MiB that a worker keeps; save the arrays with numpy.savez, without _compressed"
            )
        return Deflated(self._stamp, name, header, info.CRC)

    def close(self) -> None:
        """See ArrayFile."""
        self._file.close()

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except Exception as error:  # a damaged directory fails in more ways than zipfile documents
            raise DataError(f"{self.path}: is cut short or no .npz file ({error}); copy or save it again") from error

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        members = [info for info in self._archive.infolist() if info.filename.endswith(SUFFIX)]
        twice = [name for name, count in Counter(info.filename for info in members).items() if count > 1]
        if twice:
            raise DataError(f"{self.path}: has two members named {twice[0]!r}; save it again with numpy.savez")
        locked = [info.filename for info in members if info.flag_bits & ENCRYPTED]
        if locked:
            raise DataError(f"{self.path}: member {locked[0]!r} is encrypted; save it again with numpy.savez")
        return {info.filename.removesuffix(SUFFIX): info for info in members}

    def _member(self, name: str) -> zipfile.ZipInfo:
        found = self._members.get(name)
        if found is None:
            raise DataError(f"{self.path}: has no array {name!r}; it has {listed(self.names)}")
        return found

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin in the archive."""
        self._file.seek(info.header_offset)
        local = self._file.read(LOCAL_HEADER)
        if len(local) < LOCAL_HEADER or local[:4] != b"PK\x03\x04":
            raise DataError(
                f"{self.path}: member {info.filename!r} is not where the directory says; copy or save it again"
            )
        name, extra = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
        return info.header_offset + LOCAL_HEADER + name + extra

    @contextmanager
    def _unpacking(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._archive.open(self._member(name)) as file:
                yield file
        except DataError:
            raise
        except Exception as error:  # as many ways as there are methods of compression
            raise DataError(f"{self.named(name)}: is damaged ({error}); copy or save it again") from error


def _filled(memory: memoryview, file: IO[bytes]) -> int:
    """Fill it from a file; how many bytes were there."""
    got = 0
    while got < len(memory) and (data := file.read(min(STEP_NBYTES, len(memory) - got))):
        memory[got : got + len(data)] = data
        got += len(data)
    return got


@dataclass(frozen=True, slots=True)
class Deflated(Stored):
    """A compressed array of an archive, which can only be read as a whole."""

    crc: int

    @property
    def cost(self) -> str:
        """What the operator should know."""
        return (
            "compressed: all of an array is decompressed to read any row of it, and the workers keep "
            f"{DECODED.shared_nbytes(machine.cores()) >> 20} MiB of such; `feedline convert` writes columns that are "
            "read where they lie, and numpy.savez archives that are"
        )

    def open(self, *, large: bool) -> "Inflated":
        """The array, decompressed when it is first read from."""
        return Inflated(self)

    def content(self, sampling: Sampling) -> Iterator[bytes]:
        """The form and the archive's checksum of all bytes."""
        yield f"{self.header.dtype.str} fortran={self.header.fortran} {self.header.shape} crc {self.crc}".encode()


class Inflated(Rows):
    """A compressed array that is open: read as a whole, and kept."""

    def __init__(self, array: Deflated) -> None:
        self._of = array
        self._key = key_of(array.stamp.version, array.member, array.crc)

    def gather(self, rows: NDArray[np.int64], out: Array) -> None:
        """See Rows."""

        def use(arrays: Arrays) -> None:
            out[...] = arrays[""][rows]

        try:
            DECODED.use([Piece(self._key, self._of.header.nbytes, self._decode, use)])
        except DataError as error:
            if error.elsewhere:  # the file changed, and others may have the one that was here
                raise
            raise BadSample(str(error), samples=rows) from error

    def _decode(self) -> Arrays:
        with npy.opened(self._of.stamp.path, "the file that was there") as file:
            self._of.stamp.check(file.fileno())
            found = NpzFile(self._of.stamp.path, file).read(self._of.member, lambda header: None)
            self._of.stamp.check(file.fileno())
        return {"": found}
