"""One trainer's reading of a view: epoch after epoch, from any place, and where it is now.

What a batch holds follows from its step alone. A feed remembers the place up to which the trainer consumed, never what
was fetched.
"""

import operator
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

from feedline.connection.buffers import Received
from feedline.connection.description import DatasetInfo
from feedline.fleet.fleet import Fleet
from feedline.fleet.rates import PrefetchWindow
from feedline.fleet.requests import PendingBatch
from feedline.reading import batch, state
from feedline.reading.bad_samples import BadSampleCounter
from feedline.reading.batch import Batch
from feedline.reading.epoch import Epoch
from feedline.reading.options import FeedArguments, Options, epoch_number, number
from feedline.reading.plan import Cursor, Plan, Step
from feedline.reading.readahead import ReadAhead, Waits
from feedline.reading.state import Ordering, State
from feedline_wire.errors import Closed, InvalidRequest
from feedline_wire.key import Key

Reopen: TypeAlias = Callable[[FeedArguments, State | None], "Feed"]
"""Makes a feed over a connection of its own, at a saved place. Can be pickled."""


class Feed:
    """Batches of one view, for one rank. Made by `Loader.feed`.

    `for batch in feed` gives what is left of the current epoch; the next loop gives the next epoch. `epoch(3)` gives
    any. Close it to end its iterations, or use it with `with`. One thread iterates; `fetch` is thread-safe.
    """

    def __init__(self, fleet: Fleet, options: Options, *, bad_samples: BadSampleCounter, reopen: Reopen) -> None:
        self.closes: Callable[[], None] | None = None
        """What `close` ends as well: the connection, where no other feed uses it."""
        self.waits = Waits()
        """How long this feed's readers waited for batches, all together."""
        self._fleet = fleet
        self.options = options
        """Complete and checked."""
        self._bad_samples = bad_samples
        self._reopen = reopen
        self._prefetch = PrefetchWindow(options.prefetch)
        self.ordering = Ordering(
            options.dataset.name, options.dataset.fingerprint, options.view, options.order, options.seed
        )
        """Which samples it reads, in which order: what a state's epoch and offset count in."""
        self._cursor = Cursor(0, 0)
        self._is_under_way = False  # of the cursor's epoch something was consumed since the cursor was set
        self._current: object = None  # what moves the cursor: the Epoch begun last
        self._ended: ReadAhead | None = None  # of the epoch that ended at the cursor; the next epoch goes on with it
        self._row_nbytes = -(-options.dataset.nbytes(options.plan.batch_size) // options.plan.batch_size)
        self._aheads: weakref.WeakSet[ReadAhead] = weakref.WeakSet()
        self._closed = False
        fleet.expect(options.prefetch_nbytes)

    def __repr__(self) -> str:
        cursor, closed = self._cursor, " closed" if self._closed else ""
        return (
            f"<Feed {self.ordering.dataset}/{self.ordering.view} epoch={cursor.epoch} "
            f"next={self.plan.index(cursor.offset)} buffered={self.buffered}/{self._prefetch.batches} "
            f"replicas={self._fleet.connected}{closed}>"
        )

    def __len__(self) -> int:
        """Batches an epoch, for this rank; under `wrap` some epochs have one less.

        Raises InvalidRequest for a stream that never ends.
        """
        if self.plan.is_endless:
            raise InvalidRequest(
                f"{self.dataset.name!r} is a stream that never ends, so it has no length; declare its steps_per_epoch "
                f"on the loader, or leave the loop yourself"
            )
        return self.plan.steps_per_epoch

    @property
    def plan(self) -> Plan:
        """Which positions this rank has in which step."""
        return self.options.plan

    @property
    def dataset(self) -> DatasetInfo:
        """The dataset that is read."""
        return self.options.dataset

    @property
    def buffered(self) -> int:
        """Batches that are here and not handed out."""
        return sum(ahead.buffered for ahead in list(self._aheads))

    # ---- epochs ----

    def epoch(self, epoch: int, start: int = 0) -> Epoch:
        """The batches of an epoch, counted from 0, from batch number `start` on. Moves the feed there.

        Raises InvalidRequest if there is no such epoch or batch.
        """
        epoch = epoch_number(epoch)
        if start:
            self._check_places("an epoch cannot be entered in its middle")
        steps = self.plan.steps_in(epoch)
        return self._begin(self.plan.cursor(epoch, number("start", start, 0, steps, f"the epoch has {steps} batches")))

    def __iter__(self) -> Epoch:
        """What is left of the current epoch; the one after it, when nothing is."""
        return self._begin(self._cursor)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `for` begin this epoch. Changes nothing if the feed stands there, as after `load_state_dict`."""
        epoch = epoch_number(epoch)
        if epoch != self._cursor.epoch or self._is_under_way:
            self._stand_at(self.plan.cursor(epoch, 0))

    def state_dict(self) -> State:
        """Where the trainer is: a small dict, JSON, valid with any other batch size, rank and world.

        It counts what was handed out, not what was fetched ahead. Raises InvalidRequest for a stream, which cannot be
        continued.
        """
        self._check_places("there is no state to continue from")
        return state.write(self.ordering, self._cursor)

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        """Continue at a saved place, with the seed it was saved with; the next batch is the one that would have come.

        Raises InvalidRequest or DatasetChanged if it was saved on something else.
        """
        self._check_places("there is no state to continue from")
        seed, cursor = state.read(saved, self.ordering)
        self.ordering = self.ordering._replace(seed=seed)
        self._stand_at(self.plan.settled(cursor))

    # ---- single batches ----

    def key(self, step: Step) -> Key:
        """The identity of a step's batch. Positions past an epoch's end are counted in the following one."""
        return self._key(self.ordering, step)

    def fetch(self, wanted: Step | Key) -> Batch:
        """One batch, now. Blocks until it is there, `timeout_s` at most. Does not move the feed. Thread-safe."""
        self._check_open()
        if isinstance(wanted, Step):
            step, key = wanted, self.key(wanted)
        else:
            step, key = Step(self.plan.index(wanted.offset), wanted.epoch, wanted.offset, wanted.rows, 0, 0), wanted
        pending = self._fleet.want(key, key.rows * self._row_nbytes)
        try:
            return self._deliver(step, self._fleet.wait(pending, self.options.timeout_s))
        finally:
            self._fleet.cancel([pending])

    def readahead(self, steps: Iterable[Step], *, limit: int | None = None) -> ReadAhead:
        """The batches of any steps, in that order, a bounded window of them fetched ahead. Does not move the feed."""
        self._check_open()
        ahead = ReadAhead(
            self._fleet,
            steps,
            limit=limit,
            want=partial(self._want, self.ordering),
            deliver=self._deliver,
            prefetch=self._prefetch,
            nbytes=self.options.prefetch_nbytes,
            timeout_s=self.options.timeout_s,
            waits=self.waits,
        )
        self._aheads.add(ahead)
        return ahead

    # ---- the end ----

    def close(self) -> None:
        """End every iteration; a thread that waits for a batch gets Closed. Idempotent."""
        self._closed = True
        for ahead in list(self._aheads):
            ahead.close()
        self._ended = None
        if self.closes is not None:
            self.closes()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """A copy is a feed of its own, over a connection of its own, at the same place with nothing in flight."""
        saved = None if self.dataset.is_stream else self.state_dict()
        return (operator.call, (self._reopen, self.options.as_arguments(), saved))

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this feed was closed; make another with Loader.feed")
        self._fleet.check_open()

    def _check_places(self, consequence: str) -> None:
        if self.dataset.is_stream:
            raise InvalidRequest(
                f"{self.dataset.name!r} is a stream: whatever its code yields next comes next, and nothing can be "
                f"returned to, so {consequence}; serve the data as a dataset with len to have that"
            )

    def _begin(self, cursor: Cursor) -> Epoch:
        self._check_open()
        ahead = self._ended if cursor == self._cursor else None
        if ahead is not None:
            self._ended = None
            ahead.limit = None
        else:
            ahead = self.readahead(self.plan.onward(cursor), limit=self.plan.steps_from(cursor.offset))
        self._stand_at(cursor)
        self._current = begun = object()

        def moved(to: Cursor) -> None:
            if self._current is begun:
                self._cursor = self.plan.settled(to)
                self._is_under_way = self._cursor.epoch == to.epoch

        def ended() -> None:
            if self._current is begun:
                self._ended = ahead
            else:
                ahead.close()

        return Epoch(ahead, self.plan, cursor, of=self, moved=moved, ended=ended)

    def _stand_at(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._is_under_way = False
        self._current = None
        if self._ended is not None:
            self._ended.close()
            self._ended = None

    def _want(self, ordering: Ordering, step: Step) -> PendingBatch:
        return self._fleet.want(self._key(ordering, step), step.rows * self._row_nbytes)

    def _key(self, ordering: Ordering, step: Step) -> Key:
        further, offset = divmod(step.offset, self.plan.samples)
        return Key(*ordering, step.epoch + further, offset, step.rows)

    def _deliver(self, step: Step, received: Received) -> Batch:
        arrays = received.arrays()
        made = batch.from_arrays(arrays, step, self.dataset, is_padded=self.plan.remainder == "pad")
        # Where sizes vary the window is bounded by the largest rows seen so far.
        self._row_nbytes = max(self._row_nbytes, received.layout.nbytes // max(len(made.ids), 1))
        if len(made.bad):
            self._bad_samples.add(made.bad, self.dataset.name, replaced=len(made.ids) == step.rows)
        return made
