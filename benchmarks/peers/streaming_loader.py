"""MosaicML streaming: the same rows as MDS shards on this machine, read in torch's worker processes.

Rows are stored as bytes, its cheapest encoding, without compression or hashes; shuffled with its default algorithm.
"""

import fcntl
import importlib
import importlib.machinery
import shutil
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.content import CLASSES, Array


def _import() -> Any:  # the module
    # Its part for images, unused here, imports torchvision, which fails to load beside another build of torch than its
    # own. Empty stand-ins save that, and a second of starting.
    for name, held in {"torchvision": (), "torchvision.datasets": ("VisionDataset",), "torchvision.transforms": (),
                       "torchvision.transforms.functional": ("to_tensor",)}.items():  # fmt: skip
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for held_name in held:
            setattr(module, held_name, type(held_name, (), {}))
    return importlib.import_module("streaming")


def shards(folder: Path) -> Path:
    """The folder's rows as MDS shards, written once."""
    streaming = _import()
    out = folder.with_name(f"{folder.name}-mds")
    with folder.with_name(f"{folder.name}-mds-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "index.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            x = np.load(folder / "x.npy", mmap_mode="r")
            with streaming.MDSWriter(out=str(out), columns={"x": "bytes", "y": "int"}) as writer:
                for i, row in enumerate(x):
                    writer.write({"x": row.tobytes(), "y": i % CLASSES})
    return out


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    folder, batch = Path(options["folder"]), options["batch"]
    streaming = _import()
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(shards(folder)), shuffle=True, batch_size=batch)

    def collate(samples: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.stack([np.frombuffer(sample["x"], np.uint8) for sample in samples])
        return torch.from_numpy(x), torch.tensor([sample["y"] for sample in samples])

    workers = options["workers"]
    loader = streaming.StreamingDataLoader(
        data, batch_size=batch, num_workers=workers, collate_fn=collate, drop_last=True, persistent_workers=workers > 0
    )
    while True:
        for x, y in loader:
            yield x.numpy(), y.numpy()
