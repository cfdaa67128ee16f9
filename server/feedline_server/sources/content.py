"""Which bytes of a file stand for it in a fingerprint.

The law: the choice depends on the file's size alone, so copies of a file on any host give the same bytes. What is
not sampled is not noticed; small files are read whole, so labels nearly always are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Sampling:
    """Files up to `whole` bytes are read whole, larger ones as evenly spread blocks, the first and the last among
    them."""

    whole: int
    blocks: int
    block_bytes: int = 4096  # a page: less is not cheaper to read

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        """The file's size, then the bytes that stand for it."""
        size = os.fstat(file.fileno()).st_size
        yield b"%d bytes" % size
        if size <= self.whole:
            file.seek(0)
            while chunk := file.read(1 << 20):
                yield chunk
            return
        for block in range(self.blocks):
            yield os.pread(file.fileno(), self.block_bytes, block * (size - self.block_bytes) // (self.blocks - 1))


COLUMN = Sampling(whole=16 << 20, blocks=64)
"""Of a column: two million int64 labels are read whole, in some 15 ms;
a larger file costs 64 reads (256 KiB), under a second even on a cold spinning disk at 10 ms a read."""

ID_FILE = Sampling(whole=64 << 10, blocks=16)
"""Of one file among many: at most 64 KiB."""

ID_FILES = 64
"""Files looked into in a dataset of many, evenly spread: at most 4 MiB and 64 opens, whatever their number."""


def spread(samples: int, wanted: int = ID_FILES) -> list[int]:
    """Up to `wanted` of the ids 0..samples-1, evenly spread, first and last among them."""
    if samples <= wanted:
        return list(range(samples))
    return [place * (samples - 1) // (wanted - 1) for place in range(wanted)]
