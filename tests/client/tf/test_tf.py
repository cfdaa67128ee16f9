"""TensorFlow: eager tensors without a copy, and a Dataset whose every iteration is a whole epoch."""

from typing import Any

import numpy as np
import pytest

import feedline
from feedline.testing import serve
from feedline_wire.errors import InvalidRequest
from feedline_wire.tensors import DTYPES

pytestmark = pytest.mark.keras

ONCE = list(range(100))


def ids_of(batches: Any) -> list[int]:
    return [int(number) for _, ids in batches for number in ids]


# ---- eager ----


@pytest.mark.parametrize("structure", ["x", ("x", "y"), {"a": "x", "b": {"c": "y"}}])
def test_a_batch_is_what_the_dataset_declares(structure: Any) -> None:
    import tensorflow as tf

    x, y = np.arange(24, dtype=np.float32).reshape(8, 3), np.arange(8)
    with serve({"x": x, "y": y}, structure=structure) as loader, feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=8, order="sequential")
        for batch in (next(iter(feed.tf())), next(iter(feed.tf_dataset()))):
            tf.nest.assert_same_structure(batch, structure)
            for part, name in zip(tf.nest.flatten(batch), tf.nest.flatten(structure), strict=True):
                assert np.array_equal(part.numpy(), {"x": x, "y": y}[name])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_of_the_wire_is_a_tensor(dtype: str) -> None:
    values = np.arange(8).astype(dtype)
    with serve({"x": values}) as loader, feedline.connect(loader.address) as connection:
        (x,) = connection.feed(batch_size=8, order="sequential").tf()

    assert x.dtype.name == dtype
    assert x.numpy().tolist() == values.tolist()


def test_a_place_is_continued_and_held_tensors_keep_what_they_held(connection: feedline.Loader) -> None:
    batches = connection.feed(batch_size=1, seed=3).tf(with_ids=True)
    iteration = iter(batches)
    held = [next(iteration) for _ in range(50)]
    other = connection.feed(batch_size=7).tf(with_ids=True)
    other.load_state_dict(batches.state_dict())

    assert sorted([int(ids[0]) for _, ids in held] + ids_of(other)) == ONCE
    assert all(y.numpy().tolist() == ids.numpy().tolist() for (_, y), ids in held)


# ---- a Dataset ----


def test_each_iteration_is_the_next_epoch_in_the_feeds_order(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=8, seed=3)
    wanted = [[batch.ids.tolist() for batch in feed.epoch(epoch)] for epoch in range(3)]
    batches = connection.feed(batch_size=8, seed=3).tf_dataset(with_ids=True)

    assert batches.cardinality() == 13
    assert [[ids.numpy().tolist() for _, ids in batches] for _ in range(3)] == wanted


def test_iterations_beside_each_other_are_whole_epochs_also_where_one_was_left(connection: feedline.Loader) -> None:
    batches = connection.feed(batch_size=8, seed=3).tf_dataset(with_ids=True)
    next(iter(batches))

    both = [(one.numpy(), other.numpy()) for (_, one), (_, other) in zip(batches, batches, strict=True)]

    for which in (0, 1):
        assert sorted(int(number) for pair in both for number in pair[which]) == ONCE
    assert both[0][0].tolist() != both[0][1].tolist()


def test_more_iterations_than_are_read_ahead_are_all_whole(connection: feedline.Loader) -> None:
    batches = connection.feed(batch_size=10, seed=3).tf_dataset(with_ids=True)

    passes = list(zip(*[batches] * 7, strict=True))

    for which in range(7):
        assert sorted(int(number) for batch in passes for number in batch[which][1].numpy()) == ONCE


@pytest.mark.parametrize(
    ("remainder", "rows", "cardinality"), [("short", None, 13), ("drop", 8, 12), ("pad", 8, 13), ("wrap", 8, -2)]
)
def test_the_element_spec_is_complete(
    connection: feedline.Loader, remainder: Any, rows: int | None, cardinality: int
) -> None:
    import tensorflow as tf

    batches = connection.feed(batch_size=8, remainder=remainder).tf_dataset(with_ids=True)

    parts, ids = batches.element_spec
    assert list(parts)[:2] == [tf.TensorSpec([rows, 3], tf.float32), tf.TensorSpec([rows], tf.int64)]
    assert list(parts)[2:] == ([tf.TensorSpec([rows], tf.float32)] if remainder == "pad" else [])
    assert ids == tf.TensorSpec([rows], tf.int64)
    assert batches.cardinality() == cardinality
    assert len(ids_of(batches)) == {"short": 100, "drop": 96, "pad": 104, "wrap": 104}[remainder]


def test_the_first_iteration_begins_where_the_feed_stands(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=8, seed=3)
    epoch = iter(feed)
    read = [int(number) for _ in range(5) for number in next(epoch).ids]
    batches = feed.tf_dataset(with_ids=True)

    assert sorted(read + ids_of(batches)) == ONCE
    assert sorted(ids_of(batches)) == ONCE


def test_keras_fits_it_epoch_by_epoch(connection: feedline.Loader) -> None:
    import keras

    read: list[int] = []

    class Reads(keras.Model):
        def train_step(self, data: Any) -> dict[str, Any]:
            _, ids = data
            read.extend(ids.numpy().tolist())
            return {"loss": 0.0}

    model = Reads()
    model.compile(run_eagerly=True)
    model.fit(connection.feed(batch_size=8, seed=3).tf_dataset(with_ids=True), epochs=2, shuffle=False, verbose=0)

    assert sorted(read[:100]) == sorted(read[100:]) == ONCE
    assert read[:100] != read[100:]


def test_two_input_pipelines_of_a_strategy_read_each_sample_once(connection: feedline.Loader) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    def made(context: Any) -> Any:
        feed = connection.feed(batch_size=8, rank=context.input_pipeline_id, world=context.num_input_pipelines)
        return feed.tf_dataset(with_ids=True)

    assert sorted(ids_of(strategy.distribute_datasets_from_function(made))) == ONCE


def test_ranks_that_would_have_different_numbers_of_steps_are_refused(connection: feedline.Loader) -> None:
    with pytest.raises(InvalidRequest, match="remainder='drop'"):
        connection.feed(batch_size=9, rank=0, world=11).tf_dataset()
