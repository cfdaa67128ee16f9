"""What becomes of a batch with bad samples, where the dataset leaves them out or replaces them.

Which samples are bad is found by reading them, and what stands in their place follows from the key alone. So the batch
is the same in every process; what is remembered only saves reading a bad sample again.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.host.logs import log
from feedline_server.sources.source import SampleRequest
from feedline_server.transforms.randomness import words
from feedline_wire.errors import HEADER_KEPT, BadSample, DataError, cut
from feedline_wire.listing import EXAMPLES

REPLACEMENTS = 64
"""Samples that are tried in the place of a bad one: of a view where half are bad, none is good once in 10^19 times."""

LOG_EVERY_S = 60.0
"""A line a minute from each worker is read, a line a sample is not."""

MOST_NOTES = 4
"""Of a batch, for people to look at: one that is full of bad samples says so by its first ones."""

REMEMBERED = 100_000
"""Bad samples that are remembered in a process: a few megabytes. With more, some are read again."""

Fault: TypeAlias = tuple[int, ...]
"""A sample that is bad: its id, or, where something random decides that, (id, epoch, seed)."""

Bad: TypeAlias = Callable[[Collection[Fault]], set[Fault]]
"""Those of some samples that are bad, as far as is known."""

Ids: TypeAlias = NDArray[np.int64]

Mended: TypeAlias = tuple[SampleRequest, Ids]
"""What is read instead of what was requested; (bad samples, 2): the row in what was requested, the sample id."""


class KnownBad:
    """The samples of one dataset that were found to be bad in this process. *Thread-safe.*"""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._unlogged = 0
        self._silent_until = -math.inf
        self._faults: set[Fault] = set()
        self._notes: deque[BadSample] = deque(maxlen=MOST_NOTES)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._faults)

    def learn(self, faults: Collection[Fault], error: BadSample) -> None:
        """Remember these, and log it, not too often."""
        with self._lock:
            if len(self._faults) > REMEMBERED:
                self._faults = set()
            self._faults |= set(faults)
            self._unlogged += len(faults)
            text, shown = cut(str(error), HEADER_KEPT), error.evidence
            self._notes.append(BadSample(text, samples=error.samples[:EXAMPLES], evidence=shown))
            now = time.monotonic()
            if now < self._silent_until:
                return
            self._silent_until, count, self._unlogged = now + LOG_EVERY_S, self._unlogged, 0
        more = {"dataset": self.dataset, "found": count, "samples": error.samples, "latest": str(error)}
        log.warning("bad samples are left out or replaced", **more)

    def taken_notes(self) -> tuple[BadSample, ...]:
        """What was learnt since it was last asked for, the latest of it: for the loader's page."""
        notes = tuple(self._notes)
        self._notes.clear()
        return notes

    def among(self, faults: Collection[Fault]) -> set[Fault]:
        """Those of them that are known."""
        return self._faults.intersection(faults) if self._faults else set()


def faults_of(request: SampleRequest, *, is_random: bool) -> list[Fault]:
    """How each of these samples is remembered, should it be bad."""
    if not is_random:
        return [(sample,) for sample in request.ids.tolist()]
    pairs = zip(request.ids.tolist(), request.epochs.tolist(), strict=True)
    return [(sample, epoch, request.seed) for sample, epoch in pairs]


def faults_named(error: BadSample, read: SampleRequest, *, is_random: bool) -> list[Fault]:
    """The samples among those that were read that the error names; none: it is about something else."""
    return faults_of(read.only(np.isin(read.ids, error.samples)), is_random=is_random)


def without(request: SampleRequest, bad: Bad, *, is_random: bool) -> Mended:
    """What was requested without the bad ones; nothing where a single one was requested: the trainer goes on."""
    is_bad = _is_bad(request, bad, is_random=is_random)
    if is_bad.all() and len(is_bad) > 1:
        raise all_bad(request)
    return request.only(~is_bad), _lines(request, is_bad)


def replaced(
    request: SampleRequest, bad: Bad, samples: int, view_ids: Callable[[Ids], Ids], *, is_random: bool
) -> Mended:
    """What was requested with other samples of its view in the place of the bad ones.

    `view_ids` gives the ids at some of the view's places 0..samples-1. What takes a bad one's place is drawn for (seed,
    epoch, the bad one): the first good one of REPLACEMENTS.
    """
    is_bad = _is_bad(request, bad, is_random=is_random)
    rows = np.flatnonzero(is_bad)
    draws = (words(request.only(rows), "substitute", REPLACEMENTS) % np.uint64(samples)).astype(np.int64)
    ids = request.ids.copy()
    for row, places in zip(rows, draws, strict=True):
        tries = SampleRequest(view_ids(places), np.full(REPLACEMENTS, request.epochs[row]), request.seed)
        good = tries.ids[~_is_bad(tries, bad, is_random=is_random)]
        if not len(good):
            raise all_bad(request)
        ids[row] = good[0]
    return SampleRequest(ids, request.epochs, request.seed), _lines(request, is_bad)


def all_bad(request: SampleRequest) -> DataError:
    """Nothing good is left to send."""
    return DataError(
        f"every sample of the batch is bad ({len(request.ids)}), or so many of the view that none was found to take "
        'their place; the first ones are named, set on_bad_sample = "error" to see what is wrong with them',
        samples=request.ids,
    )


def _is_bad(request: SampleRequest, bad: Bad, *, is_random: bool) -> NDArray[np.bool_]:
    faults = faults_of(request, is_random=is_random)
    known = bad(faults)
    return np.array([fault in known for fault in faults], bool)


def _lines(request: SampleRequest, is_bad: NDArray[np.bool_]) -> Ids:
    rows = np.flatnonzero(is_bad)
    return np.stack([rows, request.ids[rows]], axis=1).astype(np.int64)
