"""Form (b): an `IterableDataset` whose items are ready batches, divided among the workers of a DataLoader.

Workers are never needed for speed, since the loader's processes do the work; they cost a copy of each batch.
"""

import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from feedline.reading.converted import Iteration, check_equal_steps
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor, EveryNth
from feedline.reading.state import State
from feedline.torch.batches import Batches
from feedline.torch.passes import Passes
from feedline.torch.workers import OwnFeed
from feedline_wire.errors import InvalidRequest


class IterableBatches(IterableDataset):  # type: ignore[misc]  # torch is not installed where this is checked
    """Batches of a feed, for `DataLoader(IterableBatches(feed), batch_size=None)` and torchdata's StatefulDataLoader.

    Any number of workers, forked or spawned, divides the batches: each is delivered once, in the feed's order. A pass
    with workers is a whole epoch, or what is left of a loaded one, and the next pass the next epoch. `state_dict` is a
    feed's; in a worker it is that worker's, which StatefulDataLoader saves, and as many workers continue it.

    Under Keras, which begins a DataLoader to look at its batches and begins it again to train, a pass without workers
    that Keras left is begun again by its next one, and not continued.

    Raises InvalidRequest where accelerate would deal out rank 0's batches, and where ranks would have different numbers
    of steps.
    """

    def __init__(self, feed: Feed, *, with_ids: bool = False) -> None:
        self._own = OwnFeed(feed, with_ids=with_ids)
        self._passes = Passes()
        self._batches = Batches(feed, with_ids=with_ids)
        self._share: _Share | None = None
        self._loaded: tuple[State, int] | None = None  # in a worker: a place, and batches of this worker behind it
        self._named = 0  # places that the trainer named
        self._begun = 0  # passes in this process
        self._of_keras: tuple[State, Iteration[Any]] | None = None  # Keras' last pass, and where it began

    def __len__(self) -> int:
        """Batches an epoch, for this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """In a worker its share of the pass; else what is left of the epoch."""
        worker = get_worker_info()
        if worker is None:
            self._go_on_behind_workers()
            self._passes.stand_at(None)
            return self._begin_for_keras() if _keras_asks(sys._getframe(1)) else iter(self._batches)
        return self._begin(worker)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin this epoch; see `Batches.set_epoch`."""
        _refuse_accelerate(sys._getframe(1))
        self._go_on_behind_workers()
        self._batches.set_epoch(epoch)
        if not self._own.feed.dataset.is_stream:
            self._stand_at(self._batches.state_dict())

    def state_dict(self) -> State:
        """The trainer's place, or in a worker the worker's.

        Raises InvalidRequest where workers read: only they know how far they are.
        """
        if self._share is not None:
            return self._share.position()
        if self._passes.were_begun:
            raise InvalidRequest(
                "workers of a DataLoader read this dataset, and only they know how far they are; use torchdata's "
                "StatefulDataLoader and its state_dict(), which asks them, or num_workers=0"
            )
        return self._batches.state_dict()

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        """Continue at a saved place. Raises InvalidRequest if it was saved by another number of workers."""
        worker = get_worker_info()
        place, share = _divided(saved)
        here = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if share is not None and share[:2] != here:
            raise InvalidRequest(
                f"the state was saved by worker {share[0]} of {share[1]}, and this is worker {here[0]} of {here[1]}; "
                f"continue with num_workers={share[1]}, as often as you like, or save with num_workers=0: the state of "
                f"feed.torch() is valid everywhere"
            )
        taken = 0 if share is None else share[2]
        if worker is not None:
            self._loaded = (place, taken)
            return
        self._of_keras = None
        self._batches.load_state_dict(place)
        if taken:
            plan, state = self._batches.feed.plan, self._batches.state_dict()
            at = _cursor(state)
            is_over = taken == plan.steps_from(at.offset)
            at = plan.next_epoch(at) if is_over else Cursor(at.epoch, at.offset + taken * plan.stride)
            self._batches.load_state_dict(state | {"epoch": at.epoch, "offset": at.offset})
        self._stand_at(self._batches.state_dict())

    def close(self) -> None:
        """Close the feed. Idempotent."""
        self._batches.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _iterable_batches, (self._own, self._passes, self._named)

    def _stand_at(self, place: State) -> None:
        self._named += 1
        self._passes.stand_at(place)

    def _go_on_behind_workers(self) -> None:
        if self._passes.were_begun and (upcoming := self._passes.upcoming) is not None:
            self._batches.stand_at(upcoming)

    def _begin_for_keras(self) -> Iterator[Any]:
        if self._batches.feed.dataset.is_stream:
            return iter(self._batches)
        if self._of_keras is not None:
            start, left = self._of_keras
            is_over = left.place is None or left.place["epoch"] != start["epoch"]
            if not is_over and self._batches.state_dict() == left.place:
                self._batches.stand_at(start)
        start = self._batches.state_dict()
        begun = self._batches.iteration()
        self._of_keras = start, begun
        return begun

    def _begin(self, worker: Any) -> Iterator[Any]:  # noqa: ANN401  # torch's WorkerInfo
        feed = self._own.feed
        if feed.dataset.is_stream:
            raise InvalidRequest(
                f"{feed.dataset.name!r} is a stream: it has no places that workers could divide; use num_workers=0"
            )
        if self._share is not None:
            self._share.ahead.close()
        place, taken = self._loaded or (None, 0)
        self._loaded = None
        key = f"{self._named}.{worker.seed - worker.id}.{self._begun}"
        self._begun += 1
        place = self._passes.begin(key, at=place, start=feed.state_dict(), after=lambda place: _next_epoch(feed, place))
        self._share = _Share(self._own, place, worker.id, worker.num_workers, taken)
        return self._share


