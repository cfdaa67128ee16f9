"""Row 12: the first batch of a billion-sample view, for a client that was not there before; and what the order costs.

The loader is warm: another client had batches of another epoch. The samples are a sparse file, so content is checked by
the ids that come with the batch: in range, none twice, and scattered.

    python -m benchmarks.rows.first_batch ADDRESS EPOCH       one cold client
"""

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks import lanes
from benchmarks.consumer import ROOT, quiet
from benchmarks.content import WrongContentError
from benchmarks.lines import Bound, Line, Side
from benchmarks.pairs import Ratio
from benchmarks.stage import Stage

SAMPLES = 1_000_000_000
ROW_NBYTES = 16
BATCH = 256

KEPT_MB = 1.0
"""What may differ without being an index: a heap's own rounding. numpy's permutation has 8,000, torch's list 48,000."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    samples = 10**6 if stage.scale.is_quick else SAMPLES
    folder = stage.scratch / "many"
    folder.mkdir()
    np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=(samples, ROW_NBYTES)).flush()
    with ExitStack() as running:
        address, pid = lanes.loader(running, folder, stage.scratch, "tcp")
        for epoch in range(8):  # every worker has had one
            _client(address, epoch, samples)
        before = _private_mb(pid)
        first = [_client(address, epoch, samples) for epoch in range(8, 8 + max(5, 2 * stage.scale.pairs))]
        grown = max(0.0, _private_mb(pid) - before)
    (folder / "x.npy").unlink()
    waits = [one["import_s"] + one["first_batch_s"] for one in first]
    yield Line(
        12, "first batch of 1,000,000,000 samples: import, connect, wait", "s",
        ours=Side("feedline, tcp", median(waits)),
        ratio=Ratio(median(waits), min(waits), max(waits)), bound=Bound("<=", 0.3, 0.1),
        more={"without_import_s": median(one["first_batch_s"] for one in first)},
    )  # fmt: skip
    yield Line(
        12, f"memory that the loader keeps for {len(first)} new epochs' orders", "MB",
        ours=Side("feedline, tcp", grown), ratio=Ratio(grown, grown, grown), bound=Bound("<=", KEPT_MB),
    )  # fmt: skip


def _client(address: str, epoch: int, samples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.rows.first_batch", address, str(epoch), str(samples)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=quiet())
    took: dict[str, float] = json.loads(done.stdout)
    return took


def _private_mb(pid: int) -> float:
    """Memory that is the loader's processes' own: neither files nor the arena."""
    root = psutil.Process(pid)
    each = [Path(f"/proc/{one.pid}/status").read_text() for one in [root, *root.children(recursive=True)]]
    lines = [line for status in each for line in status.splitlines() if line.startswith("RssAnon:")]
    return sum(int(line.split()[1]) for line in lines) / 1000


def client(address: str, epoch: int, samples: int) -> None:
    """Connect, take one batch, say how long it took."""
    began = time.perf_counter()
    import feedline

    imported = time.perf_counter()
    with feedline.connect(address) as loader:
        batch = next(loader.epoch(epoch, batch_size=BATCH, seed=1))
        arrived = time.perf_counter()
        ids = np.sort(batch.ids)
        if ids[0] < 0 or ids[-1] >= samples or not np.diff(ids).all() or ids[-1] - ids[0] < samples // 2:
            raise WrongContentError(f"{batch!r} is not {BATCH} samples out of {samples:,}")
    print(json.dumps({"import_s": imported - began, "first_batch_s": arrived - imported}))


if __name__ == "__main__":
    client(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
