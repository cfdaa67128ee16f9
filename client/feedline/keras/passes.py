"""Passes: runs of Keras' generator over one sequence, each with its plan number and its own read-ahead.

Every request (pass, index) has one answer, whatever was requested before: in dataset order batch `index`; in a training
pass batch k of its plan, where k is the place of `index` in the order that Keras announced. What is remembered beside
that order only decides whether the answer is there already. Decided under the lock, waited for outside it.

A pass and what may be read ahead for it (`Pass.limit`):

    state       until                                                   read ahead
    looking     `probed` requests: it may be a build probe              the batches of these requests
    announced   its order is requested to the end                       the rest of the order
    following   the same, as the second or a later pass of one `fit`    the rest, and on into the next pass
    surprised   its generator ends: a request was not the next one      nothing; each batch on demand
    over        the next training pass                                  what it had: the next one's, if it follows
"""

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from weakref import WeakSet, ref

import numpy as np

from feedline.keras.caller import Run
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor, Step
from feedline.reading.readahead import ReadAhead
from feedline_wire.errors import Closed

log = logging.getLogger("feedline")

PASSES_HELD = 4
"""Of each kind, shuffled and in dataset order: `evaluate(steps=2)` in a callback abandons one each time, which may not
push out the training pass. What was read ahead for a pass goes when another of its kind begins, so abandoned ones are
cheap; one that was not abandoned reads ahead anew when it goes on."""

BATCHES_KEPT = 2
"""In dataset order, for Keras: on TensorFlow it asks for 0 and 1 to see their shapes, then again to use them."""


@dataclass(slots=True)
class SequenceStatistics:
    """Counters of the batches that a sequence was asked for until now."""

    requests: int = 0
    """Batches asked for."""
    ready: int = 0
    """Of these, already there when asked for."""
    waited_s: float = 0.0
    """Seconds spent waiting for batches."""
    passes_s: float = 0.0
    """Seconds from the first request of a pass to its last answer, over all passes: computing and waiting."""
    surprises: int = 0
    """Passes that Keras drove in another order than it had announced; they were served without read-ahead."""
    bad_samples: int = 0
    """Samples that cannot be read and were left out or replaced, as the dataset declares, once for each epoch."""

    @property
    def waiting_share(self) -> float:
        """The part of a pass' time spent waiting for batches, 0 to 1."""
        return min(self.waited_s / self.passes_s, 1.0) if self.passes_s > 0 else 0.0


@dataclass(slots=True, eq=False)
class Pass:
    """One run of Keras' generator, or a request without one, and how far it is. Changed under its `Passes`' lock."""

    feed: Feed
    """The training feed in a shuffled pass, otherwise that in dataset order."""
    start: Cursor
    """Where it begins."""
    seen_at: float
    """When it began, or its latest batch was given."""
    kept: int
    """So many of the first batches are not read ahead, as they are kept from requests before the pass."""
    frame: FrameType | None = None
    """The run's identity; None once the run has asked for its last batch."""
    adapter: ref[object] | None = None
    shuffled: bool = False
    number: int = 0
    """Of a shuffled pass: which plan it has."""
    order: Sequence[int] | None = None
    """All indices of the pass, as announced; None: unknown, or found to be wrong."""
    positions: Sequence[int] | None = None
    """Of each index, which batch of the plan it is; None: the batch of that index."""
    probed: int = 0
    """So many of the first requests may be only for a look at what a batch is like."""
    follows: bool = False
    """It is the next pass of a `fit` after a whole one, so another one may follow."""
    requests: int = 0
    """Requests until now."""
    window: ReadAhead | None = None
    """What is read ahead; its next batch is that of number `requests`, or the first one not kept."""

    @property
    def is_over(self) -> bool:
        """Every batch of the order was asked for."""
        return self.order is not None and self.requests >= len(self.order)

    @property
    def maker(self) -> object:
        """The adapter that made it; None if it has none, or its `fit` is over."""
        return self.adapter() if self.adapter is not None else None

    def limit(self) -> int | None:
        """How many of the batches not kept and not asked for may be read ahead; None: on into the pass after this."""
        if self.order is None:
            return 0
        given = max(self.requests, self.kept)
        if self.requests < self.probed:
            return max(self.probed - given, 0)
        return None if self.follows else len(self.order) - given

    def step(self, index: int) -> Step:
        """The step that it gets for an index.

        Keras mixes the indices, but what it asks for first is the plan's first batch: so what was trained is always
        the plan up to some place, from where it can be continued.
        """
        return self.feed.plan.step_after(self.start, index if self.positions is None else self.positions[index])

    def steps(self, indices: Sequence[int]) -> Iterator[Step]:
        """The steps that it gets for these indices, and behind them those of the passes after it."""
        after = self.start
        for index in indices:
            step = self.step(index)
            yield step
            after = Cursor(step.epoch, step.after)
        yield from self.feed.plan.onward(after)

    def take_window(self) -> list[ReadAhead]:
        """What was read ahead, which it has no longer; to be closed without the lock."""
        taken, self.window = self.window, None
        return [] if taken is None else [taken]

    def was_a_probe(self, successor: object) -> bool:
        """Keras looked at a batch to build the model and threw it away: it began anew before the pass was over.

        One request is a probe in any case. On an accelerator, or under a distribution strategy, Keras reads ahead and
        a probe has several; then it shows by `successor`, the next pass, being made by the same call of `fit`.
        """
        if self.order is None or self.is_over:  # of an unknown order the end is unknown too
            return False
        return self.requests <= 1 or (successor is not None and successor is self.maker)


