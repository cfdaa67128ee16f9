"""Whether a file is still the one that was opened.

Modification times say only that this host's file changed while it is served; a dataset's identity never depends on
them.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from feedline_server.sources.arrays import npy
from feedline_wire.errors import DataError


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was when it was opened."""

    path: Path
    size: int
    mtime_ns: int
    inode: tuple[int, int]
    """Device and number: tells a file from another one that took its name."""

    def check(self) -> None:
        """DataError if the file at this path is another one now, or has another size or modification time.

        A mapping of a file that was cut ends the process (SIGBUS) when it is read, so this is asked before each gather.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116 - Path.stat costs half as much again, on every batch
        except OSError as error:
            raise DataError(
                f"{self.path}: is gone while served ({error.strerror}); restart the loader", elsewhere=True
            ) from error
        self._compare(_from(self.path, status))

    def check_open(self, file: BinaryIO) -> None:
        """DataError if this open file is another one, or has another size or modification time."""
        self._compare(of(self.path, file))

    def _compare(self, now: "Stamp") -> None:
        if now != self:
            raise DataError(
                f"{self.path}: changed while served ({_difference(self, now)}); restart the loader",
                elsewhere=True,  # a loader with a copy of its own still has what is served
            )


def of(path: Path, file: BinaryIO) -> Stamp:
    """The stamp of an open file, whatever has its path by now."""
    return _from(path, os.fstat(file.fileno()))


def opened(path: Path, wanted: str) -> tuple[BinaryIO, Stamp]:
    """The file, open for reading, and its stamp; DataError, saying what was `wanted`, if it is not there or empty."""
    file = npy.opened(path, wanted)
    found = of(path, file)
    if not found.size:
        file.close()
        raise DataError(f"{path}: is empty (0 bytes); wanted {wanted}, write it again")
    return file, found


def _from(path: Path, status: os.stat_result) -> Stamp:
    return Stamp(path, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))


def _difference(then: Stamp, now: Stamp) -> str:
    if then.inode != now.inode:
        return "another file took its place"
    if then.size != now.size:
        return f"it was {then.size} bytes and is {now.size}"
    return "it was written to"
