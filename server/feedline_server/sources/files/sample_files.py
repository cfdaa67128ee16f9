"""Samples that are files: one or several a sample, and perhaps a class of each.

Files are opened when they are gathered, one at a time; only names and labels are kept in memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.content import spread
from feedline_server.sources.files.patterns import FilePattern
from feedline_server.sources.source import check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

LABEL = "y"
"""The column of a sample's class."""


class Files:
    """One file of each sample: where it is, and whether it is still what it was."""

    def __init__(self, folder: Path, names: Sequence[str], pattern: FilePattern) -> None:
        self.pattern = pattern
        self.looked_into = spread(len(names))
        """The samples whose files stand for all in the fingerprint."""
        self._folder = str(folder)
        self._names = names
        self._modified: NDArray[np.int64] = np.zeros(len(names), np.int64)  # no page of it is there until used

    def path(self, sample: int) -> str:
        """The file of a sample."""
        return f"{self._folder}/{self.pattern.of(self._names[sample])}"

    def named(self, sample: int) -> str:
        """The sample, for a message."""
        return f"sample {sample} ({self.path(sample)})"

    def unreadable(self, sample: int, error: OSError) -> BadSample:
        """What to raise when the system cannot read it."""
        return BadSample(f"{self.named(sample)} cannot be read: {error.strerror}", samples=[sample])

    def check_unchanged(self, sample: int, status: os.stat_result) -> None:
        """DataError if the file was written to since this process first read it: one key must not mean two batches."""
        if not self._modified[sample]:
            self._modified[sample] = status.st_mtime_ns
        elif self._modified[sample] != status.st_mtime_ns:
            raise DataError(f"{self.named(sample)} changed while served; restart the loader", samples=[sample])


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


class Labels:
    """The class of each sample, as a number or, of `one_hot` classes, as a vector: a Part."""

    def __init__(self, classes: NDArray[np.int64], one_hot: int | None) -> None:
        self.classes = classes
        self._is_one_hot = one_hot is not None
        self.columns = (Column(LABEL, np.dtype("<i8" if one_hot is None else "<f4"), (one_hot,) if one_hot else ()),)

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Part."""
        target, classes = out[LABEL], self.classes[ids]
        if self._is_one_hot:
            target[...] = 0
            target[np.arange(len(ids)), classes] = 1
        else:
            target[...] = classes

    def content(self) -> Iterator[bytes]:
        """See Part."""
        yield self.classes.astype("<i8").tobytes()


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
