"""A loader that is short of descriptors, processes or threads for a while, or of a thread for good: G1, G4, §12."""

import contextlib
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from breaking import pids
from breaking.numbered import read
from grpc_health.v1 import health_pb2, health_pb2_grpc

import feedline

StartLoader = Callable[..., Any]

SAMPLES = 401
"""Of `numbered`."""


@contextlib.contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """What is started meanwhile may have so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def health(address: str) -> int:
    """What the health service says; UNKNOWN while no connection is to be had."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return int(health_pb2.HealthCheckResponse.UNKNOWN)
    return int(reply.status)


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.05)  # the loader tells nobody


@pytest.mark.alone  # 2,300 descriptors
def test_2300_silent_connections_take_nothing_from_workers_lanes_and_trainers(
    numbered: Path, start_loader: StartLoader
) -> None:
    """At `ulimit -n 1024` the pool's thread ended when a worker was killed meanwhile, and health said SERVING."""
    with descriptors(1024):
        loader = start_loader(numbered, "--workers", "2")
    with contextlib.ExitStack() as silent, feedline.connect(loader.address) as trainer:
        lanes = trainer._fleet._tracker.endpoints[0].description.lanes  # where to
        epoch = trainer.epoch(0, batch_size=4, prefetch=4, timeout_s=60)
        ids = read(epoch, 10)
        host, port = loader.address.rsplit(":", 1)
        for number in range(2300):
            connection = silent.enter_context(socket.socket())
            connection.settimeout(1)
            with contextlib.suppress(OSError):  # it is closed at once, or the queue is full
                connection.connect((host, int(lanes["tcp"] if number % 10 == 0 else port)))
        for worker in loader.workers():
            worker.send_signal(signal.SIGKILL)

        ids += read(epoch, 91)

        assert Counter(ids) == Counter(range(SAMPLES))
        assert trainer.status().counters["workers_restarted"] == 2
        assert len(list(Path(f"/proc/{loader.process.pid}/fd").iterdir())) < 1024 - 2 * 8
    with feedline.connect(loader.address, timeout_s=60) as later:
        assert Counter(read(later.epoch(1, batch_size=4, timeout_s=60), 101)) == Counter(range(SAMPLES))
        assert later.stats.replicas[0].lane == "shm"
    assert health(loader.address) == health_pb2.HealthCheckResponse.SERVING
    assert "Traceback" not in loader.log_text()
    assert loader.stop() == 0


