"""Wants a bounded window of batches ahead of the reader, and hands them out in order.

A step stays first in the window until its batch was handed out: an error or an interrupt leaves the reader where it
was, and asking again asks the loader again. So no step is ever skipped, and the end comes only after the last one.

Epochs that follow each other are read as one: the steps run on behind an epoch's end, and `limit` says how many of them
may be wanted now. The first epoch is limited to its own steps, as there may be only one; when a second has followed it
there is no limit, so each next one is read ahead while this one ends, and begins without a wait.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from feedline.connection.buffers import Received
from feedline.fleet.fleet import Fleet
from feedline.fleet.rates import PrefetchWindow
from feedline.fleet.requests import PendingBatch
from feedline.reading.batch import Batch
from feedline.reading.plan import Step
from feedline_wire.errors import Closed

REFILL_PART, REFILL_MOST = 4, 64
"""A window of 16 batches is filled when four of them are gone, a wide one when 64 are. A message with wanted keys costs
some 0.1 ms here and 0.4 ms in the loader, as much as sending a batch of 1 MiB. At most 16 instead of 64 was 5 % slower
near and 8 % at 20 ms, with batches of 1 MiB; 128 was not faster; with 64 KiB no difference could be seen."""


@dataclass(slots=True)
class Waits:
    """How long readers waited, counted since the start. One batch found ready costs no time."""

    batches: int = 0
    """Batches handed out."""
    ready: int = 0
    """Batches that were there when they were asked for."""
    seconds: float = 0.0
    """Waited for the others."""


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
        waits: Waits,
    ) -> None:
        self.limit = limit
        """So many further steps may be wanted; None: as many as there are. May be raised at any time by the reader."""
        self._waits = waits
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
            if pending.has_failed:
                pending = self._want(step)
                self._window[0] = (step, pending)
            received = self._wait(pending)
            batch = self._deliver(step, received)
            self._window.popleft()
            self._prefetch.delivered(time.perf_counter(), self._fleet.latency)
            self._fill()
            return batch

    def close(self) -> None:
        """Want nothing more; a thread that waits here gets Closed. Does not block. Idempotent."""
        self._closed = True
        self._fleet.cancel([pending for _, pending in list(self._window)])

    def drop(self) -> None:
        """Close without taking a lock: called by the garbage collector."""
        self._closed = True
        self._fleet.drop(pending for _, pending in self._window)

    def _fill(self) -> None:
        """Want as many steps as the window holds, at least one, as `nbytes` is; once there is room for a few."""
        window = self._window
        if len(window) > self._refill_at:
            return
        nbytes = sum([pending.nbytes for _, pending in window])
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

    def _wait(self, pending: PendingBatch) -> Received:
        if pending.is_ready:
            received = self._fleet.wait(pending, 0)
            self._waits.ready += 1
        else:
            began = time.perf_counter()
            try:
                received = self._fleet.wait(pending, self._timeout_s)
            finally:
                self._waits.seconds += time.perf_counter() - began
        self._waits.batches += 1
        return received
