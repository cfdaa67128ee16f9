"""Which bytes of a file stand for it in a fingerprint.

The choice depends on sizes alone, so copies of a file on any host give the same bytes. What is not sampled is
not noticed; small files are read whole, so labels nearly always are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Sampling:
    """Up to `whole` bytes are read whole, more as evenly spread blocks, the first and the last among them."""

    whole: int
    blocks: int
    block_bytes: int = 4096  # a page: less is not cheaper to read

    def read(self, file: BinaryIO, start: int = 0, nbytes: int | None = None) -> Iterator[bytes]:
        """The size of a file, or of the part of it that begins at `start`, then the bytes that stand for it."""
        size = os.fstat(file.fileno()).st_size - start if nbytes is None else nbytes
        yield b"%d bytes" % size
        yield from self.pieces(file.fileno(), size, start)

    def pieces(self, fd: int, nbytes: int, start: int = 0) -> Iterator[bytes]:
        """The bytes that stand for so many."""
        if nbytes <= self.whole:
            end = start + nbytes
            while start < end and (chunk := os.pread(fd, min(1 << 20, end - start), start)):
                start += len(chunk)
                yield chunk
            return
        for block in range(self.blocks):
            at = start + block * (nbytes - self.block_bytes) // (self.blocks - 1)
            yield os.pread(fd, self.block_bytes, at)


WHOLE = Sampling(whole=1 << 62, blocks=2)
"""Of a file that is read whole anyway."""


COLUMN = Sampling(whole=16 << 20, blocks=64)
"""Of a column: two million int64 labels are read whole, in some 15 ms;
a larger file costs 64 reads (256 KiB), under a second even on a cold spinning disk at 10 ms a read."""

ID_FILE = Sampling(whole=64 << 10, blocks=16)
"""Of one file among many: at most 64 KiB."""

ID_FILES = 64
"""Files looked into in a dataset of many, evenly spread: at most 4 MiB and 64 opens, whatever their number."""


def one_of(arrays: int) -> Sampling:
    """What stands for each of so many arrays: all of them together cost what some eight columns cost, or little more.

    Up to 64 KiB and four blocks of each are always looked at, because every worker opens every array anyway.
    """
    return Sampling(
        whole=max(ID_FILE.whole, min(COLUMN.whole, 8 * COLUMN.whole // arrays)),
        blocks=max(4, min(COLUMN.blocks, 8 * COLUMN.blocks // arrays)),
    )


def spread(samples: int, wanted: int = ID_FILES) -> list[int]:
    """Up to `wanted` of the ids 0..samples-1, evenly spread, first and last among them."""
    if samples <= wanted:
        return list(range(samples))
    return [place * (samples - 1) // (wanted - 1) for place in range(wanted)]
