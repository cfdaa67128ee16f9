"""Where each sequence begins and ends among the steps of all: `offsets.npy` or `lengths.npy`.

Sequences follow each other without a gap, so step k belongs to exactly one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import SequencesConfig
from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.formats import NpyFile
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Stored
from feedline_server.sources.ragged import offsets_of
from feedline_wire.errors import DataError

Ids = NDArray[np.int64]

OFFSETS = "offsets.npy"
LENGTHS = "lengths.npy"

LOOK_ROWS = 1 << 20
"""Offsets that are checked at once: 8 MiB, however many there are."""


class Boundaries:
    """Of sequences 0..samples-1, by a file of offsets, or of lengths.

    Offsets are read where they lie: entry i is the first step of sequence i, the last entry the end. Lengths are added
    up in memory, eight bytes a sequence.
    """

    def __init__(self, array: Stored, *, are_lengths: bool) -> None:
        self._array = array
        self._rows = array.open(large=False)
        self._offsets: Ids | None = None
        entries = array.header.shape[0]
        self.samples = entries if are_lengths else entries - 1
        self.longest = 0
        """Steps of the longest; of offsets 0 before `check`, which looks at all of them."""
        if are_lengths:
            lengths = self._read(np.arange(entries))
            if (wrong := int(lengths.min())) < 0:
                raise DataError(f"{array.named}: sequence {lengths.argmin()} has the length {wrong}; wanted 0 or more")
            self._offsets, self.longest = offsets_of(lengths), int(lengths.max())
        elif entries < 2:
            raise DataError(f"{array.named}: has {entries} entry; wanted one for each sequence and one more, the end")
        elif first := int(self._read(np.array([0]))[0]):
            raise DataError(f"{array.named}: begins with {first}; wanted 0, the first step of the first sequence")
        self.steps = int(self.of(np.array([self.samples - 1]))[1][0])
        """Of all sequences."""

    def of(self, ids: Ids) -> tuple[Ids, Ids]:
        """The first step of each, and the one after its last."""
        if self._offsets is not None:
            return self._offsets[ids], self._offsets[ids + 1]
        return self._read(ids), self._read(ids + 1)

    def check(self) -> None:
        """Look at all offsets, which may take long; DataError naming the first that is out of order."""
        for start in () if self._offsets is not None else range(0, self.samples, LOOK_ROWS):
            OPENING.note(f"sequence {start} of {self.samples} in {self._array.named}")
            part = np.diff(self._read(np.arange(start, min(start + LOOK_ROWS, self.samples) + 1)))
            if part.min() < 0:
                at = start + int(part.argmin())
                raise DataError(
                    f"{self._array.named}: entry {at + 1} is smaller than entry {at}; wanted offsets that never fall"
                )
            self.longest = max(self.longest, int(part.max()))

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        yield self._array.stamp

    def content(self) -> Iterator[bytes]:
        """What their identity is made of."""
        yield b"offsets" if self._offsets is None else b"lengths"
        yield from self._array.content(content.COLUMN)

    def _read(self, rows: Ids) -> Ids:
        found = np.empty(len(rows), self._array.header.dtype.newbyteorder("<"))
        self._rows.gather(rows, found)
        return found.astype(np.int64)


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
    with NpyFile(folder / file) as opened:
        array = opened.stored("x")
    if array.header.dtype.kind not in "iu" or len(array.header.shape) != 1 or not array.header.shape[0]:
        raise DataError(f"{folder / file}: found {array.header}; wanted one row of whole numbers")
    return Boundaries(array, are_lengths=bool(config.lengths or (declared is None and file == LENGTHS))), file
