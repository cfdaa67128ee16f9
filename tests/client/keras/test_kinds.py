"""Keras over datasets that do more than hand out rows: several inputs, ready batches, streams, bad samples, orders."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import feedline  # noqa: E402  # keras may be missing
from feedline import RemoteSequence  # noqa: E402
from feedline.testing import FakeLoader, serve  # noqa: E402
from feedline_wire.elementwise import OneHot, Scale  # noqa: E402
from feedline_wire.errors import InvalidRequest  # noqa: E402

pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

ROWS = (4, 4, 2, 5, 4)
BATCHES = {
    "x": [np.full((rows, 2), number, np.float32) for number, rows in enumerate(ROWS)],
    "y": [np.full((rows, 1), number, np.float32) for number, rows in enumerate(ROWS)],
}


class Seen(keras.layers.Layer):  # type: ignore[misc]
    """Hands its input on unchanged: what a model predicts is what it was given."""

    def call(self, inputs: Any) -> Any:
        return inputs


def unchanged(columns: int) -> keras.Model:
    inputs = keras.Input((columns,))
    model = keras.Model(inputs, Seen()(inputs))
    model.compile(loss="mse")
    return model


@pytest.fixture
def ready() -> Iterator[FakeLoader]:
    with serve(BATCHES, kind="batches") as loader:
        yield loader


def test_keras_trains_evaluates_and_predicts_on_ready_batches(ready: FakeLoader) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with RemoteSequence(ready.address) as sequence:
        model.fit(sequence, epochs=2, verbose=0)
        model.evaluate(sequence, verbose=0)
        predicted = unchanged(2).predict(sequence, verbose=0)

        assert len(sequence) == 5
        assert [len(x) for x, y in sequence] == [4, 4, 2, 5, 4]
    assert predicted[:, 0].tolist() == [float(number) for number, rows in enumerate(ROWS) for _ in range(rows)]
    trained = [key for key in ready.requests if key.order == "shuffle" and key.epoch < 2]  # and some read ahead
    assert {(key.epoch, key.offset) for key in trained} == {(epoch, at) for epoch in (0, 1) for at in range(5)}
    assert all(key.rows == 1 for key in ready.requests)


def test_a_training_on_ready_batches_continues_like_any_other(ready: FakeLoader) -> None:
    with RemoteSequence(ready.address) as sequence, sequence.rest(sequence.state_dict(0, trained=2)) as rest:
        assert len(rest) == 3


def test_keras_trains_evaluates_and_predicts_on_a_stream() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with serve(BATCHES, kind="stream") as loader, RemoteSequence(loader.address) as sequence:
        history = model.fit(sequence, validation_data=sequence, epochs=2, verbose=0)
        predicted = unchanged(2).predict(sequence, verbose=0)

        assert len(sequence) == 5
        with pytest.raises(InvalidRequest, match="is a stream: whatever its code yields next comes next"):
            feedline.SaveState("run", sequence)
    assert len(history.history["val_loss"]) == 2
    assert len(predicted) > 0


def test_keras_needs_a_stream_to_have_a_length() -> None:
    with (
        serve(BATCHES, kind="endless") as loader,
        pytest.raises(InvalidRequest, match="declare its steps_per_epoch on the loader"),
    ):
        RemoteSequence(loader.address)


def test_several_inputs_and_outputs_and_a_weight_reach_the_model_by_name() -> None:
    columns = {
        "a": np.arange(16, dtype=np.uint8).reshape(8, 2),
        "b": np.arange(8, dtype=np.float32).reshape(8, 1),
        "size": np.arange(8, dtype=np.float32).reshape(8, 1),
        "kind": np.arange(8) % 3,
        "weight": np.ones(8, np.float32),
    }
    structure = ({"a": "a", "b": "b"}, {"size": "size", "kind": "kind"}, "weight")
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    both = keras.layers.Concatenate()([a, b])
    outputs = {
        "size": keras.layers.Dense(1, name="size")(both),
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(both),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile("sgd", {"size": "mse", "kind": "categorical_crossentropy"})

    deferred = [("a", Scale(divide_by=255)), ("kind", OneHot(3))]
    with (
        serve(columns, structure=structure, deferred=deferred) as loader,
        RemoteSequence(loader.address, batch_size=4) as sequence,
    ):
        history = model.fit(sequence, epochs=1, verbose=0)
        x, y, weight = sequence[0]
        predicted = model.predict(sequence, verbose=0)

    assert np.isfinite(history.history["loss"]).all()
    assert x["a"].tolist() == (columns["a"][:4] / np.float32(255)).tolist()
    assert y["kind"].tolist() == np.eye(3, dtype=np.float32)[[0, 1, 2, 0]].tolist()
    assert weight.tolist() == [1, 1, 1, 1]
    assert {name: values.shape for name, values in predicted.items()} == {"size": (8, 1), "kind": (8, 3)}


def test_bad_samples_are_counted_where_the_training_is_looked_at() -> None:
    columns = {"x": np.zeros((8, 2), np.float32), "y": np.zeros((8, 1), np.float32)}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with serve(columns, bad=[3]) as loader, RemoteSequence(loader.address, batch_size=4) as sequence:
        shown = repr(sequence)
        model.fit(sequence, epochs=2, verbose=0)

        assert "bad_samples" not in shown
        assert sequence.stats.bad_samples >= 2  # and once more where Keras looks at a batch before
        assert f" bad_samples={sequence.stats.bad_samples}>" in repr(sequence)


def test_a_training_in_batches_of_one_goes_on_behind_a_bad_sample() -> None:
    columns = {"x": np.arange(6.0, dtype=np.float32)[:, None], "y": np.arange(6.0, dtype=np.float32)[:, None]}
    with serve(columns, bad=[2, 5]) as loader, RemoteSequence(loader.address, batch_size=1) as sequence:
        rows = unchanged(1).predict(sequence, verbose=0)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        history = model.fit(sequence, epochs=2, verbose=0)

    assert rows[:, 0].tolist() == [0, 1, 3, 3, 4, 0]
    assert len(history.epoch) == 2


@pytest.mark.parametrize("order", ["blocks:2x2", "replacement", "blocks:4:in-order"])
def test_every_order_trains(order: str) -> None:
    columns = {"x": np.zeros((8, 2), np.float32), "y": np.zeros((8, 1), np.float32)}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with serve(columns) as loader, RemoteSequence(loader.address, batch_size=4, order=order) as sequence:
        model.fit(sequence, epochs=1, verbose=0)
        state = sequence.state_dict(0, trained=1)

    assert state["order"] == order
    assert [key.offset for key in loader.requests if key.order == order] == [0, 4]