def test_220_datasets_at_1024_descriptors_say_how_many_they_need_and_are_served_with_as_many(
    tmp_path: Path, start_loader: StartLoader
) -> None:
    """Of 500 it said 2048, with which they did not begin either, nor with the setting that it named."""
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "x.npy", np.zeros((4, 1000)))
    np.save(tmp_path / "x" / "y.npy", np.zeros((4, 1000)))
    tables = (f'[datasets.d{number}]\npath = "x"\nkind = "columns"\n' for number in range(220))
    (tmp_path / "loader.toml").write_text("".join(tables))
    with descriptors(1024):
        ended = subprocess.run(
            [sys.executable, "-m", "feedline_server", "serve", str(tmp_path), "--listen", "127.0.0.1:0", "--workers=2"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    assert ended.returncode == 1
    assert "too few file descriptors: " in ended.stderr
    said = re.search(r"let it have (\d+) \(`ulimit -n (\d+)`", ended.stderr)
    assert said is not None, ended.stderr
    assert said[1] == said[2]
    with descriptors(int(said[1])):
        loader = start_loader(tmp_path, "--workers", "2")
    with feedline.connect(loader.address) as trainer:
        assert len(trainer.datasets) == 220
        assert [batch.rows for batch in trainer.epoch(0, dataset="d219")] == [4]
    assert loader.stop() == 0


@pytest.mark.skipif(pids.why_not() is not None, reason=str(pids.why_not()))
def test_a_limit_on_processes_for_some_seconds_costs_those_seconds(numbered: Path, start_loader: StartLoader) -> None:
    """gRPC's thread ended over the first call that wanted a thread; then only kill -9 ended the loader."""
    loader = start_loader(numbered, "--workers", "1")
    with feedline.connect(loader.address) as trainer:
        epoch = trainer.epoch(0, batch_size=4, prefetch=4, timeout_s=60)
        ids = read(epoch, 10)
        with pids.no_more_processes(loader.process.pid):
            for worker in loader.workers():
                worker.send_signal(signal.SIGKILL)
            for _ in range(8):
                with contextlib.suppress(feedline.FeedlineError):
                    feedline.connect(loader.address, timeout_s=0.4).close()
            until(lambda: "cannot start a worker" in loader.log_text(), "a worker could not be started")
            assert health(loader.address) != health_pb2.HealthCheckResponse.SERVING

        ids += read(epoch, 91)

        assert Counter(ids) == Counter(range(SAMPLES))
    until(lambda: health(loader.address) == health_pb2.HealthCheckResponse.SERVING, "it serves again")
    with feedline.connect(loader.address) as later:
        assert Counter(read(later.epoch(1, batch_size=4), 101)) == Counter(range(SAMPLES))
    assert loader.stop() == 0


# ---- what cannot be made good ----


def broken(folder: Path, patch: str) -> "subprocess.Popen[str]":
    """A loader of which something is broken as soon as `folder/now` is there."""
    program = f"""
import os, sys, threading, time
from pathlib import Path
now = Path({str(folder / "now")!r})
{textwrap.dedent(patch)}
from feedline_server.running import loader
loader.LEAVE_S = 0.5
from feedline_server.__main__ import leave, main
leave(main(sys.argv[1:]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(folder / "data"), "--listen", "127.0.0.1:0", "--workers", "1",
         "--port-file", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


POOL = """
from feedline_server.workers import pool
honest = pool.least_loaded
def least_loaded(workers, which):
    if now.exists():
        raise KeyError("a fault of the pool's own")
    return honest(workers, which)
pool.least_loaded = least_loaded
"""

GRPC = """
import grpc._server
honest = grpc._server._handle_call
def handle(*args):
    if now.exists():
        raise KeyError("a fault of gRPC's own")
    return honest(*args)
grpc._server._handle_call = handle
"""


@pytest.mark.parametrize(("patch", "thread"), [(POOL, "feedline-pool"), (GRPC, "_serve")], ids=["pool", "grpc"])
def test_a_loader_whose_vital_thread_ended_ends_with_the_reason_so_that_it_is_started_anew(
    patch: str, thread: str, tmp_path: Path, numbered_columns: Callable[..., Any]
) -> None:
    numbered_columns(tmp_path / "data", 100)
    loader = broken(tmp_path, patch)
    assert loader.stdout is not None
    address = f"127.0.0.1:{loader.stdout.readline().strip()}"
    with feedline.connect(address) as trainer:
        next(trainer.epoch(0, batch_size=2, prefetch=1))
        (tmp_path / "now").touch()

        with contextlib.suppress(feedline.LoaderUnavailable):  # of whichever of the two the thread serves
            trainer.epoch(1, timeout_s=1).__next__()
        with contextlib.suppress(feedline.LoaderUnavailable):
            feedline.connect(address, timeout_s=1)
        _, said = loader.communicate(timeout=30)

    assert loader.returncode == 1
    assert "a thread ended on an unexpected error" in said
    assert "Traceback" in said
    assert thread in said


HANGS = """
from feedline_server.workers.pool import Pool
honest = Pool.close
def close(self):
    honest(self)
    threading.Event().wait()
Pool.close = close
"""


def test_what_hangs_in_the_end_does_not_keep_a_loader(tmp_path: Path, numbered_columns: Callable[..., Any]) -> None:
    """It had logged "stopped", and stayed until kill -9."""
    numbered_columns(tmp_path / "data", 100)
    loader = broken(tmp_path, HANGS)
    assert loader.stdout is not None
    loader.stdout.readline()

    loader.send_signal(signal.SIGTERM)
    _, said = loader.communicate(timeout=30)

    assert loader.returncode == 0
    assert "the end took too long" in said
