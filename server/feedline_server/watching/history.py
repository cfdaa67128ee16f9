"""What a loader did over the last minute, of its counters' values each second. Bounded, however long it runs.

A loader that idled does not dilute what is said: the time is counted from the last batch before work began.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from feedline_server.scheduling.work import ViewName, Work
from feedline_wire.figures import RECENT_S
from feedline_wire.status import LoaderCounters

EVERY_S = 1.0
"""A sample takes some 50 us. More often would show noise: a batch may take as long."""

IDLE_S = 10.0
"""Without a batch: what was before is another training, or its start."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at a moment."""

    at: float
    counters: LoaderCounters
    transform_s: Mapping[str, float]
    work: Mapping[ViewName, Work] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recent:
    """What there was of late."""

    seconds: float
    counters: LoaderCounters
    """How much each grew."""
    transform_s: dict[str, float]
    work: dict[ViewName, Work] = field(default_factory=dict)


class History:
    """Looks at the counters each second from `start` to `close`. Thread-safe."""

    def __init__(self, look: Callable[[], tuple[LoaderCounters, Mapping[str, float], Mapping[ViewName, Work]]]) -> None:
        self._look = look
        self._samples: deque[Sample] = deque(maxlen=round(RECENT_S / EVERY_S) + 1)
        self._best_rate = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feedline-history", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._take()
        self._thread.start()

    def close(self) -> None:
        """End. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def now(self, most_s: float = RECENT_S) -> tuple[LoaderCounters, Recent]:
        """The counters, and how much they grew over the last minute, or a shorter time."""
        sample = self._sample()
        return sample.counters, grown(list(self._samples), sample, min(most_s, RECENT_S))

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._take()

    def _take(self) -> None:
        sample = self._sample()
        if self._samples:
            last = self._samples[-1]
            rate = (sample.counters.bytes - last.counters.bytes) / max(sample.at - last.at, EVERY_S / 2)
            self._best_rate = max(self._best_rate, rate)
        self._samples.append(sample)

    def _sample(self) -> Sample:
        counters, transform_s, work = self._look()
        return Sample(time.monotonic(), replace(counters, best_rate=self._best_rate), transform_s, work)


def grown(samples: list[Sample], now: Sample, most_s: float) -> Recent:
    """How much the counters grew since the first of these samples that is not too old, nor before an idle time."""
    first = now
    for one in reversed(samples):
        if now.at - one.at > most_s + EVERY_S or (first is not now and first.at - one.at > IDLE_S):
            break
        if one.counters.workers_busy or _work(one) != _work(first):
            first = one
    if first is now and samples:  # idle all the time
        first = samples[0]
    before = asdict(first.counters)
    return Recent(
        now.at - first.at,
        # What is lent, busy or kept may be less than it was, and a message has no numbers below 0.
        LoaderCounters(**{name: max(value - before[name], 0) for name, value in asdict(now.counters).items()}),
        {name: seconds - first.transform_s.get(name, 0.0) for name, seconds in now.transform_s.items()},
        {name: work.since(first.work.get(name, Work(0, 0.0))) for name, work in now.work.items()},
    )


def _work(sample: Sample) -> tuple[int, float]:
    """What changes where anything is done."""
    return sample.counters.batches, sample.counters.assembling_s
