"""How long a trainer waited for batches, for which stage of theirs, since when, and over the last minute.

A batch that was there when it was asked for costs a comparison. Counted by the threads that read, looked at by any.
About once a second the loaders are told, so that one of them can say how all ranks of a job fare.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from feedline.connection.buffers import Received
from feedline.fleet.fleet import Fleet
from feedline.fleet.requests import PendingBatch
from feedline_wire import loader_pb2 as pb
from feedline_wire import stages
from feedline_wire.figures import RECENT_S, ReaderFigures

SAMPLE_EVERY_S = 1.0
"""Between two looks at the counters: what the last minute was is known to a sixtieth."""

WARN_SHARE = 0.1
"""Of a minute waited for batches: worth a line in the log, once a feed."""


ALL: "weakref.WeakSet[Waits]" = weakref.WeakSet()
"""Of every feed of this process that somebody still has."""


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """What a feed handed out and waited for until now."""

    batches: int
    ready: int
    """Of these, there when they were asked for."""
    rows: int
    elapsed_s: float
    """From asking for the first batch to being given the last."""
    waited_s: float
    """Of elapsed_s, in `next` for a batch."""
    stages: Mapping[str, float]
    """The same by what was waited for: a stage of `feedline_wire.stages.STAGES`."""

    @property
    def waiting_share(self) -> float:
        """The part of the time spent waiting for batches, 0 to 1."""
        return min(self.waited_s / self.elapsed_s, 1.0) if self.elapsed_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, as loggers take it."""
        return asdict(self) | {"waiting_share": self.waiting_share}


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    batches: int
    rows: int
    seconds: dict[str, float]


class Waits:
    """The waits of one feed's readers, all together. Thread-safe."""

    def __init__(self, fleet: Fleet, reader: pb.Reader, warn: Callable[["Waits"], None]) -> None:
        """`reader` says which view and rank this is; `warn` is called when much of a minute was waited for."""
        self._fleet = fleet
        self._reader = reader
        self._reader.trainer = os.urandom(4).hex()
        self._warn: Callable[[Waits], None] | None = warn
        self._lock = threading.Lock()
        self._batches = self._ready = self._rows = 0
        self._seconds: dict[str, float] = {}
        self._began = self._last = 0.0
        self._sample_at = 0.0
        self._waiting_since: float | None = None
        self._is_announced = False
        ALL.add(self)
        self._samples: deque[_Sample] = deque(maxlen=round(RECENT_S / SAMPLE_EVERY_S) + 1)

    # ---- what readers do ----

    def announce(self) -> None:
        """Have loaders told who reads, before anything is wanted of them. Idempotent."""
        if not self._is_announced:
            self._is_announced = True
            self._fleet.report(self._reader)

    def wait(self, pending: PendingBatch, timeout_s: float) -> Received:
        """What `Fleet.wait` returns or raises, with the time that it takes counted."""
        if pending.outcome is not None:
            self._ready += 1
            return self._fleet.wait(pending, timeout_s)
        began = self._waiting_since = time.perf_counter()
        self._began = self._began or began
        of_loader: tuple[float, ...] = ()
        try:
            received = self._fleet.wait(pending, timeout_s)
            of_loader = stages.unpack(received.stages)
        finally:
            self._waiting_since = None
            waited = stages.cut(time.perf_counter() - began, pending.took_s, of_loader)
            with self._lock:
                for stage, seconds in waited.items():
                    self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        return received

    def spent(self, stage: str, seconds: float) -> None:
        """The trainer itself did something with a batch in `next`: a wait as well."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def handed_out(self, epoch: int, step: int, rows: int) -> None:
        """A reader was given a batch."""
        now = self._last = time.perf_counter()
        self._batches += 1
        self._rows += rows
        if now >= self._sample_at:
            self._sample(now, epoch, step)

    def _sample(self, now: float, epoch: int, step: int) -> None:
        self._began = self._began or now
        self._sample_at = now + SAMPLE_EVERY_S
        with self._lock:
            # The first begins with the first batch: what comes before is the start of the loader and of the stream.
            self._samples.append(_Sample(now, self._batches, self._rows, dict(self._seconds)))
        first = self._first(now)
        figures = self.recent()
        self._reader.epoch, self._reader.step = epoch, step
        self._reader.batches, self._reader.rows = self._batches - first.batches, self._rows - first.rows
        self._reader.elapsed_us = int(figures.elapsed_s * 1e6)
        self._reader.waited_us[:] = stages.listed(figures.waited)
        self._reader.total_batches, self._reader.total_rows = self._batches, self._rows
        self._reader.total_waited_us[:] = stages.listed(self._seconds)
        self._reader.lane = self._fleet.report(self._reader)
        if self._warn is not None and figures.elapsed_s > 0.9 * RECENT_S and figures.share > WARN_SHARE:
            warn, self._warn = self._warn, None
            # It asks loaders, for which the reader need not wait.
            threading.Thread(target=warn, args=(self,), name="feedline why", daemon=True).start()

    # ---- what is seen ----

    def statistics(self) -> FeedStatistics:
        """Until now."""
        with self._lock:
            seconds = dict(self._seconds)
        return FeedStatistics(
            batches=self._batches,
            ready=self._ready,
            rows=self._rows,
            elapsed_s=max(self._last - self._began, 0.0),
            waited_s=sum(seconds.values()),
            stages=seconds,
        )

    @property
    def reader(self) -> pb.Reader:
        """Whose they are, and how it fares, as loaders are told."""
        return self._reader

    @property
    def labels(self) -> dict[str, object]:
        """Whose they are."""
        return {"dataset": self._reader.dataset, "view": self._reader.view, "rank": self._reader.rank}

    def recent(self) -> ReaderFigures:
        """The last minute, or what there was since the first batch; a wait that lasts is in it."""
        now, since = time.perf_counter(), self._waiting_since
        first = self._first(now)
        with self._lock:
            waited = {stage: s - first.seconds.get(stage, 0.0) for stage, s in self._seconds.items()}
        if since is not None:
            waited["loader"] = waited.get("loader", 0.0) + now - max(since, first.at)
        reader = self._reader
        return ReaderFigures(
            name=f"{reader.dataset}/{reader.view}",
            rank=reader.rank,
            world=reader.world,
            elapsed_s=max((now if since is not None else self._last) - first.at, 0.0),
            waited={stage: seconds for stage, seconds in waited.items() if seconds > 0},
            batches=self._batches - first.batches,
            lane=reader.lane,
            trainer=reader.trainer,
        )

    def _first(self, now: float) -> _Sample:
        """The counters a minute ago, or at the first batch."""
        with self._lock:
            recent = (one for one in self._samples if one.at >= now - RECENT_S)
            return next(recent, None) or _Sample(self._began or now, 0, 0, {})
