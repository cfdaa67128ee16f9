"""Data that becomes another version under its trainers: the old folder is renamed away, another takes its place.

Every value says of which sample and version it is. Whoever has begun has the old version, whole; who begins when all
loaders were reloaded has the new one, whole.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import feedline
from breaking.shortages import SETTLED_S, Trust
from breaking.stage import Loader

SAMPLES = 60
ONCE = Counter(range(SAMPLES))

MORE = 1000
"""Of a version, above the one before it."""

RELOADED = '"event": "reloaded"'

TOML = """
[datasets.files]
path = "rolled/files"

[datasets.table]
path = "rolled/table"
"""
"""A file a sample, which a worker opens in a folder that it holds; and one that it opens by its path for each read."""

NAMES = ("files", "table")


class Rolled:
    """The folder `rolled` in `folder`, which is replaced by its next version."""

    def __init__(self, folder: Path) -> None:
        self._now = folder / "rolled"
        self._version = 0
        _write(self._now, 0)

    def update(self, loaders: Sequence[Loader], trust: Trust, hurt: Callable[[Loader], None]) -> None:
        """Replace it under an epoch, with one loader reloaded after the other; each is hurt before it is."""
        addresses = [loader.address for loader in loaders]
        old, new = self._version * MORE, (self._version + 1) * MORE
        away = self._now.with_name(f"rolled.{self._version}")
        with feedline.connect(addresses, timeout_s=SETTLED_S, **trust) as began:
            epochs = {name: _epoch(began, name) for name in NAMES}
            ids = {name: Counter(_ids(epoch, old, 4)) for name, epoch in epochs.items()}
            next_one = _write(self._now.with_name("rolled.next"), new)
            self._now.rename(away)
            next_one.rename(self._now)
            self._version += 1
            for number, loader in enumerate(loaders):
                hurt(loader)
                _reload(loader)
                with feedline.connect(addresses, timeout_s=SETTLED_S, **trust) as begins:
                    for name in NAMES:
                        found = Counter(_ids(_epoch(begins, name), old if number < len(loaders) - 1 else new))
                        assert found == ONCE, f"{name}: who begins after {number + 1} were reloaded has {found}"
            for name, epoch in epochs.items():
                ids[name].update(_ids(epoch, old))
                assert ids[name] == ONCE, f"{name}: who began before has {ids[name]}"
        shutil.rmtree(away)


def _write(folder: Path, more: int) -> Path:
    files = folder / "files"
    (files / "data").mkdir(parents=True)
    for sample in range(SAMPLES):
        np.save(files / "data" / f"{sample}.npy", np.full(8, sample + more))
    (files / "partition.json").write_text(json.dumps({"train": list(range(SAMPLES))}))
    (files / "labels.json").write_text(json.dumps(dict.fromkeys(map(str, range(SAMPLES)), 0)))
    (folder / "table").mkdir()
    pq.write_table(pa.table({"x": np.arange(SAMPLES) + more}), folder / "table" / "x.parquet", row_group_size=5)
    return folder


def _epoch(loader: feedline.Loader, name: str) -> feedline.Epoch:
    return loader.epoch(0, dataset=name, batch_size=4, prefetch=2, timeout_s=SETTLED_S)


def _ids(epoch: feedline.Epoch, more: int, batches: int = SAMPLES) -> Iterator[int]:
    """The ids of the next batches, all of which are of one version."""
    for _, batch in zip(range(batches), epoch, strict=False):
        x = batch.data[0] if isinstance(batch.data, tuple) else batch.data
        rows = np.asarray(x).reshape(batch.rows, -1)
        assert (rows == batch.ids[:, None] + more).all(), f"{batch} has {rows[:, 0]}, not of version {more // MORE}"
        yield from batch.ids.tolist()


def _reload(loader: Loader) -> None:
    """By the command; blocks until the loader says that it is done."""
    before = loader.log_text().count(RELOADED)
    command = [sys.executable, "-m", "feedline", "reload", "--pid", str(loader.process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + SETTLED_S
    while loader.log_text().count(RELOADED) == before:
        assert time.monotonic() < until, f"{loader} was not reloaded:\n{loader.log_text()[-3000:]}"
        time.sleep(0.1)  # only its log tells
