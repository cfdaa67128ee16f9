"""Keras' own PyDataset over the same memory-mapped file, with `workers`, in threads or processes of the trainer.

Batches are taken where `fit` takes them for a backend that wants numpy: from the adapter's iterator over its enqueuer.
`samples` fills a batch row by row, as the well-known tutorial's DataGenerator does; `batched` gathers it at once.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.content import CLASSES, Array

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # the backend is chosen before
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter


class Data(keras.utils.PyDataset):
    """A DataGenerator."""

    def __init__(self, file: Path, batch: int, *, by_row: bool, **workers: Any) -> None:  # Keras' own
        super().__init__(**workers)
        self.x = np.load(file, mmap_mode="r")
        self.file, self.batch, self.by_row = file, batch, by_row
        self.order = np.arange(len(self.x))
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.order) // self.batch

    def on_epoch_end(self) -> None:
        np.random.default_rng().shuffle(self.order)

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        ids = self.order[i * self.batch : (i + 1) * self.batch]
        if not self.by_row:
            return self.x[ids], ids % CLASSES
        x, y = np.empty((len(ids), self.x.shape[1]), np.uint8), np.empty(len(ids), np.int64)
        for place, one in enumerate(ids):
            x[place], y[place] = self.x[one], one % CLASSES
        return x, y


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    data = Data(
        Path(options["folder"]) / "x.npy",
        options["batch"],
        by_row=options["pipeline"] != "batched",
        workers=options["workers"],
        use_multiprocessing=options["processes"],
        max_queue_size=10,
    )
    adapter = PyDatasetAdapter(data, class_weight=None, shuffle=True)
    while True:
        adapter.on_epoch_begin()
        for _, (x, y) in zip(range(len(data)), adapter.get_numpy_iterator(), strict=False):
            yield np.asarray(x), np.asarray(y)
        adapter.on_epoch_end()
        data.on_epoch_end()
