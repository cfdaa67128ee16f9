"""What the operator's signals ask for: the first SIGTERM drains, SIGINT or a second SIGTERM stops at once.

The main thread waits on a descriptor that the signal itself writes to. A lock would not do: a signal that comes
between Python's last look and the moment the thread falls asleep in the lock wakes nobody (seen once in ten Ctrl-C).
"""

import contextlib
import os
import select
import signal


class StopSignals:
    """Listens for signals from its making on; main thread only.

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
        """Wait until a signal asks for the end."""
        while not self.is_requested:
            select.select([self], [], [])
            self.clear()

    def fileno(self) -> int:
        """Readable after a signal, for who waits for other things too."""
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
