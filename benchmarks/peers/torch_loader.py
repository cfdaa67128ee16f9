"""torch DataLoader over the same memory-mapped file, in the trainer's own processes.

`samples` is its default: a sample at a time, and the default collate. `batched` is what its documentation offers for
reading many samples at once: a BatchSampler as the sampler, so that `__getitem__` gets a list of ids. `chars` is a
dataset whose samples cost little: minGPT's characters. feedline serves `Rows` and `Chars` as they are, in row 15.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from benchmarks.content import CLASSES, Array


class Rows(Dataset[Any]):
    """A map dataset of one sample."""

    def __init__(self, file: Path) -> None:
        self.x = np.load(file, mmap_mode="r+")  # torch warns of arrays that may not be written; nothing writes

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Array, int]:
        return self.x[i], i % CLASSES


class Chars(Dataset[Any]):
    """A piece of a text and the same a character later, as minGPT's character dataset has it."""

    def __init__(self) -> None:
        self.data = np.random.default_rng(0).integers(0, 65, 1_000_000)

    def __len__(self) -> int:
        return len(self.data) - 128

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        piece = torch.as_tensor(self.data[i : i + 129])
        return piece[:-1], piece[1:]


class Batches(Rows):
    """The same, asked for a list of ids."""

    def __getitem__(self, ids: Any) -> Any:  # a list here, a number there
        at = np.asarray(ids)
        return torch.from_numpy(self.x[at]), torch.from_numpy(at % CLASSES)


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    file, batch, workers = Path(options["folder"]) / "x.npy", options["batch"], options["workers"]
    rows: Dataset[Any] = (
        Chars() if options["pipeline"] == "chars" else Batches(file) if options["pipeline"] == "batched" else Rows(file)
    )
    shared = {"num_workers": workers, "persistent_workers": workers > 0}
    if options["pipeline"] == "batched":
        ids = BatchSampler(RandomSampler(rows), batch, drop_last=True)
        loader: DataLoader[Any] = DataLoader(rows, sampler=ids, batch_size=None, **shared)
    else:
        loader = DataLoader(rows, batch_size=batch, shuffle=True, drop_last=True, **shared)
    while True:
        for x, y in loader:
            yield x.numpy(), y.numpy()
