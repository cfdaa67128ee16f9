"""How fast loaders answer, learnt from their answers, and what follows: what is late, how far ahead is asked.

Arithmetic on times and bytes that others measured; nothing here takes a lock, looks at a clock or waits.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable

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

RENEW_AFTER_S = 10.0
"""A stream that owes an answer and brings nothing for so long is made anew. A bit that was changed in an HTTP/2 frame's
head leaves it waiting although the connection lives; one that does not live is noticed by keepalive in 15 s."""

RENEW_UNKNOWN_S = 30.0
"""The same where nothing has been learnt yet: half of what a reader waits for its batch by default. A loader that is
slow from the start would have to begin again with what it is about to answer."""

RENEW_FACTOR = 4.0
"""Times the learnt time after which a loader is silent. Each time in vain doubles the wait, so that a loader that is
that slow gets done."""

UPPER_MEDIAN = 0.51
"""Of few: the middle one of an odd number, of an even one the upper of the two."""

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

AMPLE_FIRST, AMPLE_MOST = 64, 4096
"""Batches in a row that came before they were asked for, until it may be tried with less; twice as many each time that
this was too little."""

FORGIVEN, FORGIVEN_AFTER = 4, 16
"""Batches that a reader may have waited for while there is enough, and after how many others one is forgotten.
A machine that stood still for a moment is no shortage: where loaders are too few, most batches are waited for."""

RATE_OF, RATE_EVERY = 32, 8
"""Batches that a reader's rate is taken of, and after how many it is taken again."""


class RecentQuantile:
    """A quantile of the latest measurements; None until `known_from` of them are there."""

    __slots__ = ("_added", "_known_from", "_quantile", "_sort_every", "_values", "value")

    def __init__(self, quantile: float, *, of: int, known_from: int, sort_every: int) -> None:
        self._quantile = quantile
        self._known_from = known_from
        self._sort_every = sort_every
        self._values: deque[float] = deque(maxlen=of)
        self._added = 0
        self.value: float | None = None

    def add(self, value: float) -> None:
        """One more; the oldest is forgotten."""
        self._values.append(value)
        self._added += 1
        if self._added >= self._known_from and (self._added % self._sort_every == 0 or self.value is None):
            ordered = sorted(self._values)
            self.value = ordered[math.ceil(self._quantile * len(ordered)) - 1]


class LatenessEstimator:
    """How long a key may be unanswered and a loader silent, learnt from all loaders of a fleet."""

    __slots__ = ("answer_times", "gaps")

    def __init__(self) -> None:
        self.answer_times = RecentQuantile(LATE_QUANTILE, of=RECENT, known_from=KNOWN_FROM, sort_every=SORT_EVERY)
        """From asking for a key to its answer."""
        self.gaps = RecentQuantile(SILENT_QUANTILE, of=RECENT, known_from=KNOWN_FROM, sort_every=SORT_EVERY)
        """The longest between two signs of life of a loader, since its answer before."""

    @property
    def late_after_s(self) -> float:
        """When a key is late."""
        return _late_after_s(self.answer_times.value, LATE_FACTOR)

    @property
    def silent_after_s(self) -> float:
        """When a loader is silent."""
        return _late_after_s(self.gaps.value, SILENT_FACTOR)

    def renew_after_s(self, renewed: int) -> float:
        """When the stream of a silent loader is made anew, after it was made anew so often in vain."""
        least_s = RENEW_UNKNOWN_S if self.gaps.value is None else RENEW_AFTER_S
        return max(least_s, RENEW_FACTOR * self.silent_after_s) * 2.0**renewed


def _late_after_s(usual: float | None, factor: float) -> float:
    return FIRST_LATE_S if usual is None else max(LATE_AT_LEAST_S, factor * usual)


class RateEstimator:
    """How fast one loader answers while it owes answers."""

    __slots__ = ("_at", "_busy_s", "_nbytes", "first", "latency")

    def __init__(self) -> None:
        self._nbytes = 0.0
        self._busy_s = 0.0
        self._at = -math.inf
        self.first: list[float] = []
        """Seconds that its first few keys took since it was connected."""
        self.latency = RecentQuantile(UPPER_MEDIAN, of=KNOWN_FROM, known_from=1, sort_every=1)
        """Seconds that a key takes without a queue: there and back, with one batch assembled."""

    def connected(self) -> None:
        """It is connected anew."""
        self.first = []

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
        if len(self.first) < KNOWN_FROM:
            self.first.append(seconds)
            if len(self.first) == KNOWN_FROM:
                self.latency.add(min(self.first))
        elif was_alone:
            self.latency.add(seconds)

    def bytes_per_s(self, now: float) -> float | None:
        """Bytes a second; None while unknown."""
        if not self._nbytes or not self._busy_s or now - self._at > FORGET_S:
            return None
        return self._nbytes / self._busy_s


def longest_latency_s(rates: Iterable[RateEstimator]) -> float | None:
    """The longest of the ways to the loaders of a fleet and back; None while unknown.

    While none is known, the shortest of their first answers, from KNOWN_FROM answers of all of them on: of a fleet of
    16 no loader has given as many before the 128th batch.
    """
    rates = tuple(rates)
    known = [rate.latency.value for rate in rates if rate.latency.value is not None]
    if known:
        return max(known)
    first = [seconds for rate in rates for seconds in rate.first]
    return min(first) if len(first) >= KNOWN_FROM else None


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


class Supply:
    """Whether batches come before they are asked for, so that loaders need not be quick."""

    __slots__ = ("_enough", "_in_a_row", "_waits")

    def __init__(self) -> None:
        self._in_a_row = 0
        self._waits = 0.0
        self._enough = AMPLE_FIRST

    def answered(self, *, is_awaited: bool) -> None:
        """A batch came; a reader waited for it, or did not yet."""
        if not is_awaited:
            self._in_a_row += 1
            self._waits = max(self._waits - 1 / FORGIVEN_AFTER, 0.0)
            return
        if self.is_ample:
            self._waits += 1
            if self._waits <= FORGIVEN:
                return
            self._enough = min(2 * self._enough, AMPLE_MOST)  # it was too little, and would be again
        self._in_a_row, self._waits = 0, 0.0

    @property
    def is_ample(self) -> bool:
        """No reader has waited for long, or more than now and then."""
        return self._in_a_row >= self._enough


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