def _iterable_batches(own: OwnFeed, passes: Passes, named: int) -> IterableBatches:
    made = IterableBatches(own.feed, with_ids=own.with_ids)
    made._passes, made._named = passes, named
    return made


class _Share(Iterator[Any]):
    """Every so-manieth batch of an epoch, from a place on. What a DataLoader collects in turn is then in order."""

    def __init__(self, own: OwnFeed, place: State, worker: int, workers: int, taken: int) -> None:
        feed = own.feed
        feed.load_state_dict(place)
        at = _cursor(feed.state_dict())
        check_equal_steps(feed.plan, at.offset)
        self._own = own
        self._place, self._worker, self._workers, self._taken = place, worker, workers, taken
        self.ahead = own.readahead(EveryNth(feed.plan, at.epoch, at.offset, worker + taken * workers, workers))

    def __next__(self) -> Any:  # noqa: ANN401  # as nested as the dataset declares
        batch = self.ahead.take()
        if batch is None:
            raise StopIteration
        self._taken += 1
        return self._own.tensors(batch)

    def position(self) -> State:
        """The place where the pass began, and how far this worker is in its share."""
        return {**self._place, "worker": self._worker, "workers": self._workers, "taken": self._taken}


def _next_epoch(feed: Feed, place: State) -> State:
    feed.load_state_dict(place)
    state = feed.state_dict()
    then = feed.plan.next_epoch(_cursor(state))
    return state | {"epoch": then.epoch, "offset": then.offset}


def _cursor(state: State) -> Cursor:
    return Cursor(int(state["epoch"]), int(state["offset"]))


def _divided(saved: Mapping[str, object]) -> tuple[State, tuple[int, int, int] | None]:
    """A saved state as a feed's, and what a worker added to it: its number, the number of workers, batches taken."""
    state: dict[str, Any] = dict(saved)  # Any: checked by the feed, and here
    share = tuple(state.pop(name, None) for name in ("worker", "workers", "taken"))
    if share == (None, None, None):
        return state, None
    if not all(isinstance(number, int) for number in share):
        raise InvalidRequest(f"the state has worker, workers, taken = {share}; this is not a state of IterableBatches")
    return state, share


def _refuse_accelerate(caller: FrameType) -> None:
    """Raises InvalidRequest where accelerate reads with rank 0 alone, or divides the items itself.

    It calls `set_epoch` before each pass, on all ranks: with the dataset's own rank most batches would never be read.
    """
    loader = caller.f_locals.get("self")
    ranks = getattr(getattr(loader, "state", loader), "num_processes", 1)
    if type(loader).__name__ in {"DataLoaderDispatcher", "IterableDatasetShard"} and ranks > 1:
        raise InvalidRequest(
            f"accelerate would read this dataset with rank 0 and deal its batches out to {ranks} ranks; do not give it "
            f"to accelerator.prepare(): iterate over loader.feed(…, rank='auto').torch(device=accelerator.device); or "
            f"let accelerate choose batches: accelerator.prepare(DataLoader(feedline.torch.MapBatches(loader.feed(…)), "
            f"batch_size=1, collate_fn=feedline.torch.first))"
        )


def _keras_asks(caller: FrameType | None) -> bool:
    """The DataLoader that asks, if any does, was itself begun by Keras, and not by code that Keras calls."""
    while caller is not None and _package(caller) in {"torch", "torchdata"}:
        caller = caller.f_back
    return caller is not None and _package(caller) == "keras"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
