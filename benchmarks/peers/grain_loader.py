"""grain over the same memory-mapped file, in the trainer's own processes.

`samples` is its tutorial's: a source of samples, `shuffle`, `batch`, `to_iter_dataset` with its own threads.
`batched` shuffles ids, batches them, and gathers a batch at once. With `workers` either runs in processes
(`mp_prefetch`), as the documentation says for work that Python's lock would stop. `threads` 0 is what `ReadOptions`
recommends for data in memory; None is the default, 16.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from benchmarks.content import CLASSES, Array


class Rows:
    """A random access source of samples."""

    def __init__(self, file: Path) -> None:
        self.x = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Array, int]:
        return self.x[i], i % CLASSES


class Gather:
    """From ids to a batch; opens the file where it runs."""

    def __init__(self, file: Path) -> None:
        self.x = np.load(file, mmap_mode="r")
        self.file = file

    def __reduce__(self) -> tuple[type["Gather"], tuple[Path]]:
        return Gather, (self.file,)

    def __call__(self, ids: Array) -> tuple[Array, Array]:
        return self.x[ids], ids % CLASSES


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    file, batch = Path(options["folder"]) / "x.npy", options["batch"]
    rows = Rows(file)
    if options["pipeline"] == "batched":
        data = grain.MapDataset.range(len(rows)).shuffle(seed=1).repeat().batch(batch).map(Gather(file))
    else:
        data = grain.MapDataset.source(rows).shuffle(seed=1).repeat().batch(batch)
    threads = options["threads"]
    reading = data.to_iter_dataset(None if threads is None else grain.ReadOptions(num_threads=threads))
    if options["workers"]:
        reading = reading.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=options["workers"]))
    yield from reading
