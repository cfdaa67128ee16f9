"""Passes: runs of Keras' generator over one sequence, each with its plan number and its own read-ahead.

Every request (pass, index) has one answer, whatever was asked before, by whom, or how often: in dataset order batch
`index`; in a training pass batch k of its plan, where k is the place of `index` in the order that Keras announced. What
is remembered beside that order (how far a pass is, what was read ahead) only decides whether the answer is there
already. Decided under the lock, waited for outside it.
"""

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import FrameType
from weakref import WeakSet, ref

from feedline.keras.caller import Run
from feedline.keras.one_pass import Onward, Pass, positions
from feedline.keras.statistics import Statistics
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Step
from feedline.reading.readahead import ReadAhead, Waits
from feedline.reading.state import Place
from feedline_wire.errors import Closed

_log = logging.getLogger("feedline")

PASSES_HELD = 4
"""Of each kind, shuffled and in dataset order: `evaluate(steps=2)` in a callback abandons one each time, which may not
push out the training pass. What was read ahead for a pass goes when another of its kind begins, so abandoned ones are
cheap; one that was not abandoned reads ahead anew when it goes on."""

BATCHES_KEPT = 2
"""In dataset order, for Keras: on TensorFlow it asks for 0 and 1 to see their shapes, then again to use them."""


