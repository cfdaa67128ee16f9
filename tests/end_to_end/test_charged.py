"""What a loader's container is charged for: as docs/design.md states it, with 1, 4 and 50 trainers (promise G5)."""

import contextlib
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import feedline

pytestmark = pytest.mark.alone

GROUPS = Path("/sys/fs/cgroup/memory")
"""Of version 1: that of version 2 has other names, and can hardly be divided where tests run."""

MIB = 1 << 20
BUDGET = 64 * MIB
WORKERS = 2
ROWS = 512
ROW_NBYTES = 64 << 10
LANES = {"shm": (), "tcp": ("--no-shm-lane",), "grpc": ("--no-shm-lane", "--no-tcp-lane")}


def stated(trainers: int) -> int:
    """As docs/design.md and docs/docker.md have it."""
    return BUDGET + 128 * MIB + trainers * 4 * MIB + WORKERS * 40 * MIB


class Contained:
    """A loader in a memory control group of its own."""

    def __init__(self, group: Path, data: Path, *args: str) -> None:
        self.group = group
        command = [sys.executable, "-m", "feedline_server", "serve", str(data), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command, "--port-file", "-", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = f"127.0.0.1:{self.process.stdout.readline().strip()}"

    @property
    def charged(self) -> int:
        """Bytes that are no cache of files."""
        lines = (line.split() for line in (self.group / "memory.stat").read_text().splitlines())
        found = {name: int(value) for name, value in lines}
        return found["total_rss"] + found["total_shmem"]

    @property
    def kills(self) -> int:
        lines = (line.split() for line in (self.group / "memory.oom_control").read_text().splitlines())
        return int(dict(lines)["oom_kill"])

    def close(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        psutil.wait_procs(family, timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def group() -> Iterator[Path]:
    folder = GROUPS / f"feedline-charged-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    (folder / "memory.limit_in_bytes").write_text(str(stated(50)))
    yield folder
    with contextlib.suppress(OSError):
        folder.rmdir()


@pytest.mark.parametrize("lane", LANES)
def test_a_loader_is_charged_for_what_is_stated_and_none_is_killed(lane: str, group: Path, tmp_path: Path) -> None:
    """By the shm lane the loader was charged for all that lay with its trainers: 3 OOM kills with four of them."""
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "x.npy", np.repeat(np.arange(ROWS), ROW_NBYTES // 8).reshape(ROWS, -1))
    loader = Contained(group, data, "--workers", str(WORKERS), "--memory", str(BUDGET), *LANES[lane])
    with contextlib.closing(loader), contextlib.ExitStack() as trainers:
        epochs: list[Any] = []
        for wanted, prefetch in ((1, 64), (4, 64), (50, 6)):
            while len(epochs) < wanted:
                connected = trainers.enter_context(feedline.connect(loader.address))
                feed = connected.feed(batch_size=16, prefetch=prefetch, seed=len(epochs), timeout_s=100)
                epochs.append((connected, iter(feed), feed))
            held, lanes = [], set[str]()
            for connected, epoch, feed in epochs[wanted - min(wanted, 46) :]:
                batches = [next(epoch) for _ in range(8)]
                assert all(bool((batch["x"] == batch.ids[:, None]).all()) for batch in batches)
                lanes.add(connected.stats.replicas[0].lane)  # the first batches may come by gRPC
                held += batches[-2:]
                del batches, feed

            assert lane in lanes
            assert loader.charged < stated(wanted), f"{loader.charged / MIB:.0f} MiB with {wanted} trainers"
        del held
        assert loader.kills == 0
        assert epochs[0][0].status().counters["workers_restarted"] == 0
        epochs.clear()
