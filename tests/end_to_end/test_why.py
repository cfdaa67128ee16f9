"""Each cause of a wait is made to happen, with real loaders, and the verdict demanded: in the trainer and outside."""

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from proxy import Proxy

import feedline
from feedline.cli import main
from feedline_wire.verdict import Verdict

SECONDS = 2.5
"""Of each training: batches take tens of milliseconds, so there are about a hundred."""

ROW_NBYTES = 16 << 10
ROWS = 512

CODE = """
import os, time
def slowly(x):
    time.sleep(float(os.environ.get("SLOW_MS", "0")) / 1000)
    return x

class Reads:
    def __len__(self):
        return 512
    def __getitem__(self, i):
        time.sleep(0.002)
        return x[i], i
import numpy as np
x = np.zeros((512, 4096), np.float32)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A loader.toml with a transform that takes SLOW_MS a batch."""
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.zeros((ROWS, ROW_NBYTES // 4), np.float32))
    np.save(tmp_path / "d" / "y.npy", np.arange(ROWS))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "loader.toml").write_text(
        '[datasets.d]\npath = "d"\n[[datasets.d.transforms]]\ncode = "mine:slowly"\ncolumns = ["x"]\nper = "batch"\n'
    )
    return tmp_path / "loader.toml"


@dataclass
class Stage:
    """Loaders and trainers of one test."""

    start_loader: Callable[..., Any]
    monkeypatch: pytest.MonkeyPatch

    def loader(self, path: Path, *args: str, slow_ms: float = 0.0) -> str:
        """The address of a loader whose transform takes so long a batch."""
        self.monkeypatch.setenv("SLOW_MS", str(slow_ms))
        return str(self.start_loader(path, *args).address)


@pytest.fixture
def stage(start_loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(start_loader, monkeypatch)


def trained(
    target: str, *, step_s: float = 0.005, seconds: float = SECONDS, together: Barrier | None = None, **arguments: Any
) -> Verdict:
    """A trainer that computes so long a step: what it says of itself at the end, while the others are still there."""
    with feedline.connect(target, timeout_s=60) as loader:
        feed = loader.feed(**{"batch_size": 32, **arguments})
        until = None
        while until is None or time.monotonic() < until:
            for _ in feed:
                until = until or time.monotonic() + seconds  # from its first batch on, as the verdict counts
                time.sleep(step_s)
                if time.monotonic() > until:
                    break
        together = together or Barrier(1)
        together.wait(60)
        verdict = feed.why()
        together.wait(60)
    return verdict


def test_a_slow_transform_is_named_and_the_command_says_the_same(stage: Stage, data: Path) -> None:
    target = stage.loader(data, "--workers", "2", slow_ms=40)
    with ThreadPoolExecutor() as threads:
        training = threads.submit(trained, target, seconds=8)
        seen: dict[str, Any] = {}
        while not training.done():
            time.sleep(0.2)
            with redirect_stdout(io.StringIO()) as said:
                code = main(["why", target, "--json"])
            assert code == 0
            seen = json.loads(said.getvalue()) if training.running() else seen

    verdict = training.result()

    assert (verdict.cause, verdict.stage) == ("workers", "mine:slowly")
    assert "`mine:slowly` on 1 loader with 2 workers, all busy: " in str(verdict)
    assert 0.5 < verdict.waiting_share < 1
    assert (seen["cause"], seen["stage"], seen["training"]) == ("workers", "mine:slowly", "d/train")


def test_too_few_workers_are_counted(stage: Stage, data: Path) -> None:
    target = stage.loader(data, "--workers", "1", slow_ms=50)

    verdict = trained(target, step_s=0.02, seconds=4)

    # 50 ms of a worker, and 20 of the trainer: 2.5 workers.
    assert verdict.cause == "workers"
    assert verdict.more_workers in {1, 2}
    assert f"{verdict.more_workers} more worker" in str(verdict)


def test_a_slow_trainer_is_the_limit(stage: Stage, data: Path) -> None:
    # Small batches, so that no epoch ends: the second one is not read ahead before there is one.
    verdict = trained(stage.loader(data, "--workers", "2"), step_s=0.1, batch_size=8, seconds=8)

    assert verdict.cause == "trainer"
    assert "The trainer is the limit" in str(verdict)


def test_a_slow_disk_is_the_storage(stage: Stage, data: Path) -> None:
    stage.monkeypatch.setenv("PYTHONPATH", str(data.parent))
    target = stage.loader(Path("mine:Reads"), "--workers", "2")

    verdict = trained(target)

    assert verdict.cause == "storage"
    assert "for storage: the workers of 1 loader with 2 workers wait for it" in str(verdict)


def test_a_thin_line_is_the_line(stage: Stage, data: Path) -> None:
    with Proxy(stage.loader(data, "--workers", "2", "--no-tcp-lane", "--no-shm-lane")) as line:
        line.limit(10e6)
        verdict = trained(line.address)

    assert verdict.cause == "line"
    assert "batches stand ready, and arrive at " in str(verdict)


def test_a_small_arena_is_the_memory(stage: Stage, data: Path) -> None:
    verdict = trained(stage.loader(data, "--workers", "4", "--memory", "2MiB", slow_ms=20), step_s=0.0)

    assert verdict.cause == "memory"
    assert "for memory: keys wait for room in the 2.1 MB of 1 loader with 4 workers: memory = " in str(verdict)


def test_one_slow_replica_is_named(stage: Stage, data: Path) -> None:
    quick = stage.loader(data, "--workers", "1", slow_ms=10)
    slow = stage.loader(data, "--workers", "1", slow_ms=80)

    verdict = trained(f"{quick},{slow}", seconds=4)

    assert verdict.cause == "replica"
    assert f"the replica {slow}: a batch takes it " in str(verdict)


def test_one_slow_rank_is_named(stage: Stage, data: Path) -> None:
    address = stage.loader(data, "--workers", "2", "--no-tcp-lane", "--no-shm-lane")
    together = Barrier(2)
    with Proxy(address) as line, ThreadPoolExecutor() as threads:
        line.limit(5e6)
        ranks = [
            threads.submit(trained, target, rank=rank, world=2, step_s=0.05, seconds=4, together=together)
            for rank, target in enumerate((address, line.address))
        ]
        first, second = (one.result() for one in ranks)

    for verdict in (first, second):  # both know of both
        assert verdict.cause == "rank"
        assert str(verdict).startswith("Rank 1 of 2 waited ")


@pytest.mark.alone  # decompression is all that takes time: beside others the line does as well
def test_cold_chunks_are_the_reading(stage: Stage, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        # More of them than are decoded while it trains: each is kept from then on.
        x = np.random.default_rng(0).integers(0, 4, (16384, 4096), np.uint8)
        file.create_dataset("x", data=x, chunks=(4, 4096), compression="gzip", compression_opts=1)
        file["y"] = np.arange(16384)

    verdict = trained(stage.loader(tmp_path / "data.h5", "--workers", "1"), step_s=0.0, seconds=2.5)

    assert (verdict.cause, verdict.stage) == ("workers", "read")
    assert "reading on 1 loader with 1 worker, all busy" in str(verdict)
    assert "data that is read faster (`feedline convert`)" in str(verdict)


@pytest.mark.alone  # a tenth more or less is what it claims: beside others a step and a batch take longer than they say
def test_bench_foretells_what_is_measured_with_so_many_workers(
    stage: Stage, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def benched(workers: int) -> dict[str, Any]:
        target = stage.loader(data, "--workers", str(workers), slow_ms=60)
        main(["bench", target, "--batch-size", "8", "--step-ms", "20", "--seconds", "4", "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    wanted = benched(1)["workers_wanted"]

    assert 2.9 <= wanted <= 3.5  # 60 ms are slept; a batch may be counted in one look and its last ms in another
    assert benched(2)["utilisation"] == pytest.approx(2 / wanted, rel=0.1)
    assert benched(4)["utilisation"] > 0.9
