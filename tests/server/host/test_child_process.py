"""Children with children of their own, all of them real: what is left of them is counted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from feedline_server.host.child_process import ChildProcess, Exit

MARK = "FEEDLINE_TEST_FAMILY"
"""The environment variable by which a child's whole family is known, whoever is its parent by now."""

GONE_S = 20
"""What is killed is gone in milliseconds; a busy machine may take its time to tell."""

CHILD = """
import os, subprocess, sys, threading, time
from feedline_server.host.child_process import connect_to_parent, give_up_after, stay
parent = connect_to_parent()
for what in iter(parent.recv, "end"):
    if what == "start children":
        subprocess.Popen(["sleep", "1000"])
        if os.fork() == 0:
            time.sleep(1000)
    elif what == "crash":
        import ctypes
        ctypes.string_at(0)
    elif what == "hang":
        give_up_after(0.2)
        time.sleep(1000)
    elif what == "take your time":
        give_up_after(0.2)
        stay()
        time.sleep(0.5)
    parent.send(what)
sys.exit(3)
"""

PARENT = """
import sys, time
from feedline_server.host.child_process import ChildProcess
children = [ChildProcess([sys.argv[1]]) for _ in range(2)]
for child in children:
    child.connection.send("start children")
    child.connection.recv()
print("started", flush=True)
for line in sys.stdin:
    child = ChildProcess([sys.argv[1]])
    child.connection.send("start children")
    child.connection.recv()
    print("another", flush=True)
"""


def family(mark: str) -> set[int]:
    """Living processes with this mark, by id."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def guards(of: int) -> list[psutil.Process]:
    """The guard of this process."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if len(words) > 1 and words[-2].endswith("group_guard.py") and words[-1] == str(of):
                found.append(process)
    return found


def until(holds: Callable[[], bool], claim: str) -> None:
    deadline = time.monotonic() + GONE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {GONE_S} s: {claim}"
        time.sleep(0.01)  # the end of a process that is nobody's child wakes nobody


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    found = uuid.uuid4().hex
    monkeypatch.setenv(MARK, found)
    return found


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "child.py"
    file.write_text(CHILD)
    return file


@pytest.fixture
def child(mark: str, program: Path) -> Iterator[ChildProcess]:
    with contextlib.closing(ChildProcess([str(program)])) as started:
        yield started


def ask(child: ChildProcess, what: str) -> object:
    child.connection.send(what)
    return child.connection.recv()


def test_a_child_that_is_closed_ends_with_all_that_it_has_started(child: ChildProcess, mark: str) -> None:
    others = family(mark) - {child.pid}
    ask(child, "start children")
    assert len(family(mark) - others) == 3

    ended = child.close()

    assert ended == Exit(-signal.SIGKILL, "")
    assert child.close() is ended
    until(lambda: family(mark) <= others, "nothing is left")


def test_what_a_child_has_started_ends_with_it_however_it_ends(child: ChildProcess, mark: str) -> None:
    ask(child, "start children")

    child.connection.send("end")

    assert child.has_ended(GONE_S)
    assert child.close() == Exit(3, "")
    until(lambda: not family(mark), "nothing is left")


@pytest.fixture
def parent(program: Path, mark: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process with two children, each with two of its own; a line on its input starts one more."""
    command = [sys.executable, "-c", PARENT, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        until(lambda: len(family(mark)) == 1 + 2 * 3, "all processes run")
        yield started
        started.kill()


def test_nothing_outlives_a_parent_that_is_killed(parent: "subprocess.Popen[str]", mark: str) -> None:
    """The kernel ends the children; theirs have no parent by then, and only the guard knows of them."""
    assert len(guards(parent.pid)) == 1

    parent.kill()
    parent.wait()

    until(lambda: not family(mark), "nothing is left")
    until(lambda: not guards(parent.pid), "its guard is gone too")


def test_a_guard_that_was_killed_is_replaced_when_the_next_child_starts(
    parent: "subprocess.Popen[str]", mark: str
) -> None:
    assert parent.stdin is not None
    assert parent.stdout is not None
    [guard] = guards(parent.pid)
    guard.kill()
    until(lambda: not guards(parent.pid), "it is gone")

    parent.stdin.write("another\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "another\n"
    assert len(family(mark)) == 1 + 3 * 3
    parent.kill()
    parent.wait()

    until(lambda: not family(mark), "nothing is left, also of those that the first one guarded")


def test_the_guard_ends_with_the_last_child(child: ChildProcess) -> None:
    assert guards(os.getpid())

    child.close()

    until(lambda: not guards(os.getpid()), "no guard without children")


def test_a_crash_is_reported_with_where_it_was(child: ChildProcess) -> None:
    child.connection.send("crash")

    assert child.has_ended(GONE_S)
    ended = child.close()

    assert ended.code == -signal.SIGSEGV
    assert ended.report.startswith("Fatal Python error: Segmentation fault")
    assert 'File "' in ended.report


def test_a_child_that_gives_up_reports_where_it_hung(child: ChildProcess) -> None:
    assert ask(child, "take your time") == "take your time"
    child.connection.send("hang")

    assert child.has_ended(GONE_S)
    ended = child.close()

    assert ended.code == 1
    assert ended.report.startswith("Timeout")


def test_ctrl_c_on_the_terminal_does_not_reach_a_child(child: ChildProcess) -> None:
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0"),
        (7, "exit code 7"),
        (-signal.SIGTERM, "signal SIGTERM"),
        (-signal.SIGKILL, "signal SIGKILL: killed, for instance for want of memory"),
        (-signal.SIGBUS, "signal SIGBUS: a file it had mapped became shorter, or its disk cannot read it"),
        (-signal.SIGSEGV, "signal SIGSEGV: a crash in compiled code"),
    ],
)
def test_an_exit_in_words(code: int, text: str) -> None:
    assert str(Exit(code, "")) == text
