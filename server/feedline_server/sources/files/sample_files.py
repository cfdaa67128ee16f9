"""Samples that are files: one or several a sample, and perhaps a class of each.

The law: files are opened when they are gathered, one at a time; only names and labels are kept in memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays import content
from feedline_server.sources.files.patterns import FilePattern
from feedline_server.sources.source import check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

LABEL = "y"
"""The column of a sample's class."""


class Files:
    """One file of each sample: where it is, and whether it is still what it was."""

    def __init__(self, folder: Path, names: Sequence[str], place: FilePattern) -> None:
        self.place = place
        self._folder = str(folder)
        self._names = names
        self._modified: NDArray[np.int64] = np.zeros(len(names), np.int64)  # no page of it is there until used

    def path(self, sample: int) -> str:
        """The file of a sample."""
        return f"{self._folder}/{self.place.of(self._names[sample])}"

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
    """Some columns of the samples, from one file of each."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it has."""
        ...

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """As of a Source."""
        ...

    def content(self, sample: int) -> Iterator[bytes]:
        """What stands for one sample's file."""
        ...


class Labels:
    """The class of each sample, as a number or, of `one_hot` classes, as a vector."""

    def __init__(self, classes: NDArray[np.int64], one_hot: int | None) -> None:
        self.classes = classes
        self._one_hot = one_hot
        self.column = Column(
            LABEL, np.dtype("<i8" if one_hot is None else "<f4"), () if one_hot is None else (one_hot,)
        )

    def gather(self, ids: NDArray[np.int64], out: Array) -> None:
        """Write the labels of these samples into `out`."""
        if self._one_hot is None:
            out[...] = self.classes[ids]
        else:
            out[...] = 0
            out[np.arange(len(ids)), self.classes[ids]] = 1


class SampleFiles:
    """Samples that are files below `folder`, by their names; `labels` are one more column."""

    def __init__(self, folder: Path, names: Sequence[str], parts: Sequence[Part], labels: Labels | None) -> None:
        self._names = names
        self._labels = labels
        self._parts = parts
        self.samples = len(names)
        columns = [column for part in parts for column in part.columns]
        if labels is not None:
            columns.append(labels.column)
        self.columns = tuple(columns)
        self._check_names(folder)

    def __repr__(self) -> str:
        return f"<SampleFiles {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        for part in self._parts:
            wanted = {column.name: out[column.name] for column in part.columns if column.name in out}
            if wanted:
                part.gather(ids, wanted)
        if self._labels is not None and LABEL in out:
            self._labels.gather(ids, out[LABEL])

    def content(self) -> Iterator[bytes]:
        """See Source. Every name and label, and a sample of the files' bytes."""
        names = [name.encode("utf-8", "surrogateescape") for name in self._names]
        yield np.array([len(name) for name in names], "<i8").tobytes()  # or ("ab", "c") would be ("a", "bc")
        yield b"".join(names)
        if self._labels is not None:
            yield self._labels.classes.astype("<i8").tobytes()
        for part in self._parts:
            for sample in content.spread(self.samples):
                yield from part.content(sample)

    def _check_names(self, folder: Path) -> None:
        if sum(column.name == LABEL for column in self.columns) > 1:
            raise DataError(
                f"{folder}: the files of the samples have an array {LABEL!r}, and there are labels too; "
                "set labels = false, or choose the arrays that are meant with arrays"
            )
