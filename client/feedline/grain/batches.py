"""A Grain dataset whose elements are ready batches: asked for records one by one, a loader would answer one by one."""

from collections.abc import Mapping
from typing import Any

import grain

from feedline.reading.batch import Batch
from feedline.reading.converted import ConvertedFeed, Iteration, arrays, built
from feedline.reading.feed import Feed
from feedline.reading.state import State


class Batches(grain.IterDataset):  # type: ignore[misc]  # grain is not installed where this is checked
    """Batches of a feed as numpy arrays, in the structure that the dataset declares. Made by `dataset`.

    As of every Grain dataset iterators are independent, and each begins at the same place: the start of the current
    epoch, or the place that was loaded. The epoch moves on when an iterator has come to its end. An iterator's
    `get_state` is the state of a plain feed, which any other form of it continues.
    """

    def __init__(self, feed: Feed, *, with_ids: bool = False) -> None:
        super().__init__()
        self._batches = _Plain(feed, with_ids=with_ids)

    def __len__(self) -> int:
        """Batches an epoch, for this rank."""
        return len(self._batches)

    def __iter__(self) -> "_Batches":
        return _Batches(self._batches)

    def __str__(self) -> str:
        return f"feedline.grain.dataset({self._batches.feed!r})"

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter` begin this epoch. Changes nothing if it is the current one."""
        self._batches.set_epoch(epoch)


def dataset(feed: Feed, *, with_ids: bool = False) -> Batches:
    """The batches of a feed, for Grain. With `with_ids` an element is `(batch, ids)`."""
    return Batches(feed, with_ids=with_ids)


class _Plain(ConvertedFeed[Any]):
    """Batches without what feedline adds, begun at one place however often, until a pass from there is over."""

    def __init__(self, feed: Feed, *, with_ids: bool) -> None:
        super().__init__(feed)
        self._with_ids = with_ids
        self.start: State | None = None if feed.dataset.is_stream else feed.state_dict()
        """Where the next pass begins; None of a stream."""

    def iteration(self) -> Iteration[Any]:
        """A pass from `start` on."""
        self._return_to_start()
        return super().iteration()

    def set_epoch(self, epoch: int) -> None:
        self._return_to_start()
        super().set_epoch(epoch)
        self._start_here()

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        super().load_state_dict(saved)
        self._start_here()

    def convert(self, batch: Batch) -> Any:  # noqa: ANN401  # as nested as the dataset declares
        """The arrays that arrived."""
        return built(batch.columns, arrays(batch), self.feed, with_ids=self._with_ids)

    def _return_to_start(self) -> None:
        # Where the feed is there already, it goes on with what it has read ahead.
        if self.start is not None and self.start != self.state_dict():
            self.stand_at(self.start)

    def _start_here(self) -> None:
        if self.start is not None:
            self.start = self.state_dict()


class _Batches(grain.DatasetIterator):  # type: ignore[misc]  # grain is not installed where this is checked
    def __init__(self, batches: _Plain) -> None:
        super().__init__()
        self._batches = batches
        self._begin()

    def __next__(self) -> Any:  # noqa: ANN401  # as nested as the dataset declares
        self._assert_not_closed()
        try:
            return next(self._iteration)
        except StopIteration:
            if self._batches.start == self._began:
                self._batches.start = self._iteration.place
            raise

    def get_state(self) -> State:
        """The place behind the batch that was handed out last. Raises InvalidRequest for a stream."""
        return self._batches.state_dict() if self._iteration.place is None else dict(self._iteration.place)

    def set_state(self, state: Mapping[str, object]) -> None:
        """Go on at a saved place, where the dataset's next `iter` begins too."""
        self._batches.load_state_dict(state)
        self._begin()

    def start_prefetch(self) -> None:
        """Begin to fetch ahead now. Does not block. Idempotent."""
        self._iteration.start()

    def __str__(self) -> str:
        return f"feedline.grain.dataset({self._batches.feed!r})"

    def _begin(self) -> None:
        self._began = self._batches.start
        self._iteration = self._batches.iteration()
