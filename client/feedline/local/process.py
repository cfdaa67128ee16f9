"""`feedline serve` as a child process: started, heard, ended. It ends with this process however that ends.

Its standard input is a pipe that nobody else holds. It has a session of its own: Ctrl-C on the terminal is answered by
this process, once.
"""

import collections
import contextlib
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from feedline_wire.errors import LoaderUnavailable

SAY_EVERY_S = 10.0
"""A loader that opens large data, or imports a framework, takes a while; a person should know what is waited for."""

STOP_S = 5.0
"""From the signal until a loader is killed. It ends in under a second, with all that its workers have started."""

LAST_LINES = 20
"""Of what a loader printed, for the error that says why it does not serve."""

WRONG_USAGE = "feedline serve: error: "
"""What argparse begins its last line with; the list of all options stands before."""

TIED = ("--port-file", "-", "--until-stdin-ends")
"""Options of every one of them."""

log = logging.getLogger("feedline")


class LoaderProcess:
    """A loader that this process started; `words` are those of `feedline serve`. Thread-safe."""

    def __init__(self, name: str, words: Iterable[str], *, folders: Iterable[str]) -> None:
        self._name = name
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "feedline_server", "serve", *words, *TIED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(folders),
            start_new_session=True,
        )
        self._words = _Words(self._process)

    def __repr__(self) -> str:
        return f"<LoaderProcess {self._name} pid={self._process.pid} code={self._process.poll()}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def port(self) -> str:
        """What it listens on. Blocks while it starts; raises LoaderUnavailable, with what it said, if it ends instead.

        From then on what it prints is shown.
        """
        port = _port(self._process, self._name)
        if not port:
            code = self._process.wait()
            why = self._words.last(STOP_S)
            raise LoaderUnavailable(f"the loader of {self._name} ended with code {code} before it served: {why}")
        self._words.show()
        return port

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Blocks until it has ended; its exit code, None if it runs on after `timeout_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def drain(self) -> None:
        """Have it end once its trainers have moved on. Does not wait. A second time ends it at once."""
        self._process.terminate()

    def stop(self) -> None:
        """Have it end, while another thread waits for it. Blocks until it has ended, STOP_S at most. Idempotent."""
        self._process.terminate()
        if self.wait(STOP_S) is None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """Stop it, and close what is left of it. Idempotent."""
        self.stop()
        self.close_pipes()

    def close_pipes(self) -> None:
        """Hear it no more; it ends by that. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def own_folders() -> tuple[str, ...]:
    """Where modules are found here beside PYTHONPATH: a script's own folder comes first."""
    return tuple(folder or str(Path.cwd()) for folder in sys.path[:1])


def environment(folders: Iterable[str]) -> dict[str, str]:
    """This process's, with these folders before those where modules are found."""
    found = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": found}


def _port(process: "subprocess.Popen[str]", name: str) -> str:
    """What it listens on, once it serves; empty if it ends before."""
    assert process.stdout is not None, "Popen opens a pipe that it is given PIPE for"
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not selector.select(SAY_EVERY_S):
            log.warning("the loader of %s opens its data, for %.0f s now", name, time.monotonic() - began)
    return process.stdout.readline().strip()


def reason(printed: str) -> str:
    """Why a loader ended, of the last that it printed: after wrong usage without the list of all options."""
    _, wrong, why = printed.rpartition(WRONG_USAGE)
    return (wrong + why).strip() or "it said nothing"


class _Words:
    """What a loader prints to standard error: kept until it serves, then shown.

    It is shown where this process shows its own: in a notebook that is not where a child's would appear.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None, "Popen opens a pipe that it is given PIPE for"
        self._kept: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._shown = threading.Lock()
        self._is_shown = False
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), name="feedline log", daemon=True)
        self._thread.start()

    def show(self) -> None:
        """From now on show it, beginning with what was kept."""
        with self._shown:
            self._is_shown = True
            self._write(*self._kept)

    def last(self, timeout_s: float) -> str:
        """Why a loader has ended, in its last lines."""
        self._thread.join(timeout_s)
        return reason("".join(self._kept))

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                with self._shown:
                    if self._is_shown:
                        self._write(line)
                    else:
                        self._kept.append(line)

    @staticmethod
    def _write(*lines: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program has closed it
            sys.stderr.writelines(lines)
