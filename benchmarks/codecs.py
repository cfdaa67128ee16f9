"""What libraries make of the columns that a thin line carries: how much is left, and how fast both ways are.

CPU time of one thread, the best of several, on 1 MiB: lz4 and zstd as they are, zstd behind a shuffle by numpy, and
what feedline has (feedline_wire/compression.py).

    python -m benchmarks.codecs

A library that is not installed is left out: lz4, zstandard, numcodecs.
"""

import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import content
from feedline_wire import compression
from feedline_wire.compression import METHODS
from feedline_wire.tensors import Array

NBYTES = 1 << 20
TIMES = 7

Way = tuple[str, Callable[[], Any], Callable[[Any], Any]]
"""Name, there, and back."""


def ways(data: Array) -> Iterator[Way]:
    """Each with what it does to `data`."""
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    itemsize = data.dtype.itemsize
    try:
        lz4 = import_module("lz4.block")
    except ImportError:
        pass
    else:
        yield "lz4", lambda: lz4.compress(raw, store_size=False), lambda x: lz4.decompress(x, uncompressed_size=NBYTES)
    try:
        zstd = import_module("zstandard")
    except ImportError:
        pass
    else:
        there, back = zstd.ZstdCompressor(level=1), zstd.ZstdDecompressor()
        yield "zstd-1", lambda: there.compress(raw), back.decompress
        if itemsize > 1:

            def shuffled(source: bytes) -> Array:
                planes = np.frombuffer(back.decompress(source), np.uint8).reshape(itemsize, -1)
                return np.ascontiguousarray(planes.T)

            planes = raw.reshape(-1, itemsize).T
            yield "zstd-1, shuffled by numpy", lambda: there.compress(np.ascontiguousarray(planes)), shuffled
    if compression.is_installed():
        into = np.empty_like(raw)
        for method in METHODS:
            yield (
                f"feedline: Blosc, {method.codec}-{method.level}",
                lambda method=method: bytes(compression.compress(raw, itemsize, method)),
                lambda source: compression.decompress(memoryview(source), into),
            )


def best(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what comes of it."""
    took = []
    for _ in range(TIMES):
        begun = time.thread_time()
        found = work()
        took.append(time.thread_time() - begun)
    return min(took), found


def main() -> None:
    print(f"{'':<38}left     GB/s there    back")
    for kind, dtype in content.KINDS.items():
        data = content.made_of(kind, NBYTES // 65536, 65536).reshape(-1).view(dtype)
        for name, there, back in ways(data):
            there_s, source = best(there)
            back_s, _ = best(lambda back=back, source=source: back(source))
            rates = f"{NBYTES / there_s / 1e9:>10.2f}{NBYTES / back_s / 1e9:>10.2f}"
            print(f"{kind:<12}{name:<26}{len(source) / NBYTES:>5.2f}{rates}")


if __name__ == "__main__":
    # As in loader and trainer: on the main thread Blosc would take several of its own.
    measuring = threading.Thread(target=main)
    measuring.start()
    measuring.join()
