"""The datasets of a pool: which may be asked for, which worker is to open which, and which are refused for now.

One worker at a time opens a dataset that is asked for and that none has open, so a dataset that cannot be opened, or
whose opening never ends, holds up no more than one worker, and only its own trainers are told.
"""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from feedline_server.host.child_process import GRACE_S
from feedline_server.host.held_path import HeldPath
from feedline_server.workers.messages import DatasetId, Failed, OfferDatasets, Outcome, Task
from feedline_server.workers.process import WorkerProcess
from feedline_wire.errors import DataError, FeedlineError, LoaderUnavailable

MAX_DEATHS = 3
"""Workers that one batch, or opening a dataset, may end before it is given up; one death may be bad luck."""

REFUSED_S = 1.0
"""For so long what is asked of a dataset that could not be opened is answered by the same error. It comes back when its
files do, and nobody waits for a failure that was seen a moment ago."""

KILL_AFTER_S = 2 * GRACE_S
"""Beyond `start_timeout_s`: a worker gives up by itself, unless it waits for a dead disk."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Offer:
    """Datasets that workers may open, with a descriptor of the records of their files, which `close` closes."""

    datasets: OfferDatasets
    records_fd: int
    held: Mapping[DatasetId, HeldPath] = field(default_factory=dict)
    """Where they lie, of those that may be renamed."""

    def close(self) -> None:
        """Close the descriptor. Once."""
        os.close(self.records_fd)


class Openings:
    """The pool's own, on its thread. `workers` are the pool's, as it changes them."""

    def __init__(self, workers: Sequence[WorkerProcess], offer: Offer) -> None:
        self._workers = workers
        self._offers = [offer]
        self._limits_s = _limits_s(offer)
        self._refused: dict[DatasetId, tuple[FeedlineError, float]] = {}
        self._deaths: dict[DatasetId, int] = {}
        self._firsts: dict[DatasetId, dict[int, bytes]] = {}  # of streams, by worker
        self._for_one = _for_one(offer)

    def able(self, which: DatasetId) -> Sequence[WorkerProcess]:
        """The workers that may have a dataset open."""
        return self._workers if which not in self._for_one else [one for one in self._workers if one.number == 0]

    def give(self, worker: WorkerProcess, *, open_all: bool) -> None:
        """What a new worker may be told to open; `open_all`, and that it is to."""
        for offer in self._offers:
            worker.offer(offer.datasets, offer.records_fd)
        for which in self._limits_s if open_all else ():
            worker.tell_to_open(which, self._path(which), time.monotonic())

    def add(self, offer: Offer) -> None:
        """More may be asked for, or the same in another version of its files."""
        self._take_out({one.id for one in offer.datasets.datasets})
        self._offers.append(offer)
        self._limits_s |= _limits_s(offer)
        self._for_one |= _for_one(offer)
        for one in offer.datasets.datasets:
            self._forget(one.id)
        for worker in self._workers:
            worker.offer(offer.datasets, offer.records_fd)

    def withdraw(self, which: DatasetId) -> None:
        """It is asked for no longer."""
        self._take_out({which})
        self._forget(which)
        for worker in self._workers:
            worker.withdraw(which)

    def have_opened(self, wanted: Iterable[DatasetId], now: float) -> None:
        """No worker can take what is asked of these now: have them opened where that is of use."""
        allowed = [which for which in dict.fromkeys(wanted) if self._refusal(which, now) is None]
        for worker, which in who_opens({which: self.able(which) for which in allowed}):
            worker.tell_to_open(which, self._path(which), now)

    def refusal(self, which: DatasetId, now: float) -> FeedlineError | None:
        """Why what is asked of a dataset cannot be had now; None if a worker has it open, or may."""
        if any(which in worker.open for worker in self._workers):
            return None
        return self._refusal(which, now)

    def opened(self, worker: WorkerProcess, which: DatasetId, first: bytes | None) -> None:
        """The worker says that it has it open; `first` is what a stream of its own begins with."""
        if first is not None:
            self._compare(worker.number, which, first)
        worker.end_opening(which, time.monotonic())
        if worker in self.able(which):  # the others have shown at the start that they could
            worker.open.add(which)
        self._deaths.pop(which, None)

    def failed(self, worker: WorkerProcess, which: DatasetId, error: FeedlineError) -> None:
        """The worker says that it cannot open it: it is refused for a while, unless it was renamed in the middle."""
        now = time.monotonic()
        worker.end_opening(which, now)
        if (path := self._path(which)) != worker.paths.get(which):
            worker.tell_to_open(which, path, now)
        else:
            self._refuse(which, error)

    def moved(self, worker: WorkerProcess, answers: Sequence[tuple[Task, Outcome]]) -> list[Task]:
        """The tasks that failed because the files lie elsewhere by now: the worker was told, and they are done again.

        Files are opened by their paths while they are read, of some kinds; a folder that was renamed is found once more
        each time that it was.
        """
        found = []
        for task, outcome in answers:
            which = task.dataset
            if not (isinstance(outcome, Failed) and isinstance(outcome.error, DataError) and which in worker.paths):
                continue
            if which in worker.open and (path := self._path(which)) != worker.paths[which]:
                worker.tell_to_open(which, path, time.monotonic())
                log.info("files were renamed, they are opened where they lie now", dataset=which[0], path=str(path))
            elif which not in worker.opening:
                continue
            found.append(task)
        return found

    def ended(self, worker: WorkerProcess, cause: str) -> FeedlineError | None:
        """The worker has ended. Why what it was opening is refused from now on; None: it was not, or is tried again."""
        if not worker.opening or worker.held:
            return None
        which = worker.opening[0]
        deaths = self._deaths[which] = self._deaths.get(which, 0) + 1
        if deaths < MAX_DEATHS:
            return None
        text = f"{deaths} workers ended while they opened the dataset {which[0]!r}, the last by {cause}"
        return self._refuse(which, LoaderUnavailable(text, elsewhere=True))

    def limit_s(self, which: DatasetId) -> float:
        """Seconds after which a worker that opens it is ended."""
        return self._limits_s[which]

    def close(self) -> None:
        """Close all descriptors. Once."""
        for offer in self._offers:
            offer.close()

    def _take_out(self, gone: set[DatasetId]) -> None:
        """New workers are not offered these as they were."""
        offers, self._offers = self._offers, []
        for offer in offers:
            left = tuple(one for one in offer.datasets.datasets if one.id not in gone)
            if left:
                held = {which: one for which, one in offer.held.items() if which not in gone}
                self._offers.append(replace(offer, datasets=OfferDatasets(left), held=held))
            else:
                offer.close()

    def _path(self, which: DatasetId) -> Path | None:
        """Where it lies now, however often it was renamed."""
        held = next((offer.held[which] for offer in self._offers if which in offer.held), None)
        return None if held is None else held.now()

    def _compare(self, number: int, which: DatasetId, first: bytes) -> None:
        """Warn of workers whose streams begin alike."""
        of_stream = self._firsts.setdefault(which, {})
        alike = [other for other, known in of_stream.items() if known == first and other != number]
        of_stream[number] = first
        if alike:
            log.warning(
                "workers begin a stream alike, everything may come several times",
                dataset=which[0],
                workers=[*alike, number],
                remedy="draw by the parameter seed, or yield what is worker's own of workers (docs/python.md)",
            )

    def _refusal(self, which: DatasetId, now: float) -> FeedlineError | None:
        error, until = self._refused.get(which, (None, -math.inf))
        return error if now < until else None

    def _refuse(self, which: DatasetId, error: FeedlineError) -> FeedlineError:
        log.error("a worker cannot open a dataset", dataset=which[0], error=str(error))
        self._forget(which)
        self._refused[which] = error, time.monotonic() + REFUSED_S
        return error

    def _forget(self, which: DatasetId) -> None:
        self._refused.pop(which, None)
        self._deaths.pop(which, None)


def who_opens(wanted: Mapping[DatasetId, Sequence[WorkerProcess]]) -> list[tuple[WorkerProcess, DatasetId]]:
    """The worker that is to open each dataset, where one is: those with keys that no worker can take now.

    `wanted` has the workers that may, for each. Where others have it open, it is an idle one, so that no batch waits
    for it; where none has, the one that holds least.
    """
    found: list[tuple[WorkerProcess, DatasetId]] = []
    for which, workers in wanted.items():
        if any(which in worker.opening for worker in workers):
            continue
        is_open = any(which in worker.open for worker in workers)
        told = [worker for worker, _ in found]
        able = [
            worker
            for worker in workers
            if worker.ready
            and not worker.opening
            and worker not in told
            and which not in worker.open
            and not (is_open and worker.held)
        ]
        if able:
            found.append((min(able, key=lambda worker: worker.load), which))
    return found


def _for_one(offer: Offer) -> set[DatasetId]:
    return {one.id for one in offer.datasets.datasets if one.is_for_one_worker}


def _limits_s(offer: Offer) -> dict[DatasetId, float]:
    return {one.id: one.declaration.start_timeout_s + KILL_AFTER_S for one in offer.datasets.datasets}
