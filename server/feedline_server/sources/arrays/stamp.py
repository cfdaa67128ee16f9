"""Whether files are still what they were when the loader opened them.

What a file was takes 40 bytes: size, inode, modification and change time, and a digest of its content. A loader's front
process writes it down once, and its workers compare with the same, whenever they open a file. It is compared on the
open descriptor before and after a file is read, so nothing of another version leaves the loader. Times say only that
this host's file may have changed while it is served; a dataset's identity never depends on them.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np

from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.content import COLUMN, WHOLE, Sampling, one_of
from feedline_wire.errors import DataError

_RECORD = struct.Struct("<qQqqQ")

NBYTES = _RECORD.size

_CONTENT = struct.calcsize("<qQqq")
"""Where in a record the digest is."""

REMEDY = "run `feedline reload` to serve the files as they are now, or restart the loader"


class Stamps:
    """What `count` files were, by number. Where nothing was remembered, a file is what it is when it is first read."""

    def __init__(self, count: int, sampling: Sampling = WHOLE) -> None:
        self.count = count
        self._sampling = sampling
        """Of a file's content, what the digest is of."""
        self._records: memoryview | bytearray = bytearray()
        self._is_complete = False
        self._trusts_times = False

    def file(self, number: int) -> str:
        """The file, for a message."""
        raise NotImplementedError

    def sample_as_one_of(self, files: int) -> None:
        """The dataset has so many files that are not read whole."""

    def remember(self, *, trusts_times: bool) -> None:
        """Write down what all files are now."""
        self._is_complete, self._trusts_times = True, trusts_times

    def share(self, records: memoryview) -> None:
        """Keep the records in this memory, which other processes have too."""
        records[:] = self._own()
        self._records = records

    def adopt(self, records: memoryview, *, trusts_times: bool) -> None:
        """Compare with the records of the process that has remembered. DataError if a file was another one there."""
        self._records, self._is_complete, self._trusts_times = records, True, trusts_times

    def is_same(self, number: int, status: os.stat_result) -> bool:
        """Whether a file is what it was. False: only its times differ, so `settle` decides. DataError: it is not."""
        size, inode, mtime_ns, ctime_ns, digest = self._record(number)
        now = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        if now == (size, inode, mtime_ns, ctime_ns):
            return True
        if not inode:
            if self._is_complete:
                raise self.changed(number, "it was not there when the dataset was opened")
            self._write(number, status, 0)
            return True
        if self._trusts_times and now[::2] == (size, mtime_ns):
            return True
        if inode != status.st_ino:
            raise self.changed(number, "another file took its place")
        if size != status.st_size:
            raise self.changed(number, f"it was {size} bytes and is {status.st_size}")
        if mtime_ns != status.st_mtime_ns and (size > self._sampling.whole or not digest):
            raise self.changed(number, "it was written to, or touched and never read whole before")
        if not digest:
            raise self.changed(
                number,
                "its status changed and it was never read before; if a chmod or a hard link is all that happens to the "
                'files, say trust = "size+mtime" for the dataset',
            )
        return False

    def settle(self, number: int, status: os.stat_result, digest: int) -> None:
        """The file has this content now. DataError if that is another than before."""
        known = self._record(number)[-1]
        if known and known != digest:
            raise self.changed(number, "its content is another")
        self._write(number, status, digest)

    def has_read(self, number: int, before: os.stat_result, fd: int, *content: bytes | bytearray | memoryview) -> None:
        """It was read since `before`, of which `is_same` was asked; `content` is all of it, or nothing.

        DataError if it is not what it was, or was written to meanwhile.
        """
        record = self._record(number)
        is_known = record[-1] and record[1:4] == (before.st_ino, before.st_mtime_ns, before.st_ctime_ns)
        digest = 0 if is_known else digest_of(content or self._sampling.pieces(fd, before.st_size))
        if _identity(after := os.fstat(fd)) != _identity(before):
            raise self.changed(number, "it was written to while it was read")
        if digest:
            self.settle(number, after, digest)

    def is_of(self, other: "Stamps") -> bool:
        """It has the records of the other, whatever was read of the files."""
        if self.count != other.count or self.file(0) != other.file(0):
            return False
        mine, theirs = (np.frombuffer(one._own(), np.uint64).reshape(-1, 5)[:, :4] for one in (self, other))
        return bool((mine == theirs).all())

    def changed(self, number: int, how: str) -> DataError:
        """The error of a file that is not what it was."""
        # A loader with a copy of its own still has what is served.
        return DataError(f"{self.file(number)}: changed while served ({how}); {REMEDY}", elsewhere=True)

    def _was(self, number: int) -> bool:
        """There was such a file."""
        return self._record(number)[1] != 0

    def _record(self, number: int) -> tuple[int, int, int, int, int]:
        return _RECORD.unpack_from(self._records or self._own(), number * NBYTES)

    def _own(self) -> memoryview | bytearray:
        if not self._records:
            self._records = bytearray(self.count * NBYTES)
        return self._records

    def _write(self, number: int, status: os.stat_result, digest: int) -> None:
        _RECORD.pack_into(
            self._own(),
            number * NBYTES,
            status.st_size,
            status.st_ino,
            status.st_mtime_ns,
            status.st_ctime_ns,
            digest,
        )


