"""Row 14: data that is not in memory, against the disk itself.

The file is larger than half of the memory, which is what feedline calls large, and is dropped from the page cache
before each turn. The disk's own rate is that of O_DIRECT reads from several threads: of the same size at random for
`shuffle`, of 4 MiB one after the other for `blocks`.
"""

import mmap
import os
import random
import shutil
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks import lanes
from benchmarks.consumer import Consumer
from benchmarks.lines import Bound, Line, Side, side
from benchmarks.measured import Pace, Stretch
from benchmarks.pairs import ratio, rounds
from benchmarks.stage import Stage, say

ROWS_NBYTES = (16384, 131072)
BATCH_NBYTES = 4 << 20

THREADS = 32
"""That read at random at once; more brought nothing (an NVMe drive behind a hypervisor)."""

SEQUENTIAL_NBYTES, SEQUENTIAL_THREADS = 4 << 20, 4

KEPT_FREE_NBYTES = 4 << 30

BOUND = Bound(">=", 0.9)

PACE = Pace(seconds=3.0, settle_s=1.0)
"""The first window of `blocks`, half a gigabyte here, is read ahead beside what is served: an epoch's beginning, which
would be a quarter of two seconds and is nothing of an epoch."""

ROUNDS = 3
"""Each has a loader of its own and its file dropped; the disk is the same for all."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn got per second, of feedline or of the disk."""

    gb_per_s: float
    taken: Stretch | None = None
    read_per_delivered: float | None = None
    """Bytes that the loader read from the disk for each that it delivered; below 1, the page cache helped."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    nbytes = stage.scale.nbytes if stage.scale.is_quick else int(psutil.virtual_memory().total * 0.55)
    for row_nbytes in ROWS_NBYTES[: 1 if stage.scale.is_quick else None]:
        if shutil.disk_usage(stage.scratch).free < nbytes + KEPT_FREE_NBYTES:
            why_not = f"{stage.scratch} has no room for {nbytes / 1e9:.0f} GB; give --scratch"
            yield Line(14, f"{row_nbytes >> 10} KiB rows", "GB/s", bound=BOUND, why_not=why_not)
            continue
        folder = stage.samples(row_nbytes, nbytes)
        say(f"  {row_nbytes >> 10} KiB rows, {nbytes / 1e9:.1f} GB")
        what = f"random reads of {row_nbytes >> 10} KiB"
        yield _line(stage, folder, row_nbytes, order="shuffle", what=what, at_random=row_nbytes)
        yield _line(stage, folder, row_nbytes, order="blocks", what="sequential reads", at_random=None)
        (folder / "x.npy").unlink()


def _line(stage: Stage, folder: Path, row_nbytes: int, *, order: str, what: str, at_random: int | None) -> Line:
    file = folder / "x.npy"
    turns = rounds(
        {
            "feedline": lambda: _cold(stage, folder, BATCH_NBYTES // row_nbytes, order),
            "disk": lambda: Turn(disk_gb_per_s(file, at_random, stage.scale.pace.seconds)),
        },
        1 if stage.scale.is_quick else ROUNDS,
    )
    ours, disk = ([turn.gb_per_s for turn in turns[name]] for name in ("feedline", "disk"))
    return Line(
        14, f"{order}, {row_nbytes >> 10} KiB rows, against the disk's {what}", "GB/s",
        side("feedline, tcp", [turn.taken for turn in turns["feedline"] if turn.taken], ours),
        Side("the disk, O_DIRECT", median(disk)), ratio(ours, disk), BOUND,
        more={"read_per_delivered": [turn.read_per_delivered for turn in turns["feedline"]]},
    )  # fmt: skip


def _cold(stage: Stage, folder: Path, batch: int, order: str) -> Turn:
    """A turn of a new loader, with nothing of the file in memory."""
    drop(folder / "x.npy")
    with ExitStack() as running:
        address, pid = lanes.loader(running, folder, stage.scratch, "tcp")
        options = {"folder": str(folder), "batch": batch, "address": address, "order": order}
        consumer = running.enter_context(Consumer("feedline_loader", options, (pid,)))
        consumer.wait()
        before = read_nbytes(pid)
        pace = stage.scale.pace if stage.scale.is_quick else PACE
        taken = consumer.take(pace)
        # What settled the pace was read as well, about as fast.
        share = taken.seconds / (taken.seconds + pace.settle_s)
        read = (read_nbytes(pid) - before) * share / (taken.gb * 1e9)
    return Turn(taken.gb_per_s, taken, read)


def drop(file: Path) -> None:
    """Have the kernel forget the file's pages. Nothing may map it or hold changes."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_nbytes(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(one.io_counters().read_bytes for one in [root, *root.children(recursive=True)])


def disk_gb_per_s(file: Path, at_random: int | None, seconds: float, threads: int = THREADS, seed: int = 0) -> float:
    """What threads get that read past the page cache: pieces of that size at random, or the file from its beginning."""
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    size = file.stat().st_size
    nbytes, threads = (at_random, threads) if at_random else (SEQUENTIAL_NBYTES, SEQUENTIAL_THREADS)
    until = time.perf_counter() + seconds

    def read(number: int) -> int:
        draw, place, got = random.Random(seed * threads + number), number, 0
        with mmap.mmap(-1, nbytes) as buffer:  # O_DIRECT wants it aligned
            while time.perf_counter() < until:
                at = draw.randrange(size // nbytes) if at_random else place % (size // nbytes)
                got += os.preadv(fd, [buffer], at * nbytes)
                place += threads
        return got

    try:
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            got = sum(pool.map(read, range(threads)))
        return got / (time.perf_counter() - began) / 1e9
    finally:
        os.close(fd)
