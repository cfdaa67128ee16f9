"""Signals: the first SIGTERM drains, SIGINT or a second SIGTERM stops at once.

The main thread waits on a descriptor that the signal itself writes to. A lock would not do: a signal that comes
between Python's last look and the moment the thread falls asleep in the lock would not wake it (one Ctrl-C in ten).
"""

import contextlib
import os
import select
import signal


class StopSignals:
    """Handles signals from its construction on. Main thread only.

    Until `serving` is set there is nothing to drain, and a signal ends the start: SIGTERM with SystemExit(0), which is
    how an orchestrator's stop should look, SIGINT with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.serving = False
        self.is_requested = False
        self.is_immediate = False
        self._woken, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def wait(self) -> None:
        """Blocks until a signal asks for the end."""
        while not self.is_requested:
            select.select([self], [], [])
            self.clear()

    def fileno(self) -> int:
        """Readable after a signal, to wait for other things too."""
        return self._woken

    def clear(self) -> None:
        """Be readable again only after the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 64)

    def _on_signal(self, number: int, _frame: object) -> None:
        if not self.serving:
            raise SystemExit(0) if number == signal.SIGTERM else KeyboardInterrupt
        self.is_immediate = self.is_requested or number == signal.SIGINT
        self.is_requested = True
