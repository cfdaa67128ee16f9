"""Where each sequence begins and ends among the steps of all: `offsets.npy` or `lengths.npy`.

The law: sequences follow each other without a gap, so step k belongs to exactly one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import SequencesConfig
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.formats import NpyFile
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import Rows
from feedline_wire.errors import DataError

Ids = NDArray[np.int64]

OFFSETS = "offsets.npy"
LENGTHS = "lengths.npy"

LOOK_ROWS = 1 << 20
"""Offsets that are checked at once: 8 MiB, however many there are."""


class Boundaries(Protocol):
    """Of sequences 0..samples-1."""

    @property
    def samples(self) -> int:
        """How many sequences there are."""
        ...

    @property
    def steps(self) -> int:
        """The steps of all of them."""
        ...

    @property
    def longest(self) -> int:
        """Steps of the longest; 0 before `check` if that takes looking at all of them."""
        ...

    def of(self, ids: Ids) -> tuple[Ids, Ids]:
        """The first step of each, and the one after its last."""
        ...

    def check(self) -> None:
        """Look at all of them, which may take long; DataError naming the first that is out of order."""
        ...

    def content(self) -> Iterator[bytes]:
        """What their identity is made of."""
        ...


@dataclass(slots=True)
class Offsets:
    """Read where they lie: entry i is the first step of sequence i, the last entry the end."""

    array: Plain
    rows: Rows
    steps: int
    longest: int = 0

    @property
    def samples(self) -> int:
        """See Boundaries."""
        return self.array.header.shape[0] - 1

    def check(self) -> None:
        """See Boundaries."""
        for start in range(0, self.samples, LOOK_ROWS):
            part = np.diff(_read(self.array, self.rows, np.arange(start, min(start + LOOK_ROWS, self.samples) + 1)))
            if part.min() < 0:
                at = start + int(part.argmin())
                raise DataError(
                    f"{self.array.named}: entry {at + 1} is smaller than entry {at}; wanted offsets that never fall"
                )
            self.longest = max(self.longest, int(part.max()))

    def of(self, ids: Ids) -> tuple[Ids, Ids]:
        """See Boundaries."""
        return _read(self.array, self.rows, ids), _read(self.array, self.rows, ids + 1)

    def content(self) -> Iterator[bytes]:
        """See Boundaries."""
        yield b"offsets"
        yield from self.array.content(content.COLUMN)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Added up in memory, eight bytes a sequence."""

    array: Plain
    offsets: Ids
    longest: int

    @property
    def samples(self) -> int:
        """See Boundaries."""
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        """See Boundaries."""
        return int(self.offsets[-1])

    def of(self, ids: Ids) -> tuple[Ids, Ids]:
        """See Boundaries."""
        return self.offsets[ids], self.offsets[ids + 1]

    def check(self) -> None:
        """See Boundaries: done when they were added up."""

    def content(self) -> Iterator[bytes]:
        """See Boundaries."""
        yield b"lengths"
        yield from self.array.content(content.COLUMN)


def open_boundaries(folder: Path, config: SequencesConfig) -> tuple[Boundaries, str]:
    """The boundaries and the name of their file: as declared, else the one of the two that is there.

    DataError if there are none, both, or they make no sense.
    """
    if config.offsets is not None and config.lengths is not None:
        raise DataError(f"{folder}: both offsets and lengths are declared; keep one, they say the same")
    declared = config.offsets or config.lengths
    there = [declared] if declared else [name for name in (OFFSETS, LENGTHS) if (folder / name).exists()]
    if len(there) != 1:
        found = "both" if there else "neither"
        raise DataError(
            f"{folder}: found {found} of {OFFSETS} (first step of each sequence, and the end: "
            f"one more than there are sequences) and {LENGTHS} (steps of each); wanted one of them"
        )
    (file,) = there
    array = _find(folder / file)
    if config.lengths is not None or (declared is None and file == LENGTHS):
        return _lengths(array), file
    return _offsets(array), file


def _find(path: Path) -> Plain:
    with NpyFile(path) as file:
        array = file.stored("x")
    if array.header.dtype.kind not in "iu" or len(array.header.shape) != 1 or not array.header.shape[0]:
        raise DataError(f"{path}: found {array.header}; wanted one row of whole numbers")
    return array


def _lengths(array: Plain) -> Lengths:
    lengths = _read(array, array.open(large=False), np.arange(array.header.shape[0]))
    if (wrong := int(lengths.min())) < 0:
        raise DataError(f"{array.named}: sequence {lengths.argmin()} has the length {wrong}; wanted 0 or more")
    return Lengths(array, np.concatenate(([0], np.cumsum(lengths))), int(lengths.max()))


def _offsets(array: Plain) -> Offsets:
    rows, count = array.open(large=False), array.header.shape[0]
    if count < 2:
        raise DataError(f"{array.named}: has {count} entry; wanted one for each sequence and one more, the end")
    first, last = _read(array, rows, np.array([0, count - 1]))
    if first != 0:
        raise DataError(f"{array.named}: begins with {first}; wanted 0, the first step of the first sequence")
    return Offsets(array, rows, int(last))


def _read(array: Plain, rows: Rows, wanted: Ids) -> Ids:
    found = np.empty(len(wanted), array.header.dtype.newbyteorder("<"))
    rows.gather(wanted, found)
    return found.astype(np.int64)
