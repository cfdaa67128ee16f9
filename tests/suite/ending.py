"""Ends a test run by SIGTERM as it should end: fixtures are torn down, and no process that a test started lives on.

Python's own answer to SIGTERM runs no fixture's end, so loaders would stay. What does not end within `END_S` is killed.
SIGINT reaches tests and their processes also where a shell runs pytest in the background, which ignores it.
"""

import contextlib
import ctypes
import os
import signal
import threading
from types import FrameType
from typing import Final

import psutil
import pytest

END_S: Final = 25.0
"""A loader that drains takes 20 s at most; CI and `timeout --kill-after=30` wait longer than this."""

EXIT_CODE: Final = 128 + signal.SIGTERM
"""What a shell reports for a program that SIGTERM ended."""

PR_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2): processes below this one that lose their parent become its children."""


class Ending:
    """Answers SIGTERM in one process of a test run."""

    def __init__(self, config: pytest.Config) -> None:
        self._pid = os.getpid()
        self._started_tests = not config.getoption("numprocesses", None)
        """False in the process that hands tests out to others; its children are those others."""
        self._has_begun = False
        self._before = signal.signal(signal.SIGTERM, self._begin)

    def _begin(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._pid:  # a fork of a test's own
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        if self._has_begun:
            return
        self._has_begun = True
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        threading.Thread(target=self._end_by_force, daemon=True).start()
        if not self._started_tests:
            for process in psutil.Process().children():
                _send(process, signal.SIGTERM)
        pytest.exit("ended by SIGTERM", EXIT_CODE)

    def finish(self) -> None:
        """Kill what is left, after the fixtures; without SIGTERM do nothing but put the old handler back."""
        signal.signal(signal.SIGTERM, self._before)
        if self._has_begun:
            _kill_descendants()

    def _end_by_force(self) -> None:
        # Ends with the process. Not only fixtures may hang: `pytest.exit` is lost where a finalizer is interrupted.
        threading.Event().wait(END_S)
        _kill_descendants()
        os._exit(EXIT_CODE)


def _kill_descendants() -> None:
    left = psutil.Process().children(recursive=True)
    for process in left:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)


def _send(process: psutil.Process, signum: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


# ---- pytest ----

_ENDING: Final = pytest.StashKey[Ending]()


def pytest_configure(config: pytest.Config) -> None:
    """Takes SIGTERM over, and SIGINT where it is ignored: every process that is started inherits that."""
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        config.stash[_ENDING] = Ending(config)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Kills what is left."""
    if ending := config.stash.get(_ENDING, None):
        ending.finish()
