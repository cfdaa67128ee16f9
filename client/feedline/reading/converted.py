"""A feed's batches in another form, as a framework takes them; converted ahead of the reader where that pays.

The place is behind the batch that was handed out last, whatever was converted ahead. Frameworks may call `iter` and
`iter` again, `iter`, `load_state_dict` and `iter`, and `set_epoch` before each `iter`.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from feedline.reading import state
from feedline.reading.batch import Batch
from feedline.reading.epoch import EpochIncomplete
from feedline.reading.feed import Feed
from feedline.reading.plan import Plan
from feedline.reading.state import State
from feedline_wire import structure
from feedline_wire.errors import InvalidRequest
from feedline_wire.tensors import Array

Form = TypeVar("Form")


class ConvertedFeed(ABC, Generic[Form]):
    """What `convert` makes of each batch of a feed, which belongs to it from then on.

    `for batch in …` gives what is left of the current epoch; the next loop gives the next epoch. Up to `ahead` batches
    that are here already are converted before they are asked for. Read it in one thread.

    Raises InvalidRequest where the ranks of a job would have different numbers of steps.
    """

    is_copying = False
    """`convert` copies to a device: what it takes is a wait of the reader, for the stage `device`."""

    def __init__(self, feed: Feed, *, ahead: int = 0) -> None:
        self.feed = feed
        """Where the batches come from. Not to be read beside this."""
        self._ahead = ahead
        self._place: State | None = None  # behind the batch handed out last; None: where the feed is
        self._current: object = None  # what moves the place: the iteration begun last
        self._shift = 0  # the feed's epoch less the caller's number for it
        self._is_loaded = False  # and neither was a batch handed out since, nor an epoch named
        check_equal_steps(feed.plan, 0)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.feed!r}>"

    def __len__(self) -> int:
        """Batches an epoch, for this rank. Raises InvalidRequest for a stream that never ends."""
        return len(self.feed)

    def __iter__(self) -> Iterator[Form]:
        """What is left of the current epoch; the one after it, when nothing is."""
        return self.iteration()

    def iteration(self) -> "Iteration[Form]":
        """What `iter` begins."""
        self._return_to_place()
        self._current = begun = object()
        return Iteration(self, begun, self._ahead)

    @abstractmethod
    def convert(self, batch: Batch) -> Form:
        """The batch in its form."""

    def set_epoch(self, epoch: int) -> None:
        """Let the next `for` begin this epoch. Changes nothing if it is the current one.

        The first epoch that is named after `load_state_dict` is the loaded one: who counts from 0 in every process, as
        accelerate does, goes on with it, and so does who counts on.
        """
        self._return_to_place()
        if self._is_loaded:
            self._shift = int(self.feed.state_dict()["epoch"]) - epoch
            self._is_loaded = False
        elif self.feed.dataset.is_stream or epoch + self._shift != self.feed.state_dict()["epoch"]:
            self.feed.set_epoch(epoch + self._shift)
            self._current = None

    def state_dict(self) -> State:
        """Where the trainer is: a small dict of numbers and strings, valid with any other batch size, rank and world.

        It counts what was handed out. Every rank has the same. Raises InvalidRequest for a stream.
        """
        return self.feed.state_dict() if self._place is None else dict(self._place)

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        """Continue at a saved place; the next batch is the one that would have come.

        Raises InvalidRequest or DatasetChanged if it was saved on something else.
        """
        self.stand_at(saved)
        self._shift = 0
        self._is_loaded = True

    def stand_at(self, place: Mapping[str, object]) -> None:
        """Move to a place. Epochs are counted by the caller as before."""
        self.feed.load_state_dict(place)
        check_equal_steps(self.feed.plan, int(self.feed.state_dict()["offset"]))
        self._place = None
        self._current = None

    def close(self) -> None:
        """Close the feed; a thread that waits for a batch gets Closed. Idempotent."""
        self.feed.close()

    def _return_to_place(self) -> None:
        if self._place is not None and self._place != self.feed.state_dict():
            self.feed.load_state_dict(self._place)
        self._place = None

    def _handed_out(self, begun: object, place: State | None) -> None:
        if self._current is begun:
            self._place = place
            self._is_loaded = False


class Iteration(Iterator[Form]):
    """An epoch, or what is left of it."""

    def __init__(self, of: ConvertedFeed[Form], begun: object, ahead: int) -> None:
        self._of = of
        self._begun = begun
        self._epoch = iter(of.feed)
        self._ordering = of.feed.ordering
        self._ahead = ahead
        self._taken = 0
        self._raw: Batch | None = None  # taken and not converted: conversion raised an error
        self._ready: deque[tuple[Form, State | None]] = deque()
        self.place = self._reached()
        """Behind the batch that was handed out last, and after the end the next epoch; None of a stream."""

    def start(self) -> None:
        """Begin to fetch ahead now, and not with the first `next`. Does not block. Idempotent."""
        self._epoch.start()

    def __next__(self) -> Form:
        if not self._ready:
            try:
                self._take()
            except StopIteration:
                self.place = self._reached()
                raise
        while len(self._ready) <= self._ahead and self._epoch.is_ready:
            try:
                self._take()
            except StopIteration:
                break
        form, self.place = self._ready.popleft()
        self._of._handed_out(self._begun, self.place)
        return form

    def _take(self) -> None:
        # Ctrl-C may strike between taking a batch and keeping it.
        if self._taken + (self._raw is not None) != self._epoch.delivered:
            raise EpochIncomplete("this iteration was interrupted while it took a batch; go on with iter() of its feed")
        if self._raw is None:
            self._raw = next(self._epoch)
        feed = self._of.feed
        began = time.perf_counter()
        converted = self._of.convert(self._raw)
        if self._of.is_copying:
            feed.spent("device", time.perf_counter() - began)
        self._ready.append((converted, self._reached()))
        self._raw = None
        self._taken += 1

    def _reached(self) -> State | None:
        """Behind what was taken, whatever other iterations of the feed have taken."""
        feed = self._of.feed
        return None if feed.dataset.is_stream else state.write(self._ordering, feed.plan.settled(self._epoch.cursor))


def arrays(batch: Batch) -> list[Array]:
    """The columns of a batch, its ids, and its weights where there are any."""
    return [*batch.columns.values(), batch.ids, *([] if batch.weights is None else [batch.weights])]


def built(names: Iterable[str], parts: Sequence[Any], feed: Feed, *, with_ids: bool) -> Any:  # noqa: ANN401
    """What a reader gets: parts made of `arrays(batch)`, with these columns, in the dataset's structure.

    A part, or a tuple or dict of parts; with weights a tuple that ends with them; with ids `(batch, ids)`.
    """
    columns = dict(zip(names, parts, strict=False))
    ids, *weights = parts[len(columns) :]
    made = structure.build(feed.dataset.structure, columns)
    if weights:
        made = (*(made if isinstance(made, tuple) else (made,)), *weights)
    return (made, ids) if with_ids else made


def check_equal_steps(plan: Plan, offset: int) -> None:
    """Raises InvalidRequest, with the line to write, if some ranks have one step less than others from here on.

    Training in step, they would wait for each other for ever.
    """
    left = max(plan.samples - offset, 0) % plan.stride
    if plan.remainder == "short" and 0 < left < plan.world:
        raise InvalidRequest(
            f"the last batch of the epoch is {left} sample{'s' if left > 1 else ''} for {plan.world} ranks, so "
            f"{plan.world - left} of them would have one step less, and the others wait for them for ever; make the "
            f"feed with remainder='drop' (leaves {left} out), 'pad' (sample weight 0) or 'wrap': "
            f"loader.feed(…, batch_size={plan.batch_size}, world={plan.world}, rank=…, remainder='drop')"
        )
