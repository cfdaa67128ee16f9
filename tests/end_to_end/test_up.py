"""`feedline up`, `status` and `down` on this host: a fleet outlives the command, and what ended is never signalled."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import feedline
from feedline.local import compose, detached
from feedline.local.process import LoaderProcess
from feedline.local.run_directory import Process, Record, RunDirectory
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

pytestmark = pytest.mark.slow

SAMPLES = 101

START_S = 120.0

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = RunDirectory()
    yield found
    for name in found.names():
        if (record := found.read(name)) is not None and record.process is not None:
            detached.stop(name, record, timeout_s=30, directory=found)


@pytest.fixture
def run(directory: RunDirectory) -> Run:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "feedline", *words], check=False, capture_output=True, text=True, timeout=START_S
        )

    return run


@pytest.fixture
def digits(tmp_path: Path, numbered_columns: Callable[..., Any]) -> Path:
    numbered_columns(tmp_path / "digits", SAMPLES)
    return tmp_path / "digits"


def files(directory: RunDirectory) -> list[str]:
    return sorted(file.name for file in directory.path.iterdir())


def until(holds: Callable[[], bool], claim: str) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {START_S:g} s: {claim}"
        time.sleep(0.02)  # a file appears without telling anybody


def test_a_fleet_is_started_fed_from_shown_and_ended(run: Run, digits: Path, directory: RunDirectory) -> None:
    up = run("up", "digits", str(digits), "--replicas", "2", "--workers", "1", "--", "--validation-split", "0.2")
    assert up.returncode == 0, up.stderr
    record = directory.read("digits")
    assert record is not None
    assert record.process is not None
    target = ",".join(record.addresses)
    again = run("up", "digits", str(digits))

    with feedline.connect(target) as loader:
        ids = sorted(
            row
            for view in ("train", "validation")
            for batch in loader.epoch(0, view=view, batch_size=10)
            for row in batch.ids.tolist()
        )
    shown, listed = run("status", "digits"), run("status")
    family = psutil.Process(record.process.pid).children(recursive=True)
    down = run("down", "digits")

    assert ids == list(range(SAMPLES))
    assert len(record.addresses) == 2
    assert f"trainers: feedline.connect({target!r}); look: feedline status digits" in up.stdout
    assert again.returncode == 1
    assert "there is a fleet 'digits' on this host already" in again.stderr
    assert shown.returncode == 0, shown.stderr
    assert f"target: {target}\n" in shown.stdout
    assert shown.stdout.count("serving, 1 worker ") == 2
    serves = f"process {record.process.pid} serves {digits} --validation-split 0.2, 2 loaders with 1 worker each; its "
    assert all(f"local fleet digits: {serves}" in one.stdout for one in (up, shown, listed))
    assert (down.returncode, down.stdout) == (0, "local fleet digits: ended\n"), down.stderr
    assert not psutil.wait_procs([*family], timeout=10)[1]
    assert not record.process.is_running
    assert files(directory) == ["digits.log"]


PAGE = Path(__file__).parents[2] / "docs/tools.md"


def test_the_commands_of_the_page_start_show_and_end_a_fleet(
    run: Run, digits: Path, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line, as they stand there, beside the data."""
    monkeypatch.chdir(digits.parent)
    section = PAGE.read_text().partition("\n## Loaders in the background")[2]
    (block, *_) = re.findall(r"^```bash\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    said = []

    for program, *words in [shlex.split(line, comments=True) for line in block.splitlines()]:
        assert program == "feedline"
        done = run(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)

    up, shown, listed, down = said
    assert "trainers: feedline.connect(" in up
    assert shown.count("serving, ") == 2
    assert "local fleet digits: process " in listed
    assert down == "local fleet digits: ended\n"
    assert directory.names() == []


def test_without_a_fleet_status_says_how_one_is_started(run: Run) -> None:
    shown, on_ray = run("status"), run("status", "--on", "ray")

    assert (shown.returncode, shown.stdout) == (
        0,
        "there is no fleet on this host; `feedline up NAME PATH` starts one\n",
    )
    assert on_ray.returncode == 1
    assert "--on ray: say which fleet, as `feedline status NAME --on ray`" in on_ray.stderr


def test_what_cannot_be_served_is_said_in_the_loaders_words_and_nothing_stays(
    run: Run, tmp_path: Path, directory: RunDirectory
) -> None:
    up = run("up", "digits", str(tmp_path / "nothing"))

    assert up.returncode == 1
    assert "nothing: there is no such file or folder; wanted a loader.toml or a folder of data" in up.stderr

    up = run("up", "digits", str(tmp_path), "--", "--bogus")

    assert up.returncode == 1
    assert up.stderr.endswith("with code 2 before it served: feedline serve: error: there is no option --bogus\n")
    assert files(directory) == []


def test_of_a_start_that_failed_with_more_to_say_than_an_error_holds_the_log_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: RunDirectory
) -> None:
    (tmp_path / "talks.py").write_text("import sys\nprint(*range(1000), sep='\\n', file=sys.stderr)\n1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(LoaderUnavailable, match=r"ZeroDivisionError(?s:.*)its log: .*digits\.log"):
        detached.start("talks:data", (), name="digits", replicas=1, workers=1, timeout_s=START_S, directory=directory)

    assert files(directory) == ["digits.log"]


def test_a_start_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: RunDirectory
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(10_000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = [sys.executable, "-m", "feedline", "up", "digits", "endless:data"]

    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0) as command:
        until(lambda: "digits.json" in files(directory), "it is noted")
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=START_S)

    assert command.returncode != 0
    assert files(directory) == []
    assert not [one for one in psutil.process_iter(["cmdline"]) if "endless:data" in (one.info["cmdline"] or [])]


