"""One trainer's way through a view: epoch after epoch, from any place, and where it is now.

What a batch holds follows from its step alone. What a feed remembers is the place up to which the trainer consumed,
never what was fetched.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline.connection.buffers import Received
from feedline.connection.description import DatasetInfo
from feedline.fleet.fleet import Fleet
from feedline.fleet.rates import PrefetchWindow
from feedline.fleet.requests import PendingBatch
from feedline.reading import state
from feedline.reading.batch import Batch, weights
from feedline.reading.deferred import finished, rows_present
from feedline.reading.epoch import Epoch
from feedline.reading.options import FeedArguments, Options, epoch_number, start_number
from feedline.reading.plan import Plan, Step
from feedline.reading.readahead import ReadAhead, Waits
from feedline.reading.state import LARGEST, Line, Place, State
from feedline_wire import BAD, IDS, structure
from feedline_wire.errors import Closed, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.tensors import Array

Indices: TypeAlias = NDArray[np.int64]
Weights: TypeAlias = NDArray[np.float32]

NOTHING_BAD = np.empty((0, 2), np.int64)
"""Of datasets whose batches do not say."""

if TYPE_CHECKING:
    from feedline.reading.loader import Loader


class Feed:
    """Batches of one view, for one rank.

    `for batch in feed` gives what is left of the current epoch; the next loop gives the next epoch. `epoch(3)` gives
    any.
    """

    def __init__(self, loader: "Loader", fleet: Fleet, options: Options) -> None:
        self.loader = loader
        self.waits = Waits()
        """How long this feed's readers waited for batches, all together."""
        self._fleet = fleet
        self._options = options
        self._prefetch = PrefetchWindow(options.prefetch)
        self._owns_loader = False
        self._line = Line(options.dataset.name, options.dataset.fingerprint, options.view, options.order, options.seed)
        self._place = Place(0, 0)
        self._is_under_way = False  # of the place's epoch something was consumed since the place was set
        self._current: object = None  # who moves the place: the Epoch begun last
        self._onward: ReadAhead | None = None  # of an epoch that has ended; perhaps it has begun the next one
        self._row_nbytes = -(-options.dataset.nbytes(options.plan.batch_size) // options.plan.batch_size)
        self._aheads: weakref.WeakSet[ReadAhead] = weakref.WeakSet()
        self._closed = False
        fleet.expect(options.prefetch_nbytes)

    def __repr__(self) -> str:
        place, closed = self._place, " closed" if self._closed else ""
        return (
            f"<Feed {self._line.dataset}/{self._line.view} epoch={place.epoch} next={self.plan.index(place.offset)} "
            f"buffered={self.buffered}/{self._prefetch.batches} replicas={self._fleet.connected}{closed}>"
        )

    def __len__(self) -> int:
        """Batches an epoch, for this rank; under `wrap` some epochs have one less. InvalidRequest if none ends."""
        if self.plan.is_endless:
            raise InvalidRequest(
                f"{self._line.dataset!r} is a stream that never ends, so it has no length; declare its steps_per_epoch "
                f"on the loader, or leave the loop yourself"
            )
        return self.plan.steps_per_epoch

    @property
    def plan(self) -> Plan:
        """Which positions this rank has in which step."""
        return self._options.plan

    @property
    def dataset(self) -> DatasetInfo:
        """What is read."""
        return self._options.dataset

    @property
    def options(self) -> Options:
        """What the feed was asked to be."""
        return self._options

    @property
    def line(self) -> Line:
        """What its places are places in."""
        return self._line

    @property
    def buffered(self) -> int:
        """Batches that are here and not handed out."""
        return sum(ahead.buffered for ahead in list(self._aheads))

    # ---- epochs ----

    def epoch(self, epoch: int, start: int = 0) -> Epoch:
        """The batches of an epoch, from number `start` on."""
        epoch = epoch_number(epoch)
        if start:
            self._check_places("an epoch cannot be entered in its middle")
        start = start_number(start, self.plan.steps_in(epoch))
        return self._begin(Place(epoch, self.plan.cursor(epoch, start)))

    def __iter__(self) -> Epoch:
        """What is left of the current epoch; the one after it, when nothing is."""
        return self._begin(self._place)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `for` begin this epoch. Nothing changes if the feed stands there, as after `load_state_dict`."""
        epoch = epoch_number(epoch)
        if epoch != self._place.epoch or self._is_under_way:
            self._stand_at(Place(epoch, self.plan.start(epoch)))

    def state_dict(self) -> State:
        """Where the trainer is: small, JSON, and valid with any other batch size, rank and world.

        InvalidRequest for a stream, which cannot be continued.
        """
        self._check_places("there is no state to continue from")
        return state.write(self._line, self._place)

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        """Continue at a saved place, with the seed it was saved with; the next batch is the one that would have come.

        InvalidRequest or DatasetChanged if it was saved on something else.
        """
        self._check_places("there is no state to continue from")
        seed, place = state.read(saved, self._line)
        line = self._line
        self._line = Line(line.dataset, line.fingerprint, line.view, line.order, seed)
        place = place.settled(self.plan.samples)
        self._stand_at(Place(place.epoch + 1, 0) if self.plan.is_over(place.offset) else place)

    # ---- single batches ----

    def key(self, step: Step) -> Key:
        """The identity of a step's batch. Positions past an epoch's end are counted in the following one."""
        return self._key(self._line, step)

    def fetch(self, wanted: Step | Key) -> Batch:
        """One batch, now; waits for it at most `timeout_s`. Does not move the place."""
        self._check_open()
        if isinstance(wanted, Step):
            step, key = wanted, self.key(wanted)
        else:
            step, key = Step(self.plan.index(wanted.offset), wanted.epoch, wanted.offset, wanted.rows, 0, 0), wanted
        asked = self._fleet.want(key, self._expected_nbytes(key.rows))
        try:
            return self._deliver(step, self._fleet.wait(asked, self._options.timeout_s))
        finally:
            self._fleet.cancel([asked])

    def readahead(self, steps: Iterable[Step]) -> ReadAhead:
        """The batches of any steps, in that order, a bounded window of them fetched ahead. Does not move the place."""
        self._check_open()
        ahead = ReadAhead(
            self._fleet,
            steps,
            want=partial(self._want, self._line),
            deliver=self._deliver,
            prefetch=self._prefetch,
            nbytes=self._options.prefetch_nbytes,
            timeout_s=self._options.timeout_s,
            waits=self.waits,
        )
        self._aheads.add(ahead)
        return ahead

    # ---- the end ----

    def close(self) -> None:
        """End every iteration; who waits for a batch gets Closed. Twice is fine."""
        self._closed = True
        for ahead in list(self._aheads):
            ahead.close()
        self._onward = None
        if self._owns_loader:
            self.loader.close()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """A copy is a feed of its own, over a connection of its own, at the same place with nothing in flight."""
        saved = None if self.dataset.is_stream else self.state_dict()
        return (_reopened, (self.loader, self._options.as_arguments(), saved))

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this feed was closed; make another with Loader.feed")
        self._fleet.check_open()

    def _check_places(self, consequence: str) -> None:
        if self.dataset.is_stream:
            raise InvalidRequest(
                f"{self._line.dataset!r} is a stream: whatever its code yields next comes next, and nothing can be "
                f"returned to, so {consequence}; serve the data as a dataset with len to have that"
            )

    def _begin(self, place: Place) -> Epoch:
        self._check_open()
        ahead = self._ahead_from(place)
        self._stand_at(place)
        self._current = begun = object()

        def moved(to: Place) -> None:
            if self._current is begun:
                self._place = to.settled(self.plan.samples)
                self._is_under_way = self._place.epoch == to.epoch

        def ended() -> None:
            if self._current is begun:
                self._onward = ahead
            else:
                ahead.close()

        return Epoch(ahead, self.plan, place, of=self, moved=moved, ended=ended)

    def _ahead_from(self, place: Place) -> ReadAhead:
        """What the epoch before has read ahead of itself, if this is what follows; else begun anew.

        Who goes on where an epoch has ended goes from epoch to epoch, so from the second one on they are read as one:
        else each would begin with a wait for its first batch.
        """
        onward, self._onward = self._onward, None
        goes_on = onward is not None and place == self._place
        if onward is not None:
            if goes_on and onward.next_step() == self.plan.step_at(place.epoch, place.offset):
                return onward
            onward.close()
        return self.readahead(self._steps(place, goes_on=goes_on))

    def _steps(self, place: Place, *, goes_on: bool) -> Iterator[Step]:
        """What is left of an epoch, and perhaps those after it, one after the other."""
        yield from self.plan.steps(place.epoch, place.offset)
        epoch = place.epoch + 1
        while goes_on and epoch <= LARGEST and self.plan.steps_in(epoch):
            yield from self.plan.steps(epoch)
            epoch += 1

    def _stand_at(self, place: Place) -> None:
        self._place = place
        self._is_under_way = False
        self._current = None
        if self._onward is not None:
            self._onward.close()
            self._onward = None

    def _want(self, line: Line, step: Step) -> PendingBatch:
        return self._fleet.want(self._key(line, step), self._expected_nbytes(step.rows))

    def _key(self, line: Line, step: Step) -> Key:
        place = Place(step.epoch, step.offset).settled(self.plan.samples)
        return Key(
            line.dataset, line.fingerprint, line.view, line.order, line.seed, place.epoch, place.offset, step.rows
        )

    def _expected_nbytes(self, rows: int) -> int:
        return rows * self._row_nbytes

    def _deliver(self, step: Step, received: Received) -> Batch:
        arrays = received.arrays()
        ids = arrays.pop(IDS)
        bad = arrays.pop(BAD, NOTHING_BAD)
        # Where sizes vary the window is bounded by the largest rows seen so far.
        self._row_nbytes = max(self._row_nbytes, received.layout.nbytes // max(len(ids), 1))
        columns = finished(arrays, self.dataset.late, ids, self.dataset.name)
        marks = self._weights(step, rows_present(bad, ids, step.rows), columns)
        if len(bad):
            self.loader.losses.add(bad[:, 1], self.dataset.name, replaced=len(ids) == step.rows)
        return Batch(
            data=structure.build(self.dataset.structure, columns),
            ids=ids,
            weights=marks,
            step=step,
            columns=columns,
            bad=bad[:, 1],
        )

    def _weights(self, step: Step, present: Indices | None, columns: Mapping[str, Array]) -> Weights | None:
        """What marks padding, of the rows that are there."""
        if self.plan.remainder != "pad":
            return None
        marks = weights(step.rows, step.padding)
        if self.dataset.is_batched:  # one position is all rows of a batch
            rows = max((len(array) for array in columns.values()), default=1)
            return np.repeat(marks, rows)
        return marks if present is None else marks[present]


def _reopened(loader: "Loader", arguments: FeedArguments, saved: State | None) -> Feed:
    feed = loader.feed(**arguments)
    if saved is not None:
        feed.load_state_dict(saved)
    feed._owns_loader = True  # nobody else has this connection
    return feed
