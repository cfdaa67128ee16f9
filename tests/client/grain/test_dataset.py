"""A Grain dataset of batches: Grain's own operations over it, its checkpoints, and how Keras iterates over one."""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

import feedline
from feedline.testing import FakeLoader

pytestmark = pytest.mark.frameworks

ONCE = list(range(100))


def of(connection: feedline.Loader, **arguments: Any) -> Any:
    return over(connection.feed(batch_size=8, seed=3), **arguments)


def over(feed: feedline.Feed, **arguments: Any) -> Any:
    import feedline.grain

    return feedline.grain.dataset(feed, **arguments)


def epochs(connection: feedline.Loader, number: int) -> list[list[list[int]]]:
    feed = connection.feed(batch_size=8, seed=3)
    return [[batch.ids.tolist() for batch in feed.epoch(epoch)] for epoch in range(number)]


def ids(element: Any) -> list[int]:
    return element[1].tolist()


def test_iterators_are_independent_and_the_epoch_moves_on_when_one_has_come_to_its_end(
    connection: feedline.Loader,
) -> None:
    """Keras begins three and takes three batches before it trains; Grain's own datasets bear that."""
    batches = of(connection, with_ids=True)
    first, second = epochs(connection, 2)
    looks = [iter(batches) for _ in range(3)]
    for look in looks[1:]:
        assert [ids(next(look)) for _ in range(2)] == first[:2]

    assert len(batches) == 13
    assert [ids(element) for element in batches] == first
    assert [ids(element) for element in looks[0]] == first
    assert [ids(element) for element in looks[1]] == first[2:]
    assert [ids(element) for element in batches] == second
    assert looks[2].get_state()["offset"] == 16


def test_a_place_that_was_loaded_is_where_every_iterator_begins_until_one_ends(connection: feedline.Loader) -> None:
    first, second = epochs(connection, 2)
    feed = connection.feed(batch_size=8, seed=3)
    for _ in range(5):
        next(iter(feed))
    batches = over(feed, with_ids=True)

    next(iter(batches))
    assert [ids(element) for element in batches] == first[5:]
    assert [ids(element) for element in batches] == second
    batches.set_epoch(1)
    assert [ids(element) for element in batches] == second


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_fits_it_epoch_by_epoch(
    trainers: Callable[..., list[list[Any]]], backend: str, connection: feedline.Loader
) -> None:
    """A layer writes down what the model saw: x[i] is filled with i."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")

    ((read,),) = trainers(
        f"""
        os.environ["KERAS_BACKEND"] = "{backend}"
        import keras
        from keras import ops
        class Recorder(keras.layers.Layer):
            def build(self, shape):
                self.log = self.add_weight(shape=(400,), dtype="int32", initializer="zeros", trainable=False)
                self.filled = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
            def call(self, x):
                ids = ops.cast(x[:, 0], "int32")
                places = ops.cumsum(ops.ones_like(ids)) - 1 + self.filled.value
                self.log.assign(ops.scatter_update(self.log.value, places[:, None], ids))
                self.filled.assign(self.filled.value + ops.sum(ops.ones_like(ids)))
                return x
        recorder = Recorder()
        model = keras.Sequential([recorder, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-5), "mse")
        model.fit(feedline.grain.dataset(connection.feed(batch_size=8, seed=3)), epochs=2, verbose=0)
        say(ops.convert_to_numpy(recorder.log)[: int(recorder.filled.value)].tolist())
        """,
        imports="feedline.grain",
    )

    assert [read[:100], read[100:]] == [
        [number for batch in epoch for number in batch] for epoch in epochs(connection, 2)
    ]


def test_a_mapped_dataset_is_saved_and_continued_with_the_very_next_batch(connection: feedline.Loader) -> None:
    iteration = iter(of(connection, with_ids=True).map(ids))
    read = [next(iteration) for _ in range(5)]
    saved = json.loads(json.dumps(iteration.get_state()))
    resumed = iter(of(connection, with_ids=True).map(ids))
    next(resumed)
    resumed.set_state(saved)

    assert read + list(resumed) == epochs(connection, 1)[0]
    assert read + list(iteration) == epochs(connection, 1)[0]


def test_device_put_reads_ahead_and_the_place_is_that_of_what_was_handed_out(connection: feedline.Loader) -> None:
    import grain.experimental
    import jax

    def made() -> Any:
        device = jax.devices()[0]
        return iter(grain.experimental.device_put(of(connection, with_ids=True), device))

    iteration, resumed = made(), made()
    read = [ids(next(iteration)) for _ in range(5)]
    resumed.set_state(iteration.get_state())

    assert read + [ids(element) for element in resumed] == epochs(connection, 1)[0]
    iteration.close()
    resumed.close()


def test_prefetching_may_be_started_before_the_first_batch(loader: FakeLoader, connection: feedline.Loader) -> None:
    iteration = iter(of(connection))
    iteration.start_prefetch()
    iteration.start_prefetch()

    loader.wait_until(lambda seen: seen.answered == 13)
    assert len(list(iteration)) == 13


def test_a_closed_iterator_gives_nothing_and_the_dataset_goes_on(connection: feedline.Loader) -> None:
    batches = of(connection, with_ids=True)
    iteration = iter(batches)
    first = ids(next(iteration))
    iteration.close()
    iteration.close()

    with pytest.raises(ValueError, match="closed iterator"):
        next(iteration)
    assert first == epochs(connection, 1)[0][0]
    assert [ids(element) for element in batches] == epochs(connection, 1)[0]


def test_a_place_is_one_of_a_plain_feed(connection: feedline.Loader) -> None:
    iteration = iter(of(connection, with_ids=True))
    read = [number for _ in range(5) for number in ids(next(iteration))]
    feed = connection.feed(batch_size=20)
    feed.load_state_dict(iteration.get_state())

    assert sorted(read + [int(number) for batch in feed for number in batch.ids]) == ONCE