def test_without_docker_a_start_with_compose_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: RunDirectory
) -> None:
    """It left a fleet that could be neither started nor ended."""
    (tmp_path / "docker-compose.yml").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    with pytest.raises(compose.ComposeFailed, match="neither `docker compose` nor `docker-compose` is here"):
        compose.start(
            tmp_path, name="digits", replicas=1, workers=1, file=tmp_path / "docker-compose.yml", directory=directory
        )

    assert files(directory) == []


def test_of_commands_at_once_one_at_a_time_has_the_fleet_and_no_lock_stays(directory: RunDirectory) -> None:
    holders: list[int] = []
    most: list[int] = []
    held = threading.Semaphore(0)

    def start_and_end(number: int) -> None:
        for _ in range(300):
            with contextlib.suppress(InvalidRequest), directory.locked("digits"):
                holders.append(number)
                most.append(len(holders))
                holders.remove(number)
                held.release()

    threads = [threading.Thread(target=start_and_end, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(START_S)

    assert held.acquire(blocking=False)
    assert set(most) == {1}
    assert files(directory) == []


def test_a_process_that_got_the_id_of_a_loader_is_left_alone(run: Run, directory: RunDirectory) -> None:
    mine = Process.of(os.getpid())
    assert mine is not None
    directory.write("digits", Record("local", ("/data",), 1, Process(mine.pid, "1@of another boot"), ("127.0.0.1:1",)))

    shown, down, unknown = run("status", "digits"), run("down", "digits"), run("down", "digits")

    assert shown.returncode == 1
    assert "it has ended; it was to serve /data" in shown.stdout
    assert (down.returncode, down.stdout) == (0, "local fleet digits: it had ended already; forgotten\n"), down.stderr
    assert unknown.returncode == 1
    assert "there is no fleet 'digits' on this host; there are: none" in unknown.stderr


def test_a_fleet_whose_loader_was_killed_can_be_started_again_under_its_name(
    digits: Path, directory: RunDirectory
) -> None:
    options: dict[str, Any] = {"replicas": 1, "workers": 1, "timeout_s": START_S, "directory": directory}
    first = detached.start(digits, (), name="digits", **options)
    assert first.process is not None
    psutil.Process(first.process.pid).kill()
    os.waitpid(first.process.pid, 0)

    second = detached.start(digits, (), name="digits", **options)

    assert second.process is not None
    assert second.process.is_running
    with feedline.connect(second.addresses[0]) as loader:
        assert loader.dataset().samples == SAMPLES
    assert detached.stop("digits", second, timeout_s=30, directory=directory)


def test_a_loader_that_never_becomes_ready_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: RunDirectory
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(10_000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(LoaderUnavailable, match=r"did not serve within 1 s; its log: .*digits\.log"):
        detached.start("endless:data", (), name="digits", replicas=1, workers=1, timeout_s=1, directory=directory)

    assert files(directory) == ["digits.log"]
    assert not [one for one in psutil.process_iter(["cmdline"]) if "endless:data" in (one.info["cmdline"] or [])]


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feedline").mkdir()
    (tmp_path / "feedline").chmod(0o777)

    with pytest.raises(InvalidRequest, match="others own it or may write to it"):
        RunDirectory(tmp_path / "feedline")


def test_a_record_that_is_none_is_named_and_two_commands_at_once_are_told_apart(directory: RunDirectory) -> None:
    directory.file("digits", "json").write_text(json.dumps({"engine": "local"}))

    with pytest.raises(InvalidRequest, match=r"digits\.json: is not what `feedline up` wrote"):
        directory.read("digits")
    directory.forget("digits")
    with (
        directory.locked("digits"),
        pytest.raises(InvalidRequest, match="is being started or ended by another command"),
    ):
        directory.locked("digits").__enter__()
    with pytest.raises(InvalidRequest, match="the name of a fleet is"):
        directory.read("../digits")


def test_a_loader_ends_with_a_starter_that_blocks_signals(digits: Path) -> None:
    """Ray's workers do, and what they start inherits it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process = LoaderProcess("digits", [str(digits), "--workers", "1", "--listen", "127.0.0.1:0"], folders=())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        process.port()
        family = psutil.Process(process.pid).children(recursive=True)

        process.close_pipes()  # as the end of this process would

        assert process.wait(START_S) == 0
        assert not psutil.wait_procs(family, timeout=10)[1]
    finally:
        process.end()
