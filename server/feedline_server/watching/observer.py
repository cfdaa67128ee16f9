"""What a loader says of itself: to `Status`, to a scrape and on its page the same.

Trainers' figures are their own words: they are shown to who may see their datasets, under bounded labels.
"""

import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.scheduling.work import ViewName, Work
from feedline_server.sources.evidence import Evidence
from feedline_server.watching.history import History
from feedline_server.workers.pool import Pool
from feedline_wire import loader_pb2 as pb
from feedline_wire import status
from feedline_wire.errors import BadSample, BatchKillsWorkers, FeedlineError
from feedline_wire.figures import RECENT_S
from feedline_wire.stages import STAGES
from feedline_wire.status import LoaderCounters

MOST_RANKS = 1024
"""Ranks, each of a view, that are counted: as many as the largest jobs have, and a bound on what a scrape holds."""


POINT_EVERY_S, MOST_POINTS = 5.0, 180
"""Of the page's charts: a quarter of an hour."""

_Error: TypeAlias = tuple[float, str, FeedlineError]
"""When, of which dataset, and what."""

MOST_DRAWN = 64
"""Ranks in a chart: a page with more cannot be read."""


@dataclass(frozen=True, slots=True)
class Point:
    """A moment in the charts, over the time since the one before."""

    at: float
    bytes_per_s: float
    busy: float
    arena: float
    waits: "dict[tuple[str, str, int], array[float]]"
    """By rank, the part of its time that it waited for each of STAGES."""


@dataclass(slots=True)
class Total:
    """What one rank of a view has done and waited for since this loader began, over all its trainers' lives."""

    batches: int = 0
    rows: int = 0
    waited_us: list[int] = field(default_factory=lambda: [0] * len(STAGES))


