"""A loader that dies, restarts, drains, comes late; a trainer that is interrupted or killed (promises G1, G4, G6)."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ports import free_address

import feedline

SAMPLES = 101
StartLoader = Callable[..., Any]


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def test_a_loader_that_dies_in_mid_epoch_is_a_typed_error_within_the_deadline(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one)
    with feedline.connect(loader.address) as connected:
        epoch = connected.epoch(0, batch_size=2, prefetch=2, timeout_s=8.0)
        next(epoch)
        loader.kill()
        began = time.monotonic()

        with pytest.raises(feedline.LoaderUnavailable, match=loader.address) as caught:
            list(epoch)

        assert time.monotonic() - began < 30  # a busy machine may be late to look; without a deadline it is 60
        assert "positions" in str(caught.value)  # names the key


def test_a_loader_that_dies_and_comes_back_within_the_deadline_loses_nothing(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one)
    with feedline.connect(loader.address) as connected:
        ids = []
        for batch in connected.epoch(0, batch_size=2, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index == 20:
                loader.kill()
                start_loader(hundred_and_one, "--listen", loader.address)

    assert Counter(ids) == Counter(range(SAMPLES))


def test_a_loader_that_drains_finishes_what_it_began_and_another_on_its_address_goes_on(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one)
    with feedline.connect(loader.address) as connected:
        ids = []
        for batch in connected.epoch(0, batch_size=2, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index == 20:
                assert loader.stop() == 0
                start_loader(hundred_and_one, "--listen", loader.address)

    assert Counter(ids) == Counter(range(SAMPLES))


def test_a_loader_that_starts_later_than_the_trainer_is_waited_for(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    address = start_loader(hundred_and_one).address  # a port that was free a moment ago
    start_loader(hundred_and_one)
    connected: list[feedline.Loader] = []
    taken = start_loader(hundred_and_one)
    free = taken.address
    taken.stop()
    trainer = threading.Thread(target=lambda: connected.append(feedline.connect(free)))
    trainer.start()

    start_loader(hundred_and_one, "--listen", free)
    trainer.join(30)

    assert address != free
    with connected[0] as loader:
        assert loader.datasets["numbered"].samples == SAMPLES


def test_an_address_where_nobody_listens_is_a_typed_error_that_names_it(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one)
    loader.stop()

    with pytest.raises(feedline.LoaderUnavailable, match=rf"{loader.address}.*feedline serve"):
        feedline.connect(loader.address, timeout_s=1.0)


def test_a_second_loader_on_a_taken_port_says_so_and_ends(hundred_and_one: Path, start_loader: StartLoader) -> None:
    loader = start_loader(hundred_and_one)

    second = subprocess.run(
        [sys.executable, "-m", "feedline_server", "serve", str(hundred_and_one), "--listen", loader.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert f"cannot listen on '{loader.address}'" in second.stderr


@pytest.mark.alone  # looks at all shared memory of the machine
def test_a_killed_loader_leaves_no_process_no_shared_memory_and_no_socket(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    before = shared_memory()
    loader = start_loader(hundred_and_one, "--workers", "3")
    with feedline.connect(loader.address) as connected:
        next(connected.epoch(0, batch_size=10))
        assert len(loader.workers()) == 3

        loader.kill()  # asserts that the workers are gone

    assert shared_memory() == before
    start_loader(hundred_and_one, "--listen", loader.address)  # the port is free again


@pytest.mark.alone
def test_ctrl_c_ends_a_loader_that_is_serving_in_under_a_second(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one)
    family = loader.workers()
    with feedline.connect(loader.address) as connected:
        epoch = connected.epoch(0, batch_size=2, timeout_s=1.0)
        next(epoch)

        loader.process.send_signal(signal.SIGINT)
        code = loader.process.wait(5)  # a second is promised; a busy machine may take its time to schedule us

    assert code == 0
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_ctrl_c_ends_a_trainer_that_waits(hundred_and_one: Path, start_loader: StartLoader) -> None:
    loader = start_loader(hundred_and_one, "--workers", "1")
    for worker in loader.workers():
        worker.suspend()  # so that no batch ever comes
    trainer = subprocess.Popen(
        [sys.executable, "-c", f"import feedline; next(feedline.connect({loader.address!r}).epoch(0))"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with feedline.connect(loader.address) as watcher:
        until = time.monotonic() + 30
        while not watcher.status().trainers and time.monotonic() < until:
            time.sleep(0.05)  # a stream appears without telling anybody but the loader

    trainer.send_signal(signal.SIGINT)
    _, errors = trainer.communicate(timeout=60)

    assert trainer.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


def test_a_killed_trainer_frees_what_it_held_on_the_loader(hundred_and_one: Path, start_loader: StartLoader) -> None:
    loader = start_loader(hundred_and_one)
    code = textwrap.dedent(
        f"""
        import feedline, time
        epoch = feedline.connect({loader.address!r}).epoch(0, batch_size=2)
        next(epoch)
        print("reading", flush=True)
        time.sleep(60)
        """
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "reading\n"

    os.kill(trainer.pid, signal.SIGKILL)
    trainer.communicate()

    with feedline.connect(loader.address) as watcher:
        until = time.monotonic() + 30
        while (watcher.status().trainers or watcher.status().counters["arena_lent"]) and time.monotonic() < until:
            time.sleep(0.05)
        status = watcher.status()
    assert list(status.trainers) == []
    assert status.counters["arena_lent"] == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_loader_that_is_told_to_stop_while_it_starts_leaves_nothing(
    hundred_and_one: Path, how: signal.Signals
) -> None:
    loader = subprocess.Popen(
        [sys.executable, "-m", "feedline_server", "serve", str(hundred_and_one), "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
    )
    process = psutil.Process(loader.pid)
    until = time.monotonic() + 30
    while not (workers := process.children()) and time.monotonic() < until:
        time.sleep(0.01)

    loader.send_signal(how)
    loader.communicate(timeout=60)

    assert loader.returncode in {0, 130}
    assert psutil.wait_procs(workers, timeout=30)[1] == []


FAMILY = """
import multiprocessing, os, subprocess, sys, time
import numpy as np

