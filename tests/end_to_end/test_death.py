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

import psutil
import pytest

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
        epoch = connected.epoch(0, batch_size=2, prefetch=2, timeout_s=2.0)
        next(epoch)
        loader.kill()
        began = time.monotonic()

        with pytest.raises(feedline.LoaderUnavailable, match=loader.address) as caught:
            list(epoch)

        assert time.monotonic() - began < 10
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
    assert psutil.wait_procs(family, timeout=2)[1] == []


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
    _, errors = trainer.communicate(timeout=10)

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
    loader.communicate(timeout=10)

    assert loader.returncode in {0, 130}
    assert psutil.wait_procs(workers, timeout=5)[1] == []


FAMILY = """
import os, subprocess, time

subprocess.Popen(["sleep", "1000"])
if os.fork() == 0:
    time.sleep(1000)
served = [1, 2, 3]
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_the_operators_code_has_started_ends_with_the_loader(
    how: signal.Signals, replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_loader: StartLoader
) -> None:
    """In the process that looks at the objects and in every worker; nothing of it is a child of the loader's."""
    (tmp_path / "family.py").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEEDLINE_TEST_FAMILY", str(tmp_path))
    loader = start_loader(Path("family:served"), "--workers", str(2 * replicas), "--replicas", str(replicas))

    def family() -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FEEDLINE_TEST_FAMILY") == str(tmp_path):
                    found.append(" ".join(process.cmdline()))
        return found

    assert family().count("sleep 1000") == 2 * replicas  # of the process that looked there is nothing left

    loader.process.send_signal(how)
    loader.process.wait(30)

    until = time.monotonic() + 30
    while left := family():
        assert time.monotonic() < until, left
        time.sleep(0.05)  # what has no parent any more wakes nobody when it ends
