"""What must be decoded is kept in memory that workers share, and is right whoever dies while it is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import feedline

CHUNKS, TOGETHER = 40, 25
SAMPLES = CHUNKS * TOGETHER


def test_workers_share_decoded_chunks_and_one_that_is_killed_spoils_none(
    tmp_path: Path, start_loader: Callable[..., Any]
) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        rows = np.repeat(np.arange(SAMPLES, dtype=np.float32), 256).reshape(SAMPLES, 256)
        file.create_dataset("x", data=rows, chunks=(TOGETHER, 256), compression="gzip")
        file["y"] = np.arange(SAMPLES)
    loader = start_loader(tmp_path, "--workers", "2")
    sharing = [one for one in loader.workers() if "feedline-decoded" in Path(f"/proc/{one.pid}/maps").read_text()]

    with feedline.connect(loader.address) as connected:
        for epoch in range(4):
            seen = []
            for number, (x, y) in enumerate(connected.epoch(epoch, batch_size=16)):
                assert (x == y[:, np.newaxis]).all()
                seen += y.tolist()
                if epoch < 3 and number == 3:  # in epoch 0 chunks are still being decoded
                    next(one for one in loader.workers() if one in sharing or epoch).kill()
            assert sorted(seen) == list(range(SAMPLES))

    assert len(sharing) == 2
