"""A `tf.data.Dataset` of batches: each iteration of it is the next epoch, in order, read ahead by the feed.

tf.data reads beyond what is trained on, and only the training knows how far it is: a Dataset has no state. A loop that
needs one reads `Feed.tf`.
"""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from feedline.reading.converted import built, check_equal_steps
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor, EveryNth
from feedline.reading.readahead import ReadAhead
from feedline_wire.tensors import VARIES, Array, Column

OPEN_PASSES = 4
"""Iterations that are read ahead at once: a training, a validation, and what was left. A further one closes the oldest,
which is read ahead anew if somebody goes on with it."""


def data(feed: Feed, *, with_ids: bool = False) -> Any:  # noqa: ANN401  # a tf.data.Dataset
    """The batches of a feed as a `tf.data.Dataset`, for `fit` and `tf.distribute`.

    The first iteration begins where the feed stands, each later one is the next epoch. `element_spec` is complete, with
    a batch size where all batches have it; the cardinality is asserted where all epochs have it; auto-sharding is off,
    since `rank` and `world` divide the data. Raises InvalidRequest where ranks would have different numbers of steps.
    """
    passes = _Passes(feed)
    columns = list(_columns(feed))

    def batch_of(*place: Any) -> Any:  # noqa: ANN401  # symbolic
        parts = tf.numpy_function(passes.batch, place, [column.dtype.name for column in columns])
        for part, column in zip(parts, columns, strict=True):
            part.set_shape([None if size == VARIES else size for size in column.shape])
        return built([column.name for column in feed.dataset.columns], parts, feed, with_ids=with_ids)

    begun = tf.data.Dataset.from_tensors(0).map(lambda _: tf.numpy_function(passes.begin, [], ["int64"] * 4))
    batches = begun.flat_map(
        lambda *begun: tf.data.Dataset.range(begun[-1]).map(lambda index: batch_of(*begun, index)),
    )
    if (steps := passes.steps_of_all) is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(1).with_options(options)


class _Passes:
    """Batches by number of the pass and of the step. Thread-safe."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        state = {"epoch": 0, "offset": 0} if feed.dataset.is_stream else feed.state_dict()
        self._upcoming = Cursor(int(state["epoch"]), int(state["offset"]))
        check_equal_steps(feed.plan, self._upcoming.offset)
        is_whole = feed.plan.remainder != "wrap" and not self._upcoming.offset
        self.steps_of_all = feed.plan.steps_per_epoch if is_whole else None
        """Of every pass, if they have the same number."""
        self._lock = threading.Lock()
        self._begun = 0
        self._open: dict[int, tuple[int, ReadAhead]] = {}  # the step that comes next; what was used last is last

    def begin(self) -> tuple[Any, ...]:
        """A pass: its number, its epoch, the offset where it begins, its steps."""
        with self._lock:
            at, plan = self._upcoming, self._feed.plan
            self._upcoming = plan.next_epoch(at)
            self._begun += 1
            return tuple(np.int64(number) for number in (self._begun, at.epoch, at.offset, plan.steps_from(at.offset)))

    def batch(self, number: int, epoch: int, offset: int, steps: int, index: int) -> list[Array]:
        """The arrays of a step."""
        with self._lock:
            upcoming, ahead = self._open.pop(int(number), (-1, None))
        if ahead is None or upcoming != index:
            ahead = self._feed.readahead(EveryNth(self._feed.plan, int(epoch), int(offset), int(index), 1))
        batch = ahead.take()
        assert batch is not None
        oldest: ReadAhead | None = None
        with self._lock:
            if index + 1 < steps:
                self._open[int(number)] = int(index) + 1, ahead
            if len(self._open) > OPEN_PASSES:
                _, oldest = self._open.pop(next(iter(self._open)))
        if oldest is not None:
            oldest.close()
        columns = [batch.columns[column.name] for column in self._feed.dataset.columns]
        return [*columns, batch.ids, *([] if batch.weights is None else [batch.weights])]


def _columns(feed: Feed) -> Iterator[Column]:
    """The arrays of every batch, with the shapes of whole batches."""
    dataset, plan = feed.dataset, feed.plan
    samples = VARIES if plan.remainder == "short" or dataset.skips_bad_samples else plan.batch_size
    rows = VARIES if dataset.is_batched else samples
    for column in dataset.columns:
        yield Column(column.name, column.dtype, (rows, *column.shape))
    yield Column("ids", np.dtype(np.int64), (samples,))
    if plan.remainder == "pad":
        yield Column("weights", np.dtype(np.float32), (rows,))
