"""How fast loaders answer, learnt from their answers, and what follows: what is late, how far ahead is asked.

Arithmetic on times and bytes that others measured; nothing here looks at a clock or waits.
"""

import math
from collections import deque
from collections.abc import Callable

RECENT = 256
"""Answers that a quantile is taken of: some seconds of training, so that a change of the network is soon believed."""

SORT_EVERY = 16
"""Answers between two looks at the quantile. Sorting 256 numbers takes about 10 µs, a small batch hardly more."""

KNOWN_FROM = 8
"""Answers before anything is believed: the first ones are those of a loader that opens its files."""

HALF_LIFE_S = 2.0
"""Busy seconds after which an answer counts half: a loader that got slow is found out within a few of its batches."""

FORGET_S = 10.0
"""A rate that nothing confirmed for so long is no longer believed, and the loader is tried again."""

FIRST_LATE_S = 2.0
"""Before anything is known. A loader that reads cold files takes a second or two for its first batch."""

LATE_AT_LEAST_S = 0.25
"""Garbage collections, page faults and busy cores hold up an honest answer for tens of milliseconds."""

LATE_QUANTILE, LATE_FACTOR = 0.95, 2.0
"""A key that takes twice as long as all but a few is worth asking for again (Dean and Barroso, The Tail at Scale)."""

SILENT_QUANTILE, SILENT_FACTOR = 0.99, 3.0
"""The same for a whole loader, of the gaps between its signs of life; it has them far more often than one key has."""

EXTRA_SHARE = 1 / 16
"""Keys asked for twice, of all: what a tail of slow answers may cost the loaders at most."""

EXTRA_BURST = 64
"""Keys asked for twice at once: the window of a loader that stalls, at the usual read-ahead several times over."""

AHEAD_FIRST = 16
"""Batches wanted ahead where nothing is known: some for each worker of a loader, and little memory."""

AHEAD_MOST = 512
"""Batches wanted ahead at most, however long the line: half of what a loader lets one trainer want at once. On a line
of 200 ms there and back that is 2,500 batches a second."""

AHEAD_GAIN = 2.0
"""Times bandwidth x delay. Once would keep the rate where it is; twice lets it double with every round trip."""

RATE_OF, RATE_EVERY = 32, 8
"""Batches that a reader's rate is taken of, and after how many it is taken again."""


class RecentQuantile:
    """The latest measurements of something, and their quantile."""

    __slots__ = ("_added", "_known", "_quantile", "_values")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._values: deque[float] = deque(maxlen=RECENT)
        self._added = 0
        self._known: float | None = None

    def add(self, value: float) -> None:
        """One more; the oldest is forgotten."""
        self._values.append(value)
        self._added += 1
        if len(self._values) >= KNOWN_FROM and (self._added % SORT_EVERY == 0 or self._known is None):
            ordered = sorted(self._values)
            self._known = ordered[math.ceil(self._quantile * len(ordered)) - 1]

    @property
    def value(self) -> float | None:
        """The quantile; None while too few are known."""
        return self._known


def late_after_s(usual: float | None, factor: float) -> float:
    """Seconds after which something is late, if so long is usual."""
    return FIRST_LATE_S if usual is None else max(LATE_AT_LEAST_S, factor * usual)


class RateEstimator:
    """How fast one loader answers while it owes answers."""

    __slots__ = ("_at", "_busy_s", "_first", "_nbytes", "_ways")

    def __init__(self) -> None:
        self._nbytes = 0.0
        self._busy_s = 0.0
        self._at = -math.inf
        self._first: list[float] = []
        self._ways: deque[float] = deque(maxlen=KNOWN_FROM)

    def connected(self) -> None:
        """It is connected anew."""
        self._first = []

    def answered(self, nbytes: int, busy_s: float, now: float) -> None:
        """It answered so many bytes after having owed something for so long."""
        kept = 0.5 ** (busy_s / HALF_LIFE_S)
        self._nbytes = self._nbytes * kept + nbytes
        self._busy_s = self._busy_s * kept + busy_s
        self._at = now

    def took(self, seconds: float, *, was_alone: bool) -> None:
        """It took so long for a key, which was asked for when it owed nothing else, or was not.

        Only where it was alone no queue is in this time; but the first time a stream is opened as well, so of the first
        few the shortest is taken.
        """
        if len(self._first) < KNOWN_FROM:
            self._first.append(seconds)
            if len(self._first) == KNOWN_FROM:
                self._ways.append(min(self._first))
        elif was_alone:
            self._ways.append(seconds)

    def bytes_per_s(self, now: float) -> float | None:
        """Bytes a second; None while unknown."""
        if not self._nbytes or not self._busy_s or now - self._at > FORGET_S:
            return None
        return self._nbytes / self._busy_s

    @property
    def latency_s(self) -> float | None:
        """What it usually takes without a queue: there and back, with one batch assembled; None while unknown."""
        return sorted(self._ways)[len(self._ways) // 2] if self._ways else None


class HedgingBudget:
    """How many keys may be asked for a second time: a share of all, saved up to a burst."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = float(EXTRA_BURST)

    def earn(self) -> None:
        """A key was asked for the first time."""
        self._saved = min(self._saved + EXTRA_SHARE, EXTRA_BURST)

    def spend(self) -> bool:
        """Ask for one a second time; False if that would be one too many."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class PrefetchWindow:
    """How many batches a reader wants ahead: a few, or twice what fits on the line to the loaders. It only grows."""

    __slots__ = ("_delivered", "_most", "_times", "batches")

    def __init__(self, fixed: int | None) -> None:
        self.batches = AHEAD_FIRST if fixed is None else fixed
        self._most = AHEAD_MOST if fixed is None else fixed
        self._times: deque[float] = deque(maxlen=RATE_OF)
        self._delivered = 0

    def delivered(self, now: float, latency: Callable[[], float | None]) -> None:
        """A batch was handed out; `latency` says after how many seconds loaders answer."""
        if self.batches == self._most:
            return
        times = self._times
        times.append(now)
        self._delivered += 1
        if self._delivered % RATE_EVERY or len(times) < RATE_OF or now <= times[0]:
            return
        if (latency_s := latency()) is None:
            return
        rate = (len(times) - 1) / (now - times[0])
        self.batches = max(self.batches, min(self._most, AHEAD_FIRST + math.ceil(AHEAD_GAIN * rate * latency_s)))
