"""`feedline serve --replicas N`: one command, several loaders, all of which begin, end and are replaced together."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port

import feedline

SAMPLES = 101
StartLoader = Callable[..., Any]


def loaders_of(command: Any) -> list[psutil.Process]:
    """The loaders themselves, in the order of their ports; not their workers."""
    return psutil.Process(command.process.pid).children()


def logged(command: Any, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in command.log_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_one_line_says_all_addresses_and_a_trainer_that_names_them_is_fed_by_all(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "3")

    [line] = logged(command, "all replicas serve")
    assert line["addresses"] == command.address  # which the port file gave
    answered: list[int] = []
    with feedline.connect(line["addresses"]) as loader:
        for epoch in range(200):  # 51 small batches may all have come before the second connection stands
            ids = [id_ for batch in loader.epoch(epoch, batch_size=2) for id_ in batch.ids.tolist()]
            assert Counter(ids) == Counter(range(SAMPLES))
            answered = [one.answered for one in loader.stats.replicas]
            if all(answered):
                break
    assert len(answered) == 2
    assert all(answered)
    # Each says so by itself, maybe after the line about all.
    assert [one["workers"] for one in logged(command, "serving")] in ([2, 1], [1, 2])


def test_a_replica_that_is_killed_is_replaced_at_its_address_and_the_epoch_is_whole(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "2")
    first, second = command.address.split(",")
    with feedline.connect(first) as one, feedline.connect(command.address) as loader:
        before = one.status().replica
        ids = []
        for batch in loader.epoch(0, batch_size=2, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index == 10:
                loaders_of(command)[0].kill()

        with feedline.connect(first) as again:
            assert again.status().replica != before
    assert Counter(ids) == Counter(range(SAMPLES))
    [line] = logged(command, "a replica ended, starting it again")
    assert (line["address"], line["cause"]) == (first, "signal SIGKILL: killed, for instance for want of memory")
    assert second != first


def test_a_rolling_restart_is_a_sigterm_to_each_and_the_trainer_does_not_notice(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "2")
    old = loaders_of(command)
    with feedline.connect(command.address) as loader:
        ids = []
        for batch in loader.epoch(0, batch_size=1, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index in {10, 50}:
                process = old.pop()
                process.terminate()
                process.wait(30)

    assert Counter(ids) == Counter(range(SAMPLES))
    until = time.monotonic() + 30
    while len(ended := logged(command, "a replica ended, starting it again")) < 2 and time.monotonic() < until:
        time.sleep(0.05)  # nobody is told of a line of a log
    assert len(ended) == 2


def test_sigterm_drains_all_of_them(hundred_and_one: Path, start_loader: StartLoader) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "2")

    code = command.stop()  # asserts that no process is left

    assert code == 0
    assert len(logged(command, "draining")) == 2
    assert len(logged(command, "stopped")) == 2


@pytest.mark.alone
def test_ctrl_c_ends_all_of_them_in_under_a_second(hundred_and_one: Path, start_loader: StartLoader) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "2")
    family = command.workers()
    with feedline.connect(command.address) as loader:
        next(loader.epoch(0, batch_size=2))

        command.process.send_signal(signal.SIGINT)
        code = command.process.wait(5)  # a second is promised; a busy machine may take its time to schedule us

    assert code == 0, command.log_text()
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_killed_command_leaves_no_loader_and_no_worker(hundred_and_one: Path, start_loader: StartLoader) -> None:
    command = start_loader(hundred_and_one, "--replicas", "2", "--workers", "2")
    assert len(command.workers()) == 4

    command.kill()  # asserts that they are gone


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_that_is_taken_ends_all_with_the_reason(hundred_and_one: Path, which: int) -> None:
    """A loader that is ended while it imports says nothing of that: a traceback would hide the reason."""
    first = free_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", first + which)):
        words = ["serve", str(hundred_and_one), "--replicas", "2", "--workers", "2"]

        command = subprocess.run(
            [sys.executable, "-m", "feedline_server", *words, "--listen", f"127.0.0.1:{first}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert command.returncode == 1
    assert f"cannot listen on '127.0.0.1:{first + which}'" in command.stderr
    assert "Traceback" not in command.stderr


def test_more_replicas_than_workers_are_refused(hundred_and_one: Path) -> None:
    command = subprocess.run(
        [sys.executable, "-m", "feedline_server", "serve", str(hundred_and_one), "--replicas", "3", "--workers", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert command.returncode == 1
    assert "feedline serve: replicas is 3, with 2 workers" in command.stderr
