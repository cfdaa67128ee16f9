"""Wants a bounded window of batches ahead of the reader, and hands them out in order.

A step stays first in the window until its batch was handed out: an error or an interrupt leaves the reader where it
was, and asking again asks the loader again. So no step is ever skipped, and the end comes only after the last one.

Epochs that follow each other are read as one: the steps run on behind an epoch's end, and `limit` says how many of them
may be wanted now. The first epoch is limited to its own steps, as there may be only one; when a second has followed it
there is no limit, so each next one is read ahead while this one ends, and begins without a wait.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from feedline.connection.buffers import Received
from feedline.fleet.fleet import Fleet
from feedline.fleet.rates import PrefetchWindow
from feedline.fleet.requests import PendingBatch
from feedline.reading.batch import Batch
from feedline.reading.plan import Step
from feedline_wire.errors import Closed, FeedlineError

REFILL_PART, REFILL_MOST = 4, 64
"""A window of 16 batches is filled when four of them are gone, a wide one when 64 are. A message with wanted keys costs
some 0.1 ms here and 0.4 ms in the loader, as much as sending a batch of 1 MiB. At most 16 instead of 64 was 5 % slower
near and 8 % at 20 ms, with batches of 1 MiB; 128 was not faster; with 64 KiB no difference could be seen."""


class ReadAhead:
    """Batches of `steps`, in their order. Thread-safe: a second reader queues for its turn."""

    def __init__(
        self,
        fleet: Fleet,
        steps: Iterable[Step],
        *,
        limit: int | None,
        want: Callable[[Step], PendingBatch],
        deliver: Callable[[Step, Received], Batch],
        prefetch: PrefetchWindow,
        nbytes: int,
        timeout_s: float,
        wait: Callable[[PendingBatch, float], Received],
    ) -> None:
        self.limit = limit
        """So many further steps may be wanted; None: as many as there are. May be raised at any time by the reader."""
        self._wait = wait
        self._fleet = fleet
        self._steps: Iterator[Step] = iter(steps)
        self._want = want
        self._deliver = deliver
        self._prefetch = prefetch
        self._nbytes = nbytes
        self._timeout_s = timeout_s
        self._reading = threading.Lock()
        self._window: deque[tuple[Step, PendingBatch]] = deque()
        self._refill_at = 0  # batches in the window; no more than a hint, so an interrupt anywhere does no harm
        self._closed = False
        # What cannot be read any more should not occupy loaders. Only the window is held, which knows nothing of this.
        weakref.finalize(self, _drop, fleet, self._window).atexit = False

    def __repr__(self) -> str:
        return f"<ReadAhead buffered={self.buffered}/{self._prefetch.batches} closed={self._closed}>"

    @property
    def buffered(self) -> int:
        """Batches that are here and not handed out."""
        return sum(pending.is_ready for _, pending in list(self._window))

    @property
    def is_ready(self) -> bool:
        """`take` will find its batch here."""
        try:
            return self._window[0][1].is_ready
        except IndexError:  # empty
            return False

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self.take()) is not None:
            yield batch

    def take(self, epoch: int | None = None) -> Batch | None:
        """The next batch; None at the end, and where the next batch is of another epoch than this one.

        Blocks until it is there. Raises what `Fleet.wait` does, and Closed after `close`.
        """
        self._fleet.check_open()  # before the lock: in a forked child it may be held by a thread that is not there
        with self._reading:
            if self._closed:
                raise Closed("this iteration was closed; begin another with epoch() or iter()")
            self._fill()
            if not self._window:
                return None
            step, pending = self._window[0]
            if epoch is not None and step.epoch != epoch:
                return None
            if isinstance(pending.outcome, FeedlineError):
                pending = self._want(step)
                self._window[0] = (step, pending)
            batch = self._deliver(step, self._wait(pending, self._timeout_s))
            self._window.popleft()
            self._prefetch.delivered(time.perf_counter(), self._fleet.latency)
            self._fill()
            return batch

    def start(self) -> None:
        """Want what the window holds, before a batch is asked for. Does not block. Idempotent."""
        with self._reading:
            if not self._closed:
                self._refill_at = len(self._window)  # whatever the limit was when it was filled last
                self._fill()

    def close(self) -> None:
        """Want nothing more; a thread that waits here gets Closed. Does not block. Idempotent."""
        self._closed = True
        self._fleet.cancel([pending for _, pending in list(self._window)])

    def drop(self) -> None:
        """Close without taking a lock: called by the garbage collector."""
        self._closed = True
        _drop(self._fleet, self._window)

    def _fill(self) -> None:
        """Want as many steps as the window holds, at least one, as `nbytes` is; once there is room for a few."""
        window = self._window
        if len(window) > self._refill_at:
            return
        nbytes = 0
        for _, pending in window:
            nbytes += pending.nbytes
        while len(window) < self._prefetch.batches and nbytes < self._nbytes:
            step = None if self.limit == 0 else next(self._steps, None)
            if step is None:
                return
            if self.limit is not None:
                self.limit -= 1
            pending = self._want(step)
            window.append((step, pending))
            nbytes += pending.nbytes
        self._refill_at = len(window) - min(len(window) // REFILL_PART, REFILL_MOST)


def _drop(fleet: Fleet, window: deque[tuple[Step, PendingBatch]]) -> None:
    fleet.drop([pending for _, pending in list(window)])
