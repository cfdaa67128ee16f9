"""Row 17: data that must be decoded to be read: HDF5 in gzip chunks, Parquet row groups, a compressed `.npz`.

What fits the workers' cache is shuffled: the first epoch of a loader that has just started, against reading all of it
and shuffling in memory. What does not is read in the order that the loader's note names, against a loop that reads it
from its beginning to its end, piece after piece, and shuffles nothing. There the second epoch counts. Nothing is kept
of the first, but the cache's memory has been touched: a virtual machine gives half a gigabyte a second of what it never
had. Two workers; every row is counted.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import feedline
from benchmarks import lanes
from benchmarks.content import WrongContentError
from benchmarks.lines import Bound, Line, Side
from benchmarks.pairs import ratio, rounds
from benchmarks.stage import Stage, say

TOGETHER = 1000
"""Rows in a chunk or group."""

VALUES = 3072

FITS, LARGER = 8, 64
"""Chunks: 98 MB, and 786 MB, of which two workers keep 512 MiB at most."""

BATCH = 64

WORKERS = 2

Columns = tuple[np.ndarray, np.ndarray]
Pieces = Callable[[Path], Iterator[Columns]]


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    for name, (write, pieces) in FORMATS.items():
        cases = [(FITS, "shuffle", "read whole and shuffled in memory", 0.5)]
        if name != "a compressed .npz":  # which is one piece
            cases.append((LARGER, f"blocks:{TOGETHER}x16", "read from its beginning to its end", 0.8))
        for size, order, against, must in cases:
            chunks = 2 if stage.scale.is_quick else size
            folder = stage.scratch / f"{name.replace(' ', '-')}-{chunks}"
            folder.mkdir()
            write(folder, chunks)
            what = f"{name}, {chunks * TOGETHER * VALUES * 4 / 1e6:,.0f} MB, order {order}"
            say(f"  {what}")
            is_whole = order == "shuffle"
            turns = {
                "feedline, shm": lambda folder=folder, order=order, chunks=chunks: _served(
                    stage, folder, order, chunks
                ),
                against: lambda folder=folder, is_whole=is_whole, pieces=pieces: _read(
                    pieces(folder), is_whole=is_whole
                ),
            }
            taken = rounds(turns, stage.scale.pairs)
            ours, theirs = taken["feedline, shm"], taken[against]
            yield Line(
                17, what, "krow/s", Side("feedline, shm", median(ours) / 1e3), Side(against, median(theirs) / 1e3),
                ratio(ours, theirs), Bound(">=", must),
            )  # fmt: skip


def _served(stage: Stage, folder: Path, order: str, chunks: int) -> float:
    """Rows a second of the first epoch of a loader that is shuffled, and else of the second."""
    with ExitStack() as running:
        address, _ = lanes.loader(running, folder, stage.scratch, "shm", "--workers", str(WORKERS))
        loader = running.enter_context(feedline.connect(address))
        for epoch in range(1 if order == "shuffle" else 2):
            began = time.perf_counter()
            ids = np.concatenate([np.array(y) for _, y in loader.epoch(epoch, order=order, batch_size=BATCH)])
            seconds = time.perf_counter() - began
    if not np.array_equal(np.sort(ids), np.arange(chunks * TOGETHER)):
        raise WrongContentError(f"{len(ids)} rows, {len(np.unique(ids))} of them different, are not an epoch")
    return len(ids) / seconds


def _read(pieces: Iterator[Columns], *, is_whole: bool) -> float:
    """Rows a second of batches of what is read whole, and shuffled; or of what is read piece by piece."""
    began = time.perf_counter()
    if is_whole:
        x, y = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
        order = np.random.default_rng(0).permutation(len(y))
        rows = sum(len(x[order[start : start + BATCH]]) for start in range(0, len(y), BATCH))
    else:
        rows = sum(len(x[start : start + BATCH]) for x, _ in pieces for start in range(0, len(x), BATCH))
    return rows / (time.perf_counter() - began)


def _chunks(count: int) -> Iterator[Columns]:
    random = np.random.default_rng(0)
    for chunk in range(count):
        x = (random.normal(size=(TOGETHER, VALUES)) * 10).round().astype(np.float32)
        yield x, np.arange(chunk * TOGETHER, (chunk + 1) * TOGETHER)


def _write_hdf5(folder: Path, count: int) -> None:
    with h5py.File(folder / "data.h5", "w") as file:
        x = file.create_dataset(
            "x", (count * TOGETHER, VALUES), np.float32, chunks=(TOGETHER, VALUES), compression="gzip"
        )
        for chunk, (values, _) in enumerate(_chunks(count)):
            x[chunk * TOGETHER : (chunk + 1) * TOGETHER] = values
        file["y"] = np.arange(count * TOGETHER)


def _hdf5(folder: Path) -> Iterator[Columns]:
    with h5py.File(folder / "data.h5") as file:
        for start in range(0, len(file["y"]), TOGETHER):
            yield file["x"][start : start + TOGETHER], file["y"][start : start + TOGETHER]


def _write_parquet(folder: Path, count: int) -> None:
    schema = pa.schema({"x": pa.list_(pa.float32(), VALUES), "y": pa.int64()})
    with pq.ParquetWriter(folder / "data.parquet", schema, compression="zstd") as file:
        for x, y in _chunks(count):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), VALUES)
            file.write_table(pa.table({"x": lists, "y": y}, schema), row_group_size=TOGETHER)


def _parquet(folder: Path) -> Iterator[Columns]:
    with pq.ParquetFile(folder / "data.parquet") as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            x = table["x"].combine_chunks().flatten().to_numpy().reshape(-1, VALUES)
            yield x, table["y"].to_numpy()


def _write_npz(folder: Path, count: int) -> None:
    x, y = (np.concatenate(columns) for columns in zip(*_chunks(count), strict=True))
    for part in range(2):  # one a subject, as they are recognised
        half = slice(part * len(y) // 2, (part + 1) * len(y) // 2)
        np.savez_compressed(folder / f"s{part}.npz", x=x[half], y=y[half])


def _npz(folder: Path) -> Iterator[Columns]:
    for part in range(2):
        with np.load(folder / f"s{part}.npz") as file:
            yield file["x"], file["y"]


FORMATS: dict[str, tuple[Callable[[Path, int], None], Pieces]] = {
    "HDF5 in gzip chunks": (_write_hdf5, _hdf5),
    "Parquet row groups": (_write_parquet, _parquet),
    "a compressed .npz": (_write_npz, _npz),
}