class Passes:
    """Answers a sequence's requests: read ahead where Keras shows its order, on demand otherwise. Thread-safe."""

    def __init__(
        self, training: Feed, canonical: Feed, *, next_number: int, probe_batches: int, rest: Cursor | None = None
    ) -> None:
        self._training = training
        self._canonical = canonical
        self._rest = rest
        self._steps = len(training) if rest is None else training.plan.steps_from(rest.offset)
        self._probe_batches = probe_batches
        self._lock = threading.Lock()
        self._passes: list[Pass] = []
        """Those in progress, oldest first, and the latest training pass when it is over: its window goes on."""
        self._trained: Pass | None = None
        """The latest shuffled pass, over or not."""
        self._announced: int | None = next_number
        """The number of the next shuffled pass, where it does not follow from the latest one."""
        self._adapters: WeakSet[object] = WeakSet()
        """Those that began a pass before: what they begin now is no build probe."""
        self._kept: OrderedDict[int, Batch] = OrderedDict()
        self._statistics = SequenceStatistics()
        self._closed = False

    # ---- requests ----

    def answer(self, run: Run | None, index: int, *, keep: bool) -> Batch:
        """Batch `index` of the run's plan; without a run, in dataset order. Blocks until it is there.

        `keep`: only Keras will see the batch and does not change it, so it may be given twice.
        """
        started = time.monotonic()
        dropped: list[ReadAhead] = []
        with self._lock:
            if run is None:
                current = Pass(self._canonical, Cursor(0, 0), started, kept=1)
            else:
                current = self._held(run.frame) or self._begin(run, dropped, keep=keep)
            window = self._window(current, index, dropped)
            # What a pass has in its window it takes from there, to stay in step with it.
            batch = self._kept.get(index) if keep and current.requests <= current.kept else None
        for unwanted in dropped:
            unwanted.close()

        is_ready = batch is not None or (window is not None and window.is_ready)
        try:
            if window is not None:
                batch = self._next(window, current)
            if batch is None:
                batch = current.feed.fetch(current.step(index))
        except BaseException:
            self._end(current, goes_on=False)  # its generator ends with this exception
            raise
        now = time.monotonic()
        with self._lock:
            self._statistics.requests += 1
            self._statistics.ready += is_ready
            self._statistics.waited_s += now - started
            self._statistics.passes_s += now - current.seen_at
            current.seen_at = now
            if keep and not current.shuffled:
                self._kept[index] = batch
                self._kept.move_to_end(index)
                while len(self._kept) > BATCHES_KEPT:
                    self._kept.popitem(last=False)
        if current.is_over:
            self._end(current, goes_on=True)
        return batch

    def leave(self, frame: FrameType) -> None:
        """The run of this frame asks for nothing more."""
        with self._lock:
            current = self._held(frame)
        if current is not None:
            self._end(current, goes_on=False)

    # ---- numbers and state ----

    def set_next_number(self, number: int) -> None:
        """The next shuffled pass has plan `number`, those after it the numbers that follow."""
        with self._lock:
            self._announced = number

    @property
    def number(self) -> int:
        """The plan number of the latest shuffled pass, or of the next one when there was none."""
        with self._lock:
            return self._following() if self._trained is None else self._trained.number

    @property
    def position(self) -> int:
        """How many batches the latest shuffled pass asked for."""
        with self._lock:
            return 0 if self._trained is None else self._trained.requests

    @property
    def buffered(self) -> int:
        """Batches read ahead and waiting."""
        with self._lock:
            return sum(each.window.buffered for each in self._passes if each.window is not None)

    @property
    def statistics(self) -> SequenceStatistics:
        """Counters until now, a copy."""
        with self._lock:
            return replace(self._statistics)

    def resumes_with(self) -> int:
        """The plan number that a copy made now starts with: that of a pass in progress, otherwise the next one."""
        with self._lock:
            trained = self._trained
            if self._announced is None and trained is not None and not trained.is_over:
                return trained.number
            return self._following()

    def close(self) -> None:
        """Drop everything read ahead; threads that wait for it get Closed. Idempotent."""
        with self._lock:
            self._closed = True
            dropped = [window for each in self._passes for window in each.take_window()]
            self._passes.clear()
            self._kept.clear()
        for window in dropped:
            window.close()

    # ---- decisions, under the lock ----

    def _held(self, frame: FrameType) -> Pass | None:
        return next((each for each in self._passes if each.frame is frame), None)

    def _begin(self, run: Run, dropped: list[ReadAhead], *, keep: bool) -> Pass:
        """A new pass; older ones of its kind lose what was read ahead for them, but to one that follows."""
        order, adapter = run.order(), run.adapter
        feed, start, number, kept = self._canonical, Cursor(0, 0), 0, 0
        if order is None:
            self._surprise("its order cannot be read")
        elif keep and not run.shuffled:
            kept = sum(1 for _ in itertools.takewhile(self._kept.__contains__, order))
        if run.shuffled:
            feed, number = self._training, self._following(adapter)
            # Keras' passes are of equal length; under `wrap` they are cut from all epochs, end to end.
            whole = number * self._steps * feed.plan.stride
            start = self._rest or (Cursor(0, whole) if feed.plan.remainder == "wrap" else Cursor(number, 0))
        current = Pass(
            feed,
            start,
            time.monotonic(),
            kept,
            frame=run.frame,
            adapter=None if adapter is None else ref(adapter, self._forget),
            shuffled=run.shuffled,
            number=number,
            order=order,
            positions=np.argsort(order).tolist() if run.shuffled and run.shards == 1 and order is not None else None,
            probed=0 if adapter is None or adapter in self._adapters else self._probe_batches,
        )
        if adapter is not None:
            self._adapters.add(adapter)
        last = self._trained
        if run.shuffled and last is not None and self._follows(last, current):
            current.follows, current.window, last.window = True, last.window, None
            if current.window is not None:
                current.window.limit = None
        kin = [each for each in self._passes if each.shuffled == current.shuffled]
        for other in kin:
            dropped += other.take_window()
        running = [each for each in kin if each.frame is not None]
        if len(running) == PASSES_HELD:
            running[0].frame = None
        self._passes = [each for each in self._passes if each.frame is not None or each not in kin]
        self._passes.append(current)
        if run.shuffled:
            self._trained, self._announced = current, None
        return current

    def _follows(self, last: Pass, current: Pass) -> bool:
        """It comes after a whole pass of the same `fit`, so another one may come after it."""
        return (
            last.is_over
            and current.maker is not None
            and current.maker is last.maker
            and current.number == last.number + 1
            and current.positions is not None
            and len(current.positions) == self._steps
            and self._rest is None
        )

    def _following(self, adapter: object = None) -> int:
        """The number of the next shuffled pass, made by `adapter`; that of a build probe is used again."""
        last = self._trained
        if self._announced is not None or last is None:
            return self._announced or 0
        return last.number if last.was_a_probe(adapter) else last.number + 1

    def _window(self, current: Pass, index: int, dropped: list[ReadAhead]) -> ReadAhead | None:
        """The window of which the pass' next request takes the next batch; None: it is kept, or fetched on demand."""
        order = current.order
        if order is not None and (current.is_over or order[current.requests] != index):
            dropped += current.take_window()
            current.order = order = None
            self._surprise(f"request {current.requests} was for batch {index}")
        limit = current.limit()
        if current.window is None and order is not None and limit != 0:
            steps = current.steps(order[max(current.requests, current.kept) :])
            current.window = current.feed.readahead(steps, limit=limit)
        elif current.window is not None and current.requests == current.probed > 0:
            current.window.limit = limit  # it is no probe
        current.requests += 1
        return current.window if current.requests > current.kept else None

    def _surprise(self, what: str) -> None:
        if not self._statistics.surprises:
            log.warning(
                "Keras asks for batches in another order than its data adapter showed (%s): they are right, but not "
                "read ahead; please report this with your Keras version",
                what,
            )
        self._statistics.surprises += 1

    # ---- actions ----

    def _next(self, window: ReadAhead, current: Pass) -> Batch | None:
        """The window's next batch; None when a younger pass took the window away meanwhile."""
        try:
            return window.take()
        except Closed:
            with self._lock:
                if self._closed or current.window is window:
                    raise
            return None

    def _end(self, current: Pass, *, goes_on: bool) -> None:
        """Forget a pass that asks for nothing more, and its window, unless the next pass may go on with that."""
        with self._lock:
            current.frame = None
            dropped = []
            if not goes_on or current is not self._trained or current.maker is None or self._closed:
                dropped = current.take_window()
                self._passes = [each for each in self._passes if each is not current]
        for window in dropped:
            window.close()

    def _forget(self, adapter: ref[object]) -> None:
        """A `fit` is over. Called by the garbage collector, so it takes no lock."""
        last = self._trained
        if last is not None and last.adapter is adapter:
            for window in last.take_window():
                window.drop()