class Stamp(Stamps):
    """What one file was. Of a large one the digest is of some blocks: of those that stand for it in a fingerprint."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(1, COLUMN)
        self.path = path
        status = os.fstat(file.fileno())
        self.size = status.st_size
        self._write(0, status, 0)

    def __repr__(self) -> str:
        return f"<Stamp {self.path} {self.size} bytes>"

    @property
    def version(self) -> tuple[str, int, int, int]:
        """Path, size, inode and modification time: what tells a file from others and from what it was."""
        return (str(self.path), *self._record(0)[:3])

    def file(self, number: int = 0) -> str:
        """See Stamps."""
        return str(self.path)

    def sample_as_one_of(self, files: int) -> None:
        """See Stamps."""
        self._sampling = one_of(files)

    def remember(self, *, trusts_times: bool) -> None:
        """See Stamps."""
        super().remember(trusts_times=trusts_times)
        OPENING.note(str(self.path))
        with npy.opened(self.path, "the file that was there") as file:
            before = os.fstat(file.fileno())
            self.is_same(0, before)
            self.has_read(0, before, file.fileno())

    def adopt(self, records: memoryview, *, trusts_times: bool) -> None:
        """See Stamps."""
        found = bytes(self._records[:_CONTENT])
        super().adopt(records, trusts_times=trusts_times)
        if found != records[:_CONTENT]:
            with npy.opened(self.path, "the file that was there") as file:
                self.check(file.fileno())

    def check(self, fd: int) -> None:
        """DataError if this open file is not what it was. Asked before and after it is read.

        A mapping of a file that was cut ends the process (SIGBUS) when it is read.
        """
        status = os.fstat(fd)
        if not self.is_same(0, status):
            self.settle(0, status, digest_of(self._sampling.pieces(fd, status.st_size)))


def opened(path: Path, wanted: str, file: BinaryIO | None = None) -> tuple[BinaryIO, Stamp]:
    """The file, open for reading, and its stamp; DataError, saying what was `wanted`, if it is not there or empty.

    `file` is the file, if it is open already.
    """
    OPENING.note(str(path))
    file = file or npy.opened(path, wanted)
    found = Stamp(path, file)
    if not found.size:
        file.close()
        raise DataError(f"{path}: is empty (0 bytes); wanted {wanted}, write it again")
    return file, found


def digest_of(content: Iterable[bytes | bytearray | memoryview]) -> int:
    """Eight bytes that tell contents of one size apart, never 0.

    Two checksums that no accident deceives together: 2 GB/s, where a cryptographic hash has 0.4.
    """
    crc, adler = 0, 1
    for piece in content:
        crc, adler = zlib.crc32(piece, crc), zlib.adler32(piece, adler)
    return (crc << 32 | adler) or 1


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def are_same(files: Iterable[Stamps], others: Iterable[Stamps]) -> bool:
    """Whether two openings of a dataset found the very same files, in the same places."""
    pairs = list(zip_longest(files, others))
    return all(one is not None and other is not None and one.is_of(other) for one, other in pairs)


def remember(files: Iterable[Stamps], *, trusts_times: bool) -> tuple[Stamps, ...]:
    """Write down what a dataset's files are now, each once. DataError if one is not what it was when it was opened."""
    found = _of_one_dataset(files)
    for each in found:
        each.remember(trusts_times=trusts_times)
    return found


def adopt(files: Iterable[Stamps], records: memoryview, *, trusts_times: bool) -> None:
    """Compare the files of a dataset with the records of the process that has remembered. DataError if they differ."""
    found = _of_one_dataset(files)
    if sum(each.count for each in found) * NBYTES != len(records):
        raise DataError(f"the dataset's files changed: they are others, or of another number; {REMEDY}", elsewhere=True)
    start = 0
    for each in found:
        end = start + each.count * NBYTES
        each.adopt(records[start:end], trusts_times=trusts_times)
        start = end


def _of_one_dataset(files: Iterable[Stamps]) -> tuple[Stamps, ...]:
    found = tuple(dict.fromkeys(files))
    for each in found:
        each.sample_as_one_of(len(found))
    return found
