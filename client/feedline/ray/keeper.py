"""Keeps one loader running on this host, at whatever port, until it is told to drain. Knows no Ray."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from feedline.local.process import LoaderProcess
from feedline.ray.spec import Report, State
from feedline_wire.errors import LoaderUnavailable

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
"""Pauses before a loader is started again that ended before it served: the reason is likely to last."""

KILL_AFTER_S = 10.0
"""A loader that drains ends in under a second more than its time for that; one that takes so much longer is stuck."""


log = logging.getLogger("feedline")


class Keeper:
    """One loader, over its lives. `words` are those of `feedline serve`. Thread-safe."""

    def __init__(
        self,
        name: str,
        words: Iterable[str],
        *,
        host: str,
        folders: Iterable[str],
        start_timeout_s: float,
        drain_timeout_s: float,
        changed: Callable[[], None],
    ) -> None:
        self._name = name
        self._host = host
        at = f"[{host}]" if ":" in host else host
        self._at = at
        self._words = (*words, "--listen", f"{at}:0", "--drain-timeout-s", f"{drain_timeout_s:g}")
        self._folders = tuple(folders)
        self._start_timeout_s = start_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._changed = changed
        self._lock = threading.Lock()
        self._draining = threading.Event()
        self._process: LoaderProcess | None = None
        self._state: State = "starting"
        self._since = time.monotonic()
        self._address = self._reason = ""
        self._starts = 0
        self._thread = threading.Thread(target=self._run, name=f"feedline {name}", daemon=True)

    def __repr__(self) -> str:
        return f"<Keeper {self.report()}>"

    def start(self) -> None:
        """Begin. Does not wait."""
        self._thread.start()

    def drain(self) -> None:
        """Have the loader finish and end, and start none again. Does not wait. Idempotent."""
        with self._lock:
            if self._draining.is_set():
                return
            self._draining.set()
            process = self._process
            if self._state != "ended":
                self._be("draining")
        if process is not None:
            process.drain()
            _after(self._drain_timeout_s + KILL_AFTER_S, process.stop)
        self._changed()

    def close(self) -> None:
        """End the loader now. Blocks until it has ended. Idempotent."""
        self.drain()
        with self._lock:
            process = self._process
        if process is not None:
            process.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def wait(self, timeout_s: float) -> bool:
        """Blocks until it has drained; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def report(self) -> Report:
        """How it is."""
        with self._lock:
            return Report(
                name=self._name,
                state=self._state,
                since_s=time.monotonic() - self._since,
                address=self._address if self._state == "serving" else "",
                node=self._host,
                pid=os.getpid(),
                starts=self._starts,
                reason=self._reason,
            )

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._draining.is_set():
            if self._serve_once():
                backoff_s = FIRST_BACKOFF_S
                continue
            self._draining.wait(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
        with self._lock:
            self._be("ended")
        self._changed()

    def _serve_once(self) -> bool:
        """One life of the loader; whether it served."""
        try:
            with self._lock:
                if self._draining.is_set():
                    return False
                process = LoaderProcess(self._name, self._words, folders=self._folders)
                self._process = process
                self._starts += 1
                self._be("starting")
        except OSError as error:  # the machine has no room for a process now
            self._be_unless_draining("failed", f"no process can be started: {error}")
            return False
        self._changed()
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.stop()

        limit = _after(self._start_timeout_s, stop)
        try:
            port = process.port()
        except LoaderUnavailable as error:
            process.end()
            reason = f"it did not serve within {self._start_timeout_s:g} s" if is_late.is_set() else str(error)
            self._be_unless_draining("failed", reason)
            return False
        finally:
            limit.cancel()
        with self._lock:
            self._address = f"{self._at}:{port}"
        self._be_unless_draining("serving", self._reason)
        code = process.wait()
        process.end()  # its pipes
        if not self._draining.is_set():
            log.warning("the loader of %s ended with code %s; starting it again", self._name, code)
            self._be_unless_draining("starting", f"it ended with code {code}")
        return True

    def _be_unless_draining(self, state: State, reason: str) -> None:
        with self._lock:
            self._reason = reason
            if not self._draining.is_set():
                self._be(state)
        self._changed()

    def _be(self, state: State) -> None:
        """Under the lock."""
        self._state, self._since = state, time.monotonic()


def _after(seconds: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer
