"""Signals: the first SIGTERM drains, SIGINT or a second SIGTERM stops at once, SIGUSR2 has the data opened anew.

The end may also be asked for by the loader itself (`fail`), and it is bounded (`leave_within`).

The main thread waits on a descriptor that the signal itself writes to. A lock would not do: a signal that comes
between Python's last look and the moment the thread falls asleep in the lock would not wake it (one Ctrl-C in ten).
"""

import atexit
import contextlib
import os
import select
import signal
import threading

from feedline_server.host.logs import log


class StopSignals:
    """Handles signals from its construction on. Main thread only.

    Until `serving` is set there is nothing to drain, and a signal ends the start: SIGTERM with SystemExit(0), which is
    how an orchestrator's stop should look, SIGINT with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.serving = False
        self.is_requested = False
        self.is_immediate = False
        self._is_reload_asked = False
        self.failure: str | None = None
        """Why the loader ends itself."""
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
        for number in numbers:
            signal.signal(number, self._on_signal)
        # Ray's workers block SIGINT, and what they start inherits that: it would outlive them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def wait(self, timeout_s: float | None = None) -> None:
        """Blocks until there is a signal, or for `timeout_s`. One that came before is not waited for."""
        if not (self.is_requested or self._is_reload_asked):
            select.select([self], [], [], timeout_s)
            self.clear()

    def take_reload(self) -> bool:
        """Whether a signal has asked, since this was called last, to open the data anew."""
        asked, self._is_reload_asked = self._is_reload_asked, False
        return asked

    def fail(self, reason: str) -> None:
        """Ask for the end, at once, as the loader cannot serve any more. Thread-safe, idempotent."""
        self.failure = self.failure or reason
        self.is_immediate = self.is_requested = True
        with contextlib.suppress(OSError):  # the pipe is full: it wakes anyway
            os.write(self._waker, b"!")

    def end_with(self, fd: int) -> None:
        """Stop at once when this pipe ends, as on SIGINT. What comes through it is nothing."""

        def watch() -> None:
            while os.read(fd, 4096):
                pass
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=watch, name="feedline-stdin", daemon=True).start()

    def leave_within(self, seconds: float) -> None:
        """End this process after so long, whatever it waits for then. Its exit code is 0 if a signal asked for it."""

        def leave(_number: int, _frame: object) -> None:
            running = [thread.name for thread in threading.enumerate() if not thread.daemon]
            log.error("the end took too long, leaving without it", after_s=seconds, threads=running)
            os._exit(1 if self.failure else 0)

        signal.signal(signal.SIGALRM, leave)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        # What comes after that, Python's own end, has no handlers: the alarm would kill it.
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.0)

    def fileno(self) -> int:
        """Readable after a signal, to wait for other things too."""
        return self._woken

    def clear(self) -> None:
        """Be readable again only after the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 64)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR2:
            self._is_reload_asked = True
            return
        if not self.serving:
            raise SystemExit(0) if number == signal.SIGTERM else KeyboardInterrupt
        self.is_immediate = self.is_requested or number == signal.SIGINT
        self.is_requested = True