class Passes:
    """Answers the requests of one sequence: read ahead where Keras shows what it will ask for, on demand otherwise."""

    def __init__(
        self, training: Feed, canonical: Feed, *, next_number: int, probe_batches: int, rest: Place | None = None
    ) -> None:
        self._training = training
        self._canonical = canonical
        self._rest = rest
        self._probe_batches = probe_batches
        self._lock = threading.Lock()
        self._passes: list[Pass] = []
        """Oldest first."""
        self._onward: Onward | None = None
        self._trained: Pass | None = None
        """The latest shuffled pass, over or not."""
        self._announced: int | None = next_number
        """The number of the next shuffled pass, where it does not follow from the latest one."""
        self._adapters: WeakSet[object] = WeakSet()
        """Those that began a pass before: what they begin now is no build probe."""
        self._kept: OrderedDict[int, Batch] = OrderedDict()
        self._statistics = Statistics()
        self._closed = False

    # ---- requests ----

    def answer(self, run: Run, index: int, *, keep: bool) -> Batch:
        """Batch `index` of the run's plan. `keep`: nobody but Keras will see the batch, so it may be given twice."""
        started = time.monotonic()
        dropped: list[ReadAhead] = []
        with self._lock:
            current = self._held(run) or self._begin(run, dropped, keep=keep)
            at_hand, window = self._next(current, index, dropped)
        for unwanted in dropped:
            unwanted.close()

        found_ready = window.waits.ready if window is not None else 0
        try:
            batch = at_hand if at_hand is not None else self._from(window, current)
            if batch is None:
                batch = self._feed(current).fetch(self._step(current, index))
        except BaseException:
            self._drop(current)  # its generator ends with this exception; nobody will ask for what was read ahead
            raise
        now = time.monotonic()
        ready = at_hand is not None or (window is not None and window.waits.ready > found_ready)
        with self._lock:
            self._statistics = self._statistics.answered(
                ready=ready, waited_s=now - started, passed_s=now - current.seen_at
            )
            current.seen_at = now
            if keep and not current.shuffled:
                self._keep(index, batch)
        if current.is_over:
            self._finish(current)
        return batch

    def direct(self, index: int, *, keep: bool) -> Batch:
        """Batch `index` in dataset order, for a request that belongs to no pass."""
        started = time.monotonic()
        with self._lock:
            batch = self._kept.get(index) if keep else None
        ready = batch is not None
        if batch is None:
            batch = self._canonical.fetch(self._canonical_step(index))
        waited_s = time.monotonic() - started
        with self._lock:
            self._statistics = self._statistics.answered(ready=ready, waited_s=waited_s, passed_s=waited_s)
            if keep:
                self._keep(index, batch)
        return batch

    def leave(self, frame: FrameType) -> None:
        """The run of this frame asks for nothing more."""
        with self._lock:
            current = next((each for each in self._passes if each.frame is frame), None)
        if current is not None:
            self._drop(current)

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
            return 0 if self._trained is None else self._trained.asked

    @property
    def buffered(self) -> int:
        """Batches read ahead and waiting."""
        with self._lock:
            windows = self._windows()
        return sum(window.buffered for window in windows)

    @property
    def statistics(self) -> Statistics:
        """What happened until now."""
        with self._lock:
            return self._statistics

    def resumes_with(self) -> int:
        """The plan number that a copy made now starts with: that of a pass in progress, otherwise the next one."""
        with self._lock:
            trained = self._trained
            if self._announced is None and trained is not None and not trained.is_over:
                return trained.number
            return self._following()

    def close(self) -> None:
        """Drop everything read ahead; whoever waits for it gets Closed."""
        with self._lock:
            self._closed = True
            windows = self._windows()
            self._passes.clear()
            self._onward = None
            self._kept.clear()
        for window in windows:
            window.close()

    # ---- decisions, under the lock ----

    def _held(self, run: Run) -> Pass | None:
        return next((each for each in self._passes if each.frame is run.frame), None)

    def _begin(self, run: Run, dropped: list[ReadAhead], *, keep: bool) -> Pass:
        """A new pass; older ones of its kind lose what was read ahead for them."""
        order = run.order()
        current = Pass(
            frame=run.frame,
            adapter=None if run.adapter is None else ref(run.adapter),
            shuffled=run.shuffled,
            number=self._following(run.adapter) if run.shuffled else 0,
            order=order,
            probed=0 if run.adapter is None or run.adapter in self._adapters else self._probe_batches,
            at_hand=() if order is None or run.shuffled or not keep else self._at_hand(order),
            seen_at=time.monotonic(),
            positions=positions(order) if run.shuffled and run.shards == 1 and order is not None else None,
        )
        if run.adapter is not None:
            self._adapters.add(run.adapter)
        if order is None:
            self._surprise("its order cannot be read")
        kin = [each for each in self._passes if each.shuffled == current.shuffled]
        for other in kin:
            dropped += other.take_window()
        if len(kin) == PASSES_HELD:
            kin[0].frame = None
            self._passes.remove(kin[0])
        self._passes.append(current)
        if run.shuffled:
            current.goes_on = self._follows(current)
            onward, self._onward = self._onward, None
            if onward is not None and onward.suits(current):
                current.window = onward.window
                current.window.waits = Waits()
            elif onward is not None:
                dropped.append(onward.window)
            self._trained, self._announced = current, None
        return current

    def _follows(self, current: Pass) -> bool:
        """It comes after a whole pass of the same `fit`, so another one may come after it."""
        last, order = self._trained, current.order
        if last is None or current.maker is None or current.number != last.number + 1:
            return False
        return (
            last.is_over
            and last.maker is current.maker
            and current.positions is not None
            and self._rest is None
            and order is not None
            and len(order) == len(self._training)
        )

    def _following(self, adapter: object = None) -> int:
        """The number of the next shuffled pass, made by `adapter`; that of a build probe is used again."""
        last = self._trained
        if self._announced is not None or last is None:
            return self._announced or 0
        return last.number if last.was_a_probe(adapter) else last.number + 1

    def _next(self, current: Pass, index: int, dropped: list[ReadAhead]) -> tuple[Batch | None, ReadAhead | None]:
        """Where the answer comes from: a batch at hand, or a window whose next batch it is; neither: on demand."""
        order, position = current.order, current.asked
        if order is not None and (position >= len(order) or order[position] != index):
            dropped += current.take_window()
            current.order = order = None
            self._surprise(f"request {position} was for batch {index}")
        if current.probed and position == current.probed:
            dropped += current.take_window()  # it was read to its end, and this is no probe
        if current.window is None and (wanted := current.wanted()):
            current.window = self._feed(current).readahead(self._steps(current, wanted))
            current.window.waits = Waits()  # of this pass alone, where a feed has one for all its readers
        current.asked += 1
        if order is not None and position < len(current.at_hand):
            return current.at_hand[position], None
        return None, current.window

    def _surprise(self, what: str) -> None:
        if not self._statistics.surprises:
            _log.warning(
                "Keras asks for batches in another order than its data adapter showed (%s): they are right, but not "
                "read ahead; please report this with your Keras version",
                what,
            )
        self._statistics = self._statistics.surprised()

    def _at_hand(self, order: Sequence[int]) -> tuple[Batch, ...]:
        """The batches kept of the order's first indices."""
        return tuple(self._kept[index] for index in itertools.takewhile(self._kept.__contains__, order))

    def _keep(self, index: int, batch: Batch) -> None:
        self._kept[index] = batch
        self._kept.move_to_end(index)
        while len(self._kept) > BATCHES_KEPT:
            self._kept.popitem(last=False)

    # ---- actions ----

    def _from(self, window: ReadAhead | None, current: Pass) -> Batch | None:
        """The window's next batch; None when there is no window, or a younger pass took it away meanwhile."""
        if window is None:
            return None
        try:
            return next(window, None)
        except Closed:
            with self._lock:
                if self._closed or current.window is window:
                    raise
            return None

    def _finish(self, current: Pass) -> None:
        """Forget a pass that was asked for its last batch, but not what was read ahead beyond it."""
        with self._lock:
            maker = current.maker
            if current.goes_on and current.window is not None and maker is not None and not self._closed:
                self._onward = Onward(current.window, ref(maker, self._forget), current.number + 1)
                current.window = None
        self._drop(current)

    def _forget(self, adapter: ref[object]) -> None:
        """A `fit` is over. Said by the garbage collector, which must not take locks."""
        onward = self._onward
        if onward is not None and onward.adapter is adapter:
            onward.window.drop()
            self._onward = None

    def _windows(self) -> list[ReadAhead]:
        windows = [each.window for each in self._passes]
        if self._onward is not None:
            windows.append(self._onward.window)
        return [window for window in windows if window is not None]

    def _drop(self, current: Pass) -> None:
        """Forget a pass that asks for nothing more, and what was read ahead for it."""
        with self._lock:
            dropped = current.take_window()
            current.frame = None
            if current in self._passes:
                self._passes.remove(current)
        for window in dropped:
            window.close()

    # ---- plans ----

    def _feed(self, current: Pass) -> Feed:
        return self._training if current.shuffled else self._canonical

    def _steps(self, current: Pass, indices: Sequence[int]) -> Iterator[Step]:
        yield from (self._step(current, index) for index in indices)
        number = current.number
        while current.goes_on:
            number += 1
            yield from (self._plan_step(number, index) for index in range(len(self._training)))

    def _step(self, current: Pass, index: int) -> Step:
        """What a pass gets for an index.

        Keras mixes the indices, but what it asks for first is the plan's first batch: so what was trained is always
        the plan up to some place, from where it can be continued. Keras' passes are of equal length; under `wrap` they
        are cut from the line.
        """
        if not current.shuffled:
            return self._canonical_step(index)
        plan = self._training.plan
        number = index if current.positions is None else current.positions[index]
        if self._rest is not None:
            step = plan.step_at(self._rest.epoch, self._rest.offset + number * plan.stride)
            assert step is not None, "the rest has as many batches as the plan from there on"
            return step
        return self._plan_step(current.number, number)

    def _plan_step(self, number: int, index: int) -> Step:
        plan = self._training.plan
        if plan.remainder == "wrap":
            return plan.line_step(number * len(self._training) + index)
        return plan.step(number, index)

    def _canonical_step(self, index: int) -> Step:
        plan = self._canonical.plan
        return plan.line_step(index) if plan.remainder == "wrap" else plan.step(0, index)
