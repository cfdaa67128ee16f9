"""One trainer's reading of a view: epoch after epoch, from any place, and where it is now.

What a batch holds follows from its step alone. A feed remembers the place up to which the trainer consumed, never what
was fetched.
"""

import importlib
import operator
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from feedline.connection.buffers import Received
from feedline.fleet.fleet import Fleet
from feedline.fleet.rates import PrefetchWindow
from feedline.fleet.requests import PendingBatch
from feedline.reading import batch, state
from feedline.reading.bad_samples import BadSampleCounter
from feedline.reading.batch import Batch
from feedline.reading.epoch import Epoch
from feedline.reading.options import FeedArguments, Options, epoch_number, number
from feedline.reading.plan import Cursor, Step
from feedline.reading.readahead import ReadAhead
from feedline.reading.state import Ordering, State
from feedline.watching.waits import FeedStatistics, Waits
from feedline.watching.why import log_why, why
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Closed, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    from feedline_wire.verdict import Verdict

Reopen: TypeAlias = Callable[[FeedArguments, State | None], "Feed"]
"""Makes a feed over a connection of its own, at a saved place. Can be pickled."""


MOST_KNOWN = 16
"""Views and ranks of one connection: a training has two or three."""


class Feed:
    """Batches of one view, for one rank. Made by `Loader.feed`.

    `for batch in feed` gives what is left of the current epoch; the next loop gives the next epoch. `epoch(3)` gives
    any. Close it to end its iterations, or use it with `with`. One thread iterates; `fetch` is thread-safe.
    """

    def __init__(self, fleet: Fleet, options: Options, *, bad_samples: BadSampleCounter, reopen: Reopen) -> None:
        self.closes: Callable[[], None] | None = None
        """What `close` ends as well: the connection, where no other feed uses it."""
        self._fleet = fleet
        self.options = options
        """Complete and checked."""
        self.plan = options.plan
        """Which positions this rank has in which step."""
        self.dataset = options.dataset
        """The dataset that is read."""
        self._reopen = reopen
        self._prefetch = PrefetchWindow(options.prefetch)
        self.ordering = Ordering(self.dataset.name, self.dataset.fingerprint, options.view, options.order, options.seed)
        """Which samples it reads, in which order: what a state's epoch and offset count in."""
        self._cursor = Cursor(0, 0)
        self._is_under_way = False  # of the cursor's epoch something was consumed since the cursor was set
        self._current: object = None  # what moves the cursor: the Epoch begun last
        self._ended: ReadAhead | None = None  # of the epoch that ended at the cursor; the next epoch goes on with it
        self._batches = _Batches(fleet, options, bad_samples, keeps=reopen)
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
    def buffered(self) -> int:
        """Batches that are here and not handed out."""
        return sum(ahead.buffered for ahead in list(self._aheads))

    @property
    def stats(self) -> FeedStatistics:
        """Batches handed out, and the seconds waited for them by stage; `as_dict()` for loggers."""
        return self._batches.waits.statistics()

    def why(self) -> "Verdict":
        """What holds this trainer back, of about the last minute: `print(feed.why())` is one sentence with a remedy.

        Asks every loader, and blocks for five seconds at most if one does not answer.
        """
        return why(self._fleet, self._batches.waits)

    def spent(self, stage: str, seconds: float) -> None:
        """Count time for which this process itself held its reader up in `next`: "device", for one, by a door."""
        self._batches.waits.spent(stage, seconds)

    def wait_as(self, known: dict[object, Waits]) -> None:
        """Count what is waited for with what was of the same view and rank before: to loaders it is one trainer that
        goes on, and none that begins with each epoch."""
        reader = self._batches.waits.reader
        name = (reader.dataset, reader.view, reader.rank, reader.world, reader.steps)
        self._batches.waits = known.pop(name, self._batches.waits)
        known[name] = self._batches.waits
        if len(known) > MOST_KNOWN:
            del known[next(iter(known))]

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

    # ---- frameworks ----

    def torch(self, device: Any = None, *, pin_memory: bool | None = None, with_ids: bool = False) -> Any:  # noqa: ANN401  # torch's
        """The batches as PyTorch tensors, for a loop of your own or Lightning: see `feedline.torch.Batches`."""
        over = importlib.import_module("feedline.torch").over
        return over(self, device=device, pin_memory=pin_memory, with_ids=with_ids)

    def jax(self, sharding: Any = None, *, ahead: int = 2, with_ids: bool = False) -> Any:  # noqa: ANN401  # JAX's
        """The batches as JAX arrays, put on devices ahead of the step: see `feedline.jax.Arrays`."""
        return importlib.import_module("feedline.jax").over(self, sharding=sharding, ahead=ahead, with_ids=with_ids)

    def tf(self, *, with_ids: bool = False) -> Any:  # noqa: ANN401  # feedline.tf's
        """The batches as TensorFlow's eager tensors, without a copy: see `feedline.tf.Tensors`."""
        return importlib.import_module("feedline.tf").over(self, with_ids=with_ids)

    def tf_dataset(self, *, with_ids: bool = False) -> Any:  # noqa: ANN401  # a tf.data.Dataset
        """The batches as a `tf.data.Dataset`: see `feedline.tf.data`."""
        return importlib.import_module("feedline.tf").data(self, with_ids=with_ids)

    # ---- single batches ----

    def key(self, step: Step) -> Key:
        """The identity of a step's batch. Positions past an epoch's end are counted in the following one."""
        return self._batches.key(self.ordering, step)

    def fetch(self, wanted: Step | Key) -> Batch:
        """One batch, now. Blocks until it is there, `timeout_s` at most. Does not move the feed. Thread-safe."""
        self._check_open()
        if isinstance(wanted, Step):
            step, key = wanted, self.key(wanted)
        else:
            step, key = Step(self.plan.index(wanted.offset), wanted.epoch, wanted.offset, wanted.rows, 0, 0), wanted
        self._batches.waits.announce()
        pending = self._fleet.want(key, key.rows * self._batches.row_nbytes)
        try:
            received = self._batches.waits.wait(pending, self.options.timeout_s)
            return self._batches.deliver(
                Ordering(key.dataset, key.fingerprint, key.view, key.order, key.seed), step, received
            )
        finally:
            self._fleet.cancel([pending])

    def readahead(self, steps: Iterable[Step], *, limit: int | None = None) -> ReadAhead:
        """The batches of any steps, in that order, a bounded window of them fetched ahead. Does not move the feed."""
        self._check_open()
        self._batches.waits.announce()
        ahead = ReadAhead(
            self._fleet,
            steps,
            limit=limit,
            want=partial(self._batches.want, self.ordering),
            deliver=partial(self._batches.deliver, self.ordering),
            prefetch=self._prefetch,
            nbytes=self.options.prefetch_nbytes,
            timeout_s=self.options.timeout_s,
            wait=self._batches.waits.wait,
        )
        self._aheads.add(ahead)
        return ahead

    def receive_into(self, allocate: Callable[[int], Array]) -> None:
        """Receive batches that come by a socket into what `allocate(nbytes)` gives, in any thread: uint8, 1-D, on a
        64-byte boundary. It holds for all feeds of the connection.
        """
        self._fleet.receive_into(allocate)

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


class _Batches:
    """Batches by their steps: wanted from the fleet, and made of what came. What reads ahead knows this and no feed."""

    def __init__(self, fleet: Fleet, options: Options, bad_samples: BadSampleCounter, *, keeps: object) -> None:
        """Who reads these needs what it `keeps`: the connection, which is closed when nothing refers to it."""
        self._fleet = fleet
        self._plan = options.plan
        self._dataset = options.dataset
        self._bad_samples = bad_samples
        self._keeps = keeps
        self.row_nbytes = -(-self._dataset.nbytes(self._plan.batch_size) // self._plan.batch_size)
        """Of the largest rows seen so far, where sizes vary: the window is bounded by it."""
        reader = pb.Reader(
            dataset=self._dataset.name,
            view=options.view,
            rank=self._plan.rank,
            world=self._plan.world,
            steps=0 if self._plan.is_endless else self._plan.steps_per_epoch,
        )
        self.waits = Waits(fleet, reader, partial(log_why, fleet))
        """How long readers waited for these, all together."""

    def want(self, ordering: Ordering, step: Step) -> PendingBatch:
        """Ask for a step's batch. Does not wait."""
        return self._fleet.want(self.key(ordering, step), step.rows * self.row_nbytes)

    def key(self, ordering: Ordering, step: Step) -> Key:
        """See Feed.key."""
        further, offset = divmod(step.offset, self._plan.samples)
        return Key(*ordering, step.epoch + further, offset, step.rows)

    def deliver(self, ordering: Ordering, step: Step, received: Received) -> Batch:
        """The batch of a step."""
        arrays = received.arrays()
        began = time.perf_counter()
        key, is_padded = self.key(ordering, step), self._plan.remainder == "pad"
        made = batch.from_arrays(arrays, step, key, self._dataset, is_padded=is_padded)
        if self._dataset.deferred:
            self.waits.spent("deferred", time.perf_counter() - began)
        self.waits.handed_out(step.epoch, step.index, made.rows)
        self.row_nbytes = max(self.row_nbytes, received.layout.nbytes // max(len(made.ids), 1))
        if len(made.bad):
            self._bad_samples.add(made.bad, self._dataset.name, replaced=len(made.ids) == step.rows)
        return made
