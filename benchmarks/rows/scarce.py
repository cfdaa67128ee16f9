"""Row 22: a loader with half as much memory as data, page cache included, against the disk itself.

A memory control group holds loader and workers. Nothing of a file is in memory when a turn begins, and what a turn
reads does not stay. The disk's own rate is that of O_DIRECT reads, at random with as many threads as serve it best, in
as many processes as there are cores: the threads of one take turns in Python. A file is read once, past the page cache,
before it is measured: a virtual disk is faster where it was read before, and feedline's turn comes first.
"""

import mmap
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import lanes
from benchmarks.consumer import Consumer, MissingError
from benchmarks.lines import Bound, Line, Side
from benchmarks.measured import Pace
from benchmarks.memory_group import group
from benchmarks.pairs import ratio, rounds
from benchmarks.rows.cold import disk_gb_per_s, drop, read_nbytes
from benchmarks.stage import Stage, say

MEMORY_NBYTES = 2 << 30

DATA_NBYTES = 2 * MEMORY_NBYTES

BATCH_NBYTES = 4 << 20

WORKERS = 4

DEPTHS = (16, 32, 64, 128)
"""Threads of all processes that read at random, of which the best is taken."""

PACE = Pace(seconds=3.0, settle_s=1.0)

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """Trainers of one loader."""

    row_nbytes: int
    order: str
    trainers: int
    must: float
    form: str = ".npy"


CASES = (
    Case(4096, "shuffle", 1, 0.95),
    Case(16384, "shuffle", 1, 0.95),
    Case(16384, "blocks", 1, 0.9),
    Case(16384, "blocks", 4, 0.9),
    Case(16384, "blocks", 1, 0.9, "HDF5"),
    Case(16384, "blocks", 1, 0.9, "HDF5 in chunks"),
    Case(16384, "blocks:1000x8", 1, 0.8, "Parquet"),
)

TOGETHER = 1000
"""Rows in a row group of Parquet, 16 MB, and in what is copied at once."""


CHUNK = 64
"""Rows in a chunk of HDF5, a MiB."""

CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn got per second, and the bytes that were read from the disk for each that was delivered."""

    gb_per_s: float
    read_per_delivered: float | None = None


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        yield from _lines(stage, pool)


def _lines(stage: Stage, pool: Executor) -> Iterator[Line]:
    read: set[Path] = set()
    for case in CASES[: 1 if stage.scale.is_quick else None]:
        rows_of = f"{case.row_nbytes >> 10} KiB rows"
        trainers = "" if case.trainers == 1 else f", {case.trainers} trainers of different seeds"
        memory = f"{DATA_NBYTES >> 30} GiB with {MEMORY_NBYTES >> 30} GiB of memory"
        what = f"{case.form}, {case.order}, {rows_of}, {memory}{trainers}"
        say(f"  {what}")
        folder = stage.samples(case.row_nbytes, DATA_NBYTES)
        file = folder / "x.npy"
        served = FORMS[case.form](folder) if case.form in FORMS else folder
        at_random = case.row_nbytes if case.order == "shuffle" else None
        for one in {file, *served.glob("[xd]*")} - read:
            _read_once(one)
            read.add(one)
        depth = _best_depth(pool, file, at_random) if at_random else 0
        try:
            turns = rounds(
                {
                    "feedline": lambda case=case, folder=folder, served=served: _turn(stage, folder, served, case),
                    "disk": lambda file=file, at_random=at_random, depth=depth: Turn(
                        _at_random(pool, file, at_random, stage.scale.pace.seconds, depth)
                        if at_random
                        else disk_gb_per_s(file, None, stage.scale.pace.seconds)
                    ),
                },
                1 if stage.scale.is_quick else ROUNDS,
            )
        except MissingError as error:
            yield Line(22, what, "GB/s", bound=Bound(">=", case.must), why_not=str(error))
            continue
        ours, disk = ([turn.gb_per_s for turn in turns[name]] for name in ("feedline", "disk"))
        peer = f"the disk, O_DIRECT, {f'{depth} at once' if depth else 'in a row'}"
        yield Line(
            22, f"{what}: {peer}", "GB/s", Side("feedline, tcp", median(ours)), Side(peer, median(disk)),
            ratio(ours, disk), Bound(">=", case.must),
            more={"read_per_delivered": [turn.read_per_delivered for turn in turns["feedline"]]},
        )  # fmt: skip


def _best_depth(pool: Executor, file: Path, nbytes: int) -> int:
    return max(DEPTHS, key=lambda depth: _at_random(pool, file, nbytes, 1.0, depth))


def _at_random(pool: Executor, file: Path, nbytes: int, seconds: float, depth: int) -> float:
    each = [pool.submit(disk_gb_per_s, file, nbytes, seconds, depth // CORES, seed) for seed in range(CORES)]
    return sum(one.result() for one in each)


def _read_once(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BATCH_NBYTES) as buffer:
            while os.readv(fd, [buffer]) == BATCH_NBYTES:
                pass
    finally:
        os.close(fd)


def _turn(stage: Stage, folder: Path, served: Path, case: Case) -> Turn:
    """A turn of a new loader in a new group, with nothing of the file in memory."""
    for file in served.glob("[xd]*"):
        drop(file)
    pace = stage.scale.pace if stage.scale.is_quick else PACE
    with ExitStack() as running:
        within = running.enter_context(group(MEMORY_NBYTES))
        address, pid = lanes.loader(
            running, served, stage.scratch, "tcp", "--workers", str(WORKERS), within=within
        )  # fmt: skip
        options = {
            "folder": str(folder), "batch": BATCH_NBYTES // case.row_nbytes, "address": address, "order": case.order
        }  # fmt: skip
        consumers = [
            running.enter_context(Consumer("feedline_loader", {**options, "seed": seed}, (pid,)))
            for seed in range(case.trainers)
        ]
        for consumer in consumers:
            consumer.wait()
        before, began = read_nbytes(pid), time.perf_counter()
        for consumer in consumers:
            consumer.begin(pace)
        taken = [consumer.end() for consumer in consumers]
        seconds = time.perf_counter() - began
        read = read_nbytes(pid) - before
    delivered = sum(one.gb for one in taken) * 1e9
    # What settled the pace was read as well, about as fast.
    return Turn(sum(one.gb_per_s for one in taken), read * (taken[0].seconds / seconds) / delivered)


# ---- other formats, of the same rows ----


def _rows(folder: Path) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    x, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")
    for start in range(0, len(x), TOGETHER):
        part = slice(start, min(start + TOGETHER, len(x)))
        yield part, x[part], y[part]


def _hdf5(folder: Path, chunk: int = 0) -> Path:
    """In one piece, as h5py writes what nothing is said about; or in chunks of so many rows."""
    served = folder.with_name(f"{folder.name}-hdf5-{chunk}")
    served.mkdir()
    x = np.load(folder / "x.npy", mmap_mode="r")
    with h5py.File(served / "data.h5", "w") as file:
        stored = file.create_dataset("x", x.shape, x.dtype, chunks=(chunk, *x.shape[1:]) if chunk else None)
        for part, values, _ in _rows(folder):
            stored[part] = values
        file["y"] = np.load(folder / "y.npy")
    return served


def _parquet(folder: Path) -> Path:
    """In row groups, not compressed, as numbers of 32 bits: Parquet has none that are smaller."""
    served = folder.with_name(f"{folder.name}-parquet")
    served.mkdir()
    width = np.load(folder / "x.npy", mmap_mode="r").shape[1] // 4
    schema = pa.schema({"x": pa.list_(pa.int32(), width), "y": pa.int64()})
    with pq.ParquetWriter(served / "data.parquet", schema, compression="none", use_dictionary=False) as file:
        for _, x, y in _rows(folder):
            lists = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(x).reshape(-1).view(np.int32)), width
            )
            file.write_table(pa.table({"x": lists, "y": y.astype(np.int64)}, schema), row_group_size=TOGETHER)
    return served


FORMS: dict[str, Callable[[Path], Path]] = {
    "HDF5": _hdf5,
    "HDF5 in chunks": partial(_hdf5, chunk=CHUNK),
    "Parquet": _parquet,
}
"""What writes them; the folder that is served then."""