def double(i):
    return 2 * i

if multiprocessing.parent_process() is None:  # not in the pools' own processes
    subprocess.Popen(["sleep", "1000"])
    subprocess.Popen("sleep 1001 & sleep 1002", shell=True)
    if os.fork() == 0:
        time.sleep(1000)

class Data:
    pools = None
    def __len__(self):
        return 8
    def __getitem__(self, i):
        if self.pools is None:
            self.pools = [multiprocessing.get_context(how).Pool(2) for how in ("fork", "spawn", "forkserver")]
        return {"x": np.array([pool.apply(double, (int(i),)) for pool in self.pools])}
"""

BUILDS_S = 240.0
"""Until three pools are there: 3 s on a quiet machine; at a load of 35 they took more than a minute."""

BUILDS = (
    FAMILY
    + """
class Builds(Data):
    def __init__(self):
        self[0]
        open(os.environ["FEEDLINE_TEST_FAMILY"] + "/builds", "w").close()
        time.sleep(1000)
"""
)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The command lines of all processes of the operator's module, wherever they are."""
    (tmp_path / "family.py").write_text(BUILDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEEDLINE_TEST_FAMILY", str(tmp_path))

    def found() -> list[str]:
        commands = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FEEDLINE_TEST_FAMILY") == str(tmp_path):
                    commands.append(" ".join(process.cmdline()))
        return commands

    return found


def none_is_left(family: Callable[[], list[str]]) -> None:
    until = time.monotonic() + 30
    while left := family():
        assert time.monotonic() < until, left
        time.sleep(0.05)  # what has no parent any more wakes nobody when it ends


@pytest.mark.timeout(2 * BUILDS_S)
@pytest.mark.parametrize(
    ("how", "replicas"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGINT, 1)]
)
def test_what_the_operators_code_has_started_ends_with_the_loader(
    how: signal.Signals, replicas: int, family: Callable[[], list[str]], start_loader: StartLoader
) -> None:
    """In the process that looks at the objects and in every worker: programs, a fork, pools of each kind."""
    options = ("--workers", str(2 * replicas), "--replicas", str(replicas), "--batch-timeout-s", str(BUILDS_S))
    loader = start_loader(Path("family:Data"), *options)
    with feedline.connect(loader.address) as connected:
        for batch in connected.epoch(0, batch_size=1, order="sequential", timeout_s=BUILDS_S):
            assert batch["x"].tolist() == [[2 * batch.index] * 3]
    commands = family()
    assert commands.count("sleep 1000") == 2 * replicas  # of the process that looked there is nothing left
    assert sum("multiprocessing" in command for command in commands) >= 5  # of one worker at least

    loader.process.send_signal(how)
    loader.process.wait(30)

    none_is_left(family)


@pytest.mark.timeout(2 * BUILDS_S)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_the_operators_code_has_started_ends_with_a_loader_that_still_builds_it(
    how: signal.Signals, family: Callable[[], list[str]], tmp_path: Path
) -> None:
    loader = subprocess.Popen(
        [sys.executable, "-m", "feedline_server", "serve", "family:Builds", "--listen", "127.0.0.1:0"],
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + BUILDS_S
        while not (tmp_path / "builds").exists():
            assert loader.poll() is None, "it ended before it was told to"
            assert time.monotonic() < until
            time.sleep(0.05)  # the module of the operator tells nobody
        assert len(family()) > 10

        loader.send_signal(how)
        loader.wait(30)

        none_is_left(family)
    finally:
        loader.kill()
        loader.wait()


SLOW = """
import time
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


class Slow:
    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i == 3 and (FOLDER / "serving").exists():
            (FOLDER / "asked").touch()
            while not (FOLDER / "go").exists():
                time.sleep(0.05)
        return np.full(2, i, np.float32)


made = Slow()
"""


def test_a_loader_whose_drain_is_waited_for_is_alive_and_gets_no_work(
    tmp_path: Path, start_loader: StartLoader
) -> None:
    """A liveness probe that failed then would have an orchestrator kill it, and the batch that it assembles with it."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "loader.toml").write_text('[datasets.slow]\nkind = "python"\nobject = "slow:made"\n')
    health = free_address()
    loader = start_loader(tmp_path, "--workers", "1", "--health-listen", health)
    ids: list[int] = []

    def read() -> None:
        with feedline.connect(loader.address) as connected:
            for batch in connected.epoch(batch_size=1, order="sequential"):
                ids.extend(batch.ids.tolist())

    trainer = threading.Thread(target=read)
    with grpc.insecure_channel(health) as kubelet:
        check = health_pb2_grpc.HealthStub(kubelet).Check

        def says() -> list[int]:
            names = ("", "feedline.v1.Loader", "live")
            return [check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in names]

        before = says()
        (tmp_path / "serving").touch()
        trainer.start()
        until = time.monotonic() + 30
        while not (tmp_path / "asked").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        loader.drain()
        while health_pb2.HealthCheckResponse.SERVING in (during := says())[:2]:  # asked one by one, they may differ
            assert time.monotonic() < until
        (tmp_path / "go").touch()
        code = loader.stop()
    trainer.join(30)

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert before == [serving, serving, serving]
    assert during == [not_serving, not_serving, serving]
    assert code == 0
    assert ids == [0, 1, 2, 3]
