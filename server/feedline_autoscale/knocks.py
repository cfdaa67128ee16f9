"""Trainers that ask for a loader while none is there: how many there were of late. Thread-safe, bounded."""

import threading
import time
from collections.abc import Callable

LASTING_S = 20.0
"""A trainer that waits knocks every 5 s, so this one is gone or has found a loader."""

MOST = 4096
"""Hosts that are counted."""


class Knocks:
    """Who has knocked lately, by host: its trainers share what they ask for."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._at: dict[str, float] = {}
        self._since: float | None = None  # somebody knocks

    def knock(self, host: str) -> float:
        """A trainer there asks for a loader. For how many seconds there was somebody who does."""
        now = self._now()
        with self._lock:
            self._forget(now)
            self._at.pop(host, None)
            if len(self._at) >= MOST:
                del self._at[next(iter(self._at))]
            self._at[host] = now
            self._since = now if self._since is None else self._since
            return now - self._since

    @property
    def count(self) -> int:
        """Hosts that knock."""
        with self._lock:
            self._forget(self._now())
            return len(self._at)

    def _forget(self, now: float) -> None:
        while self._at and self._at[oldest := next(iter(self._at))] < now - LASTING_S:
            del self._at[oldest]
        if not self._at:
            self._since = None
