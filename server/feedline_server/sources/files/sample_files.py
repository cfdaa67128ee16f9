"""Samples that are files: one or several a sample, and perhaps a class of each.

Files are opened when they are gathered, one at a time; only names and labels are kept in memory.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.content import spread
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.files.beneath import Folder
from feedline_server.sources.files.patterns import FilePattern
from feedline_server.sources.selection import check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column, wire_dtype

LABEL = "y"
"""The column of a sample's class."""

Labelling: TypeAlias = NDArray[np.int64] | NDArray[np.float32]
"""A label of each sample: a class, or a number to predict."""


_CHANGED = {errno.ENOENT: "it is gone", errno.ENOTDIR: "it is gone", errno.ESTALE: "it is gone", errno.EXDEV: ""}
"""What it means that a file that was there cannot be opened; empty: as the error says."""


NOTED = 4096
"""Files between two notes of how far it is: some 20 ms of a quick disk, a minute of a very slow one."""


class Files(Stamps):
    """One file of each sample: where it is, and whether it is still what it was."""

    def __init__(self, folder: Path, names: Sequence[str], pattern: FilePattern, *, follow_links: bool) -> None:
        super().__init__(len(names))
        self.pattern = pattern
        self.looked_into = spread(len(names))
        """The samples whose files stand for all in the fingerprint."""
        self._folder = Folder(str(folder), follow_links=follow_links)
        self._names = names

    def path(self, sample: int) -> str:
        """The file of a sample."""
        return f"{self._folder.path}/{self._name(sample)}"

    def file(self, number: int) -> str:
        """See Stamps: the sample, for a message."""
        return f"sample {number} ({self.path(number)})"

    def remember(self, *, trusts_times: bool) -> None:
        """See Stamps. What is not there is no file of a sample later either. DataError naming what is no file."""
        super().remember(trusts_times=trusts_times)
        for sample in range(self.count):
            if sample % NOTED == 0:
                OPENING.note(f"file {sample} of {self.count} in {self._folder.path}")
            try:
                status = os.stat(self._name(sample), dir_fd=self._folder.fd)
            except OSError:
                continue
            npy.check_regular(self.path(sample), status, "the file of a sample")
            self._write(sample, status, 0)

    def changed(self, number: int, how: str) -> DataError:
        """See Stamps."""
        error = super().changed(number, how)
        return DataError(str(error), samples=[number], elsewhere=True)

    def open(self, sample: int) -> tuple[int, os.stat_result]:
        """The file of a sample, for reading, and what it is now; `has_read` is called when it was read.

        DataError if it is not what it was, BadSample if it cannot be opened.
        """
        try:
            fd = self._folder.open(self._name(sample))
        except OSError as error:
            if error.errno in _CHANGED and self._is_complete and self._was(sample):
                raise self.changed(sample, _CHANGED[error.errno] or str(error.strerror)) from error
            raise self.unreadable(sample, error) from error
        try:
            status = os.fstat(fd)
            npy.check_regular(self.path(sample), status, "the file of a sample")
            self.is_same(sample, status)
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    def opened(self, sample: int) -> tuple[BinaryIO, os.stat_result]:
        """The same, as a file."""
        fd, status = self.open(sample)
        return os.fdopen(fd, "rb"), status

    def unreadable(self, sample: int, error: OSError) -> BadSample:
        """What to raise when the system cannot read it."""
        return BadSample(f"{self.file(sample)} cannot be read: {error.strerror}", samples=[sample])

    def _name(self, sample: int) -> str:
        return self.pattern.of(self._names[sample])


class Part(Protocol):
    """Some columns of the samples: from one file of each, or from a list."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns."""
        ...

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """As of a Source; `out` has only columns of its own."""
        ...

    def content(self) -> Iterator[bytes]:
        """As of a Source."""
        ...

    def files(self) -> Iterator[Stamps]:
        """As of HasFiles."""
        ...


class Labels:
    """The class of each sample, as a number or, of `one_hot` classes, as a vector; or a number to predict: a Part."""

    def __init__(self, values: Labelling, one_hot: int | None) -> None:
        self._values = values
        self._is_one_hot = one_hot is not None
        dtype = wire_dtype(values.dtype) if one_hot is None else np.dtype("<f4")
        self.columns = (Column(LABEL, dtype, (one_hot,) if one_hot else ()),)

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Part."""
        target: Array = out[LABEL]
        values: Array = self._values[ids]
        if self._is_one_hot:
            target[...] = 0
            target[np.arange(len(ids)), values] = 1
        else:
            target[...] = values

    def content(self) -> Iterator[bytes]:
        """See Part."""
        yield self._values.astype(wire_dtype(self._values.dtype)).tobytes()

    def files(self) -> Iterator[Stamps]:
        """See Part."""
        return iter(())


class SampleFiles:
    """Samples that are files below `folder`, by their names."""

    def __init__(self, folder: Path, names: Sequence[str], parts: Sequence[Part]) -> None:
        self._names = names
        self._parts = parts
        self.samples = len(names)
        self.columns = tuple(column for part in parts for column in part.columns)
        if sum(column.name == LABEL for column in self.columns) > 1:
            raise DataError(
                f"{folder}: the files of the samples have an array {LABEL!r}, and there are labels too; "
                "set labels = false, or choose the arrays that are meant with arrays"
            )

    @property
    def has_labels(self) -> bool:
        """The class of each sample is known without reading a file."""
        return any(isinstance(part, Labels) for part in self._parts)

    def __repr__(self) -> str:
        return f"<SampleFiles {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        for part in self._parts:
            if wanted := {column.name: out[column.name] for column in part.columns if column.name in out}:
                part.gather(ids, wanted)

    def content(self) -> Iterator[bytes]:
        """See Source. Every name and label, and a sample of the files' bytes."""
        names = [name.encode("utf-8", "surrogateescape") for name in self._names]
        yield np.array([len(name) for name in names], "<i8").tobytes()  # or ("ab", "c") would be ("a", "bc")
        yield b"".join(names)
        for part in self._parts:
            yield from part.content()

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        for part in self._parts:
            yield from part.files()