class Observer:
    """Watches one loader from `start` to `close`. Thread-safe."""

    def __init__(self, scheduler: Scheduler, pool: Pool, *, replica: str, version: str) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._replica = replica
        self._version = version
        self._started = time.monotonic()
        self._history = History(self._look)
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, str, int], Total] = {}
        self._seen: dict[str, pb.Reader] = {}  # by its name: what was counted of it
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._last = (0.0, LoaderCounters(), dict[tuple[str, str, int], list[int]]())  # at the last point

    def start(self) -> None:
        """Begin."""
        self._history.start()

    def close(self) -> None:
        """End. Idempotent."""
        self._history.close()

    def counters(self) -> LoaderCounters:
        """What is counted, now."""
        counters = self._pool.count(self._scheduler.status().counters)
        return replace(counters, uptime_s=time.monotonic() - self._started)

    def totals(self, datasets: frozenset[str] | None) -> list[tuple[tuple[str, str, int], Total]]:
        """What each (dataset, view, rank) has done, of those of these datasets; None: all."""
        with self._lock:
            return [
                (name, replace(total, waited_us=list(total.waited_us)))
                for name, total in self._totals.items()
                if datasets is None or name[0] in datasets
            ]

    def points(self, datasets: frozenset[str] | None, since: float) -> list[dict[str, Any]]:
        """The points after a moment, as the page draws them."""  # Any: what JSON has
        return [
            {
                **{name: getattr(one, name) for name in ("at", "bytes_per_s", "busy", "arena")},
                "waits": {
                    f"{dataset}/{view} rank {rank}": list(parts)
                    for (dataset, view, rank), parts in one.waits.items()
                    if datasets is None or dataset in datasets
                },
            }
            for one in list(self._points)
            if one.at > since
        ]

    def failures(self, datasets: frozenset[str] | None) -> list[dict[str, object]]:
        """The last errors that trainers were answered, the newest first."""
        return _shown(self._scheduler.status().failures, datasets)

    def bad_samples(self, datasets: frozenset[str] | None) -> list[dict[str, object]]:
        """The last samples that were left out or replaced, and why, the newest first."""
        return _shown(self._pool.spent.bad, datasets)

    def evidence(self, datasets: frozenset[str] | None, evidence_id: str) -> Evidence | None:
        """What can be shown of one of these samples and errors; None if there is none, or none for such a caller."""
        errors = _seen([*self._pool.spent.bad, *self._scheduler.status().failures], datasets)
        of = (error.evidence for _, _, error in errors)
        return next((one for one in of if isinstance(one, Evidence) and one.id == evidence_id), None)

    def status(self, datasets: frozenset[str] | None) -> pb.StatusReply:
        """What goes on now, for who may have these datasets; None: all."""
        state = self._scheduler.status()
        readers = [[one for one in stream.readers if _is_seen(one, datasets)] for stream in state.streams]
        read_s = [reader.elapsed_us / 1e6 for of_stream in readers for reader in of_stream]
        counters, recent = self._history.now(max(read_s, default=RECENT_S))
        return pb.StatusReply(
            replica=self._replica,
            version=self._version,
            draining=state.draining,
            short_of=state.short_of or "",
            counters=status.to_messages(counters),
            trainers=[
                pb.Trainer(peer=one.peer, counters=status.to_messages(one.counters), readers=of_stream)
                for one, of_stream in zip(state.streams, readers, strict=True)
            ],
            recent_s=recent.seconds,
            recent=status.to_messages(recent.counters),
            steps=recent.transform_s,
            work=[
                pb.Work(dataset=dataset, view=view, batches=work.batches, assembling_s=work.assembling_s)
                for (dataset, view), work in recent.work.items()
                if datasets is None or dataset in datasets
            ],
        )

    def _look(self) -> tuple[LoaderCounters, Mapping[str, float], Mapping[ViewName, Work]]:
        state = self._scheduler.status()
        self._count(reader for stream in state.streams for reader in stream.readers)
        counters = self.counters()
        if counters.uptime_s >= self._last[0] + POINT_EVERY_S:
            self._point(counters)
        return counters, self._pool.spent.transform_s, state.work

    def _point(self, now: LoaderCounters) -> None:
        at, before, waited = self._last
        seconds = now.uptime_s - at
        totals = {name: list(total.waited_us) for name, total in list(self._totals.items())[-MOST_DRAWN:]}
        waits = {}
        for name, now_us in totals.items():
            grown = [us - was for us, was in zip(now_us, waited.get(name, now_us), strict=True)]
            waits[name] = array("f", [min(us / 1e6 / seconds, 1.0) for us in grown])
        self._points.append(
            Point(
                at=now.uptime_s,
                bytes_per_s=(now.bytes - before.bytes) / seconds,
                busy=min((now.assembling_s - before.assembling_s) / seconds / max(now.workers, 1), 1.0),
                arena=now.arena_lent / max(now.arena_bytes, 1),
                waits=waits,
            )
        )
        self._last = (now.uptime_s, now, totals)

    def _count(self, readers: Iterable[pb.Reader]) -> None:
        """Add what these have done since they were last looked at."""
        with self._lock:
            before, self._seen = self._seen, {}
            counted: set[tuple[str, str, int]] = set()
            for reader in readers:
                name = (reader.dataset, reader.view, reader.rank)
                if (total := self._totals.pop(name, None)) is None:
                    if len(self._totals) >= MOST_RANKS:
                        # Room is made of ranks that say nothing any more, so none can keep others out for ever.
                        oldest = next(iter(self._totals))
                        if oldest in counted:
                            continue
                        del self._totals[oldest]
                    total = Total()
                self._totals[name] = total
                counted.add(name)
                self._seen[reader.trainer] = reader
                last = before.get(reader.trainer, pb.Reader())
                total.batches += max(reader.total_batches - last.total_batches, 0)
                total.rows += max(reader.total_rows - last.total_rows, 0)
                waited = [*last.total_waited_us, *[0] * len(STAGES)]
                for at, us in enumerate(reader.total_waited_us[: len(STAGES)]):
                    total.waited_us[at] += max(us - waited[at], 0)


def _seen(errors: Iterable[_Error], datasets: frozenset[str] | None) -> list[_Error]:
    return [one for one in tuple(errors) if datasets is None or one[1] in datasets]


def _shown(errors: Iterable[_Error], datasets: frozenset[str] | None) -> list[dict[str, object]]:
    now = time.monotonic()
    return [
        {
            "ago_s": round(now - at),
            "dataset": dataset,
            "samples": list(error.samples),
            "message": str(error),
            "evidence": error.evidence.id if isinstance(error.evidence, Evidence) else "",
            "why_none": _why_none(error),
        }
        for at, dataset, error in reversed(_seen(errors, datasets))
    ]


def _why_none(error: FeedlineError) -> str:
    """Why nothing of a bad sample is shown; nothing to say where there is evidence, or the error is of no sample."""
    if error.evidence is not None:
        return ""
    if isinstance(error, BatchKillsWorkers):
        return "Nothing to show: what the worker held ended with it."
    return (
        "Nothing to show: no values were read of it, and the message says why." if isinstance(error, BadSample) else ""
    )


def _is_seen(reader: pb.Reader, datasets: frozenset[str] | None) -> bool:
    return datasets is None or reader.dataset in datasets
