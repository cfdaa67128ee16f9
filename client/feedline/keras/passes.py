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
from dataclasses import replace
from functools import partial
from types import FrameType
from weakref import WeakSet, ref

import numpy as np

from feedline.keras import caller
from feedline.keras.caller import Run
from feedline.keras.one_pass import Pass
from feedline.keras.statistics import SequenceStatistics
from feedline.keras.steps import Steps
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor
from feedline.reading.readahead import ReadAhead
from feedline_wire.errors import Closed, DataError

log = logging.getLogger("feedline")

PASSES_HELD = 4
"""Of each kind, shuffled and in dataset order: `evaluate(steps=2)` in a callback abandons one each time, which may not
push out the training pass. What was read ahead for a pass goes when another of its kind begins, so abandoned ones are
cheap; one that was not abandoned reads ahead anew when it goes on."""

BATCHES_KEPT = 2
"""In dataset order, for Keras: on TensorFlow it asks for 0 and 1 to see their shapes, then again to use them."""


GIVEN_UP_S = 5.0
"""What is read ahead is given up when it was not asked for so long and the `fit` that it is for has returned; it is
looked for as often. While `fit` runs, a validation, a checkpoint or a slow step takes as long as it likes."""


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
        self._driving: WeakSet[object] = WeakSet()
        """Of these, those that may be used again."""
        self._kept: OrderedDict[int, Batch] = OrderedDict()
        self._statistics = SequenceStatistics()
        self.steps = Steps()
        """Those of the latest training pass."""
        self._is_looked_after = False
        self._closed = threading.Event()

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
            batch = self._at_hand(current, index) if current.requests <= current.kept and keep else None
        for unwanted in dropped:
            unwanted.close()
        if batch is not None and current.window is not None:
            current.window.start()  # nothing is taken from it yet

        is_ready = batch is not None or (window is not None and window.is_ready)
        try:
            if window is not None:
                batch = self._next(window, current)
            if batch is None:
                batch = current.feed.fetch(current.step(index))
            if run is not None and not len(batch.ids):
                batch = _behind(current, index)
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
            if keep:
                self._keep(current, index, batch)
        if self._is_trained(current):
            self.steps.give(batch, asked_at=started)
        if current.is_over:
            self._end(current, goes_on=True)
        return batch

    def _at_hand(self, current: Pass, index: int) -> Batch | None:
        """A batch that was kept for the first requests of a pass."""
        if not current.shuffled:
            return self._kept.get(index)
        return None if current.order is None else current.looked_at[current.requests - 1]

    def _keep(self, current: Pass, index: int, batch: Batch) -> None:
        """Keep a batch that Keras may ask for again, and let go of those that it will not."""
        if current.requests > max(current.probed, current.kept):
            current.looked_at.clear()
        elif current.shuffled and current.requests > current.kept:
            current.looked_at.append(batch)
        if not current.shuffled:
            self._kept[index] = batch
            self._kept.move_to_end(index)
            while len(self._kept) > BATCHES_KEPT:
                self._kept.popitem(last=False)

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
            self._closed.set()
            dropped = [window for each in self._passes for window in each.take_window()]
            self._passes.clear()
            self._kept.clear()
        for window in dropped:
            window.close()

    # ---- decisions, under the lock ----

    def _held(self, frame: FrameType) -> Pass | None:
        return next((each for each in self._passes if each.frame is frame), None)

    def _begin(self, run: Run, dropped: list[ReadAhead], *, keep: bool) -> Pass:
        """A new pass; older ones of its kind lose what was read ahead for them, but to one that goes on with it."""
        current, last = self._made(run, keep=keep), self._trained
        self._look_after(run.adapter)  # and again where a window is made
        if current.shuffled and last is not None:
            # Of what is left of an epoch there is no next pass.
            if self._rest is None and current.follows_on(last, steps=self._steps):
                current.go_on(last)
            elif current.repeats(last):
                current.take_over(last)
        kin = [each for each in self._passes if each.shuffled == current.shuffled]
        for other in kin:
            dropped += other.take_window()
            if other.was_a_probe(run.adapter) and other.maker is run.adapter:
                other.frame = None  # it held the batch that Keras has thrown away
        running = [each for each in kin if each.frame is not None]
        if len(running) == PASSES_HELD:
            running[0].frame = None
        self._passes = [each for each in self._passes if each.frame is not None or each not in kin]
        self._passes.append(current)
        if current.shuffled:
            self._trained, self._announced = current, None
        if self._is_trained(current):
            self.steps.begin()
        return current

    def _made(self, run: Run, *, keep: bool) -> Pass:
        """The pass that a run begins."""
        order, adapter = run.order(), run.adapter
        feed, start, number, kept, positions = self._canonical, Cursor(0, 0), 0, 0, None
        if run.shuffled:
            feed, number = self._training, self._following(adapter)
            # Keras' passes are of equal length; under `wrap` they are cut from all epochs, end to end.
            whole = number * self._steps * feed.plan.stride
            start = self._rest or (Cursor(0, whole) if feed.plan.remainder == "wrap" else Cursor(number, 0))
            if run.shards == 1 and order is not None:
                positions = np.argsort(order).tolist()
        if not run.is_in_turn:
            order = None  # several threads ask, in nearly that order
        elif order is None:
            self._surprise("its order cannot be read", is_direct=run.is_direct)
        elif keep and not run.shuffled:
            kept = sum(1 for _ in itertools.takewhile(self._kept.__contains__, order))
        is_new = adapter is not None and adapter not in self._adapters
        return Pass(
            feed,
            start,
            time.monotonic(),
            kept,
            frame=run.frame,
            adapter=None if adapter is None else ref(adapter, partial(_forget, ref(self))),
            shuffled=run.shuffled,
            number=number,
            order=order,
            positions=positions,
            probed=self._probe_batches if is_new else 0,
            is_probe=is_new and run.is_probe,
            is_direct=run.is_direct,
        )

    def _look_after(self, adapter: object) -> None:
        """Note the adapter of a pass, and see to it that what is read ahead for it is given up some day."""
        if adapter is None:
            return
        self._adapters.add(adapter)
        self._driving.add(adapter)
        if not self._is_looked_after:
            self._is_looked_after = True
            looking = (ref(self), self._closed)
            threading.Thread(target=_look_after, args=looking, name="feedline read-ahead", daemon=True).start()

    def _is_trained(self, current: Pass) -> bool:
        """It is a training pass: without shuffling that is known where a callback says which `fit` it is in."""
        return current.shuffled or self.steps.is_of(current.maker)

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
            self._surprise(f"request {current.requests} was for batch {index}", is_direct=current.is_direct)
        limit = current.limit()
        if current.window is None and order is not None and limit != 0:
            steps = current.steps(order[max(current.requests, current.kept) :])
            current.window = current.feed.readahead(steps, limit=limit)
            self._look_after(current.maker)
        elif current.window is not None and current.requests == current.probed > 0:
            current.window.limit = limit  # it is no probe
        current.requests += 1
        return current.window if current.requests > current.kept else None

    def _surprise(self, what: str, *, is_direct: bool) -> None:
        if not is_direct:
            return  # a wrapper asks for what it likes
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
                if self._closed.is_set() or current.window is window:
                    raise
            return None

    def _end(self, current: Pass, *, goes_on: bool) -> None:
        """Forget a pass that asks for nothing more, and its window, unless the next pass may go on with that."""
        with self._lock:
            current.frame = None
            dropped = []
            if not goes_on or current is not self._trained or current.maker is None or self._closed.is_set():
                dropped = current.take_window()
                self._passes = [each for each in self._passes if each is not current]
        for window in dropped:
            window.close()

    def give_up(self) -> bool:
        """Let go of what a `fit` that has returned needs no longer; False if nothing is left that may have to be."""
        idle_since = time.monotonic() - GIVEN_UP_S
        running = caller.running()
        with self._lock:
            held = [each for each in self._passes if each.window is not None and each.adapter is not None]
            idle = [each for each in held if each.seen_at <= idle_since]
            over = [each for each in idle if all(adapter is not each.maker for adapter in running)]
            dropped = [window for each in over for window in each.take_window()]
            adapters = [] if running or len(over) < len(held) else list(self._driving)
            self._driving.difference_update(adapters)
            self._is_looked_after = bool(self._driving) or len(over) < len(held)
        for window in dropped:
            window.close()
        for adapter in adapters:
            caller.let_go(adapter)
        return self._is_looked_after


def _behind(current: Pass, index: int) -> Batch:
    """What comes behind the batch of a bad sample, which is left out: Keras counts batches, and gets as many."""
    steps = len(current.feed)
    for behind in range(1, steps):
        batch = current.feed.fetch(current.step((index + behind) % steps))
        if len(batch.ids):
            return batch
    raise DataError(f"all samples of dataset {current.feed.dataset.name!r} are bad")


def _look_after(passes: "ref[Passes]", closed: threading.Event) -> None:
    """Run on a thread that does not keep the passes: it ends when they are closed, or gone, or hold nothing."""
    while not closed.wait(GIVEN_UP_S):
        found = passes()
        if found is None or not found.give_up():
            return
        del found


def _forget(passes: "ref[Passes]", adapter: ref[object]) -> None:
    """A `fit` is over. Called by the garbage collector, so it takes no lock."""
    found = passes()
    if found is not None and (last := found._trained) is not None and last.adapter is adapter:
        for window in last.take_window():
            window.drop()
