"""Row 18: a fleet on Ray against Ray Data's `iter_torch_batches`, of the same Parquet files on the same cluster.

Each side has two CPUs of Ray's for reading: two replicas of one worker, or the cluster's other two for tasks. A turn is
a trainer of its own that reads two epochs, of which the second counts; then, in the last line, a third in which the
process that reads is killed with -9 after the first batch, while Ray Data has most files still to read: a replica's
actor, or a worker of Ray's that runs tasks. What is compared there is the longest wait for a batch. feedline shuffles
globally; Ray Data in file order is its best case, with a local shuffle buffer what its documentation has for training.
Ray leaves loopback, so all of it is in a network of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import loopback, ray_cluster
from benchmarks.consumer import ROOT, FailedError, MissingError, quiet
from benchmarks.lines import Line, Side
from benchmarks.pairs import ratio, rounds
from benchmarks.stage import Stage, say

VALUES, TOGETHER = 3072, 1000
"""Numbers of a row, and rows of a row group: 12 MB of it decoded."""

FILES = 16
"""A row group each: 197 MB decoded, which two workers keep."""

BATCH = 64

BUFFER = 1000
"""Rows that Ray Data shuffles among: a file's worth."""

CPUS = 4

STORE_MB = 2000
"""Of Ray's memory for objects, in which all of the data has room ten times: nothing of it waits for room."""


@dataclass(frozen=True, slots=True)
class Turn:
    rows_per_s: float
    cpu_s_per_gb: float
    longest_s: float


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    del rows
    try:
        import ray.data  # noqa: F401 - what is compared with

        import feedline.ray
    except ImportError as error:
        yield Line(18, "a fleet on Ray", "krow/s", why_not=f"Ray is not installed: {error}")
        return
    files = FILES // 2 if stage.scale.is_quick else FILES
    folder = stage.scratch / "on-ray"
    _write(folder, files)
    with ExitStack() as running:
        try:
            running.enter_context(loopback.alone())
        except MissingError as error:
            yield Line(18, "a fleet on Ray", "krow/s", why_not=str(error))
            return
        running.enter_context(ray_cluster.cluster("feedline-bench-ray", CPUS, STORE_MB))
        say(f"  a Ray cluster with {CPUS} CPUs")
        target = feedline.ray.start(folder, name="bench", replicas=2)
        common = {"folder": str(folder), "target": target, "batch": BATCH, "rows": files * TOGETHER}
        in_order, shuffled = "Ray Data, in file order", f"Ray Data, local shuffle of {BUFFER}"
        kinds = {"feedline": ("feedline", 0), in_order: ("ray_data", 0), shuffled: ("ray_data", BUFFER)}
        turns = {
            name: partial(_turn, kind, {**common, "buffer": buffer}, is_killed=False)
            for name, (kind, buffer) in kinds.items()
        }
        taken = rounds(turns, stage.scale.pairs)
        size = f"{files * TOGETHER * VALUES * 4 / 1e6:,.0f} MB of Parquet, batches of {BATCH}"
        for peer in (in_order, shuffled):
            ours, theirs = ([one.rows_per_s / 1e3 for one in taken[name]] for name in ("feedline", peer))
            yield Line(
                18, f"{peer}; {size}", "krow/s", _side("feedline, shuffled globally", taken["feedline"], ours),
                _side(peer, taken[peer], theirs), ratio(ours, theirs),
            )  # fmt: skip
        kills = {
            name: partial(_turn, kinds[name][0], {**common, "buffer": 0}, is_killed=True)
            for name in ("feedline", in_order)
        }
        taken = rounds(kills, stage.scale.pairs)
        ours, theirs = ([one.longest_s for one in taken[name]] for name in ("feedline", in_order))
        yield Line(
            18, "kill -9 of what reads, after the first batch: the longest wait for the next", "s",
            Side("feedline, an actor of two", median(ours)), Side("Ray Data, its worker", median(theirs)),
            ratio(ours, theirs),
        )  # fmt: skip
        feedline.ray.stop("bench")


def _turn(kind: str, options: dict[str, Any], *, is_killed: bool) -> Turn:
    """A trainer's second epoch; or its third, in which something is killed."""
    spec = {**options, "epochs": 3 if is_killed else 2, "tell_at": 0 if is_killed else -1}
    command = [sys.executable, "-m", "benchmarks.peers.ray_trainer", kind, json.dumps(spec)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet())
    assert process.stdout is not None
    taken: dict[str, float] = {}
    for line in process.stdout:
        if not line.startswith("{"):  # Ray writes its warnings here too
            continue
        said = json.loads(line)
        if "at" in said:
            _kill(kind)
        else:
            taken = said
    if process.wait() or not taken:
        raise FailedError(f"a trainer ended with code {process.returncode}: {command!r}")
    gb = taken["rows"] * VALUES * 4 / 1e9
    return Turn(taken["rows"] / taken["seconds"], taken["cpu_s"] / gb, taken["longest_s"])


def _side(name: str, turns: list[Turn], values: list[float]) -> Side:
    return Side(name, median(values), trainer_cpu_s_per_gb=median(one.cpu_s_per_gb for one in turns))


def _write(folder: Path, files: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    schema = pa.schema({"x": pa.list_(pa.float32(), VALUES), "y": pa.int64()})
    for file in range(files):
        x = random.normal(size=(TOGETHER, VALUES)).astype(np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), VALUES)
        y = np.arange(file * TOGETHER, (file + 1) * TOGETHER)
        pq.write_table(pa.table({"x": lists, "y": y}, schema), folder / f"part-{file:03}.parquet")


def _kill(kind: str) -> None:
    """kill -9 of what reads for a trainer."""
    if kind == "feedline":
        import feedline.ray

        status = feedline.ray.status("bench")
        psutil.Process(next(one.pid for one in status.replicas if one.state == "serving")).kill()
        return
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for process in ray_cluster.processes():
            with suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith(("ray::Read", "ray::ListFiles", "ray::MapBatches")):
                    process.kill()
                    return
    raise FailedError("no worker of Ray's reads")
