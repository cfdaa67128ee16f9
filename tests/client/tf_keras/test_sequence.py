"""Keras 2 drives a `RemoteSequence`: fit, evaluate and predict as a user writes them, with any number of workers.

Models run eagerly, so that a layer can write down the ids that it saw: x[i] is filled with i.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf_keras = pytest.importorskip("tf_keras")

import feedline  # noqa: E402  # tf_keras may be missing
from feedline.testing import FakeLoader, serve  # noqa: E402
from feedline.tf_keras import RemoteSequence, SaveState, WaitingTime  # noqa: E402
from feedline.tf_keras import zip as zipped  # noqa: E402
from feedline_wire.key import from_text  # noqa: E402

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Even though the.*:UserWarning"),  # tf.data, of eager models
]

N = 22
ROWS = 4
STEPS = 6


class Recorder(tf_keras.layers.Layer):  # type: ignore[misc]  # tf_keras publishes no types
    """Hands its input on and writes down the ids that it was trained with, and those that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.asked: list[int] = []

    def call(self, x: Any, training: bool = False) -> Any:
        if hasattr(x, "numpy"):
            (self.seen if training else self.asked).extend(x.numpy()[:, 0].astype(int).tolist())
        return x


class Model:
    """A model that predicts each sample's id and remembers the ids that it was trained with."""

    def __init__(self) -> None:
        tf_keras.utils.set_random_seed(3)
        self.recorder = Recorder()
        inputs = tf_keras.Input((3,))
        ids = self.recorder(inputs)
        outputs = tf_keras.layers.Concatenate()([ids[:, :1], tf_keras.layers.Dense(1)(ids / N)])
        self.keras = tf_keras.Model(inputs, outputs)
        self.keras.compile(tf_keras.optimizers.Adam(0.01), self._loss, run_eagerly=True)

    @staticmethod
    def _loss(y: Any, predicted: Any) -> Any:
        return (predicted[:, 1:] - y) ** 2

    def fit(self, sequence: Any, **more: Any) -> Any:
        return self.keras.fit(sequence, verbose=0, **more).history

    def epochs(self) -> list[list[int]]:
        seen = self.recorder.seen
        return [seen[start : start + N] for start in range(0, len(seen), N)]


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    ids = np.arange(N, dtype=np.float32)[:, None]
    with serve({"x": np.repeat(ids, 3, axis=1), "y": ids}, views={"train": slice(None)}) as served:
        yield served


@pytest.fixture
def sequence(loader: FakeLoader) -> Iterator[RemoteSequence]:
    with RemoteSequence(loader.address, batch_size=ROWS, timeout_s=20) as made:
        yield made


def plan(loader: FakeLoader, epoch: int, **more: Any) -> list[int]:
    """What a plain loop reads in that epoch."""
    with feedline.connect(loader.address) as connection:
        feed = connection.feed(**{"batch_size": ROWS, "order": "shuffle", **more})
        return [sample for batch in feed.epoch(epoch) for sample in batch.ids.tolist()]


@pytest.mark.parametrize("workers", [1, 4])
def test_every_epoch_is_the_plan_of_its_number_from_its_first_batch_to_its_last(
    loader: FakeLoader, sequence: RemoteSequence, workers: int
) -> None:
    model = Model()
    model.fit(sequence, epochs=3, workers=workers)

    assert model.epochs() == [plan(loader, epoch) for epoch in range(3)]
    assert [sorted(epoch) for epoch in model.epochs()] == [list(range(N))] * 3
    assert sequence.stats.surprises == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_evaluate_predict_and_validation_are_in_dataset_order(sequence: RemoteSequence, workers: int) -> None:
    model = Model()
    before = model.keras.predict(sequence, verbose=0, workers=workers)
    history = model.fit(sequence, epochs=2, validation_data=sequence, workers=workers)
    after = model.keras.predict(sequence, verbose=0, workers=workers)
    model.recorder.asked.clear()
    model.keras.evaluate(sequence, verbose=0, workers=workers)

    assert before[:, 0].tolist() == after[:, 0].tolist() == list(range(N))
    assert len(history["val_loss"]) == 2
    assert model.recorder.asked == list(range(N))
    assert [sorted(epoch) for epoch in model.epochs()] == [list(range(N))] * 2


def test_without_shuffle_it_is_in_dataset_order(sequence: RemoteSequence) -> None:
    model = Model()
    model.fit(sequence, epochs=2, shuffle=False)

    assert model.epochs() == [list(range(N))] * 2


def test_a_training_pass_is_read_ahead() -> None:
    """While batch k is trained on, everything up to k + prefetch has been asked for, and nothing is asked for twice."""
    steps, prefetch = 40, 8
    ids = np.arange(steps * ROWS, dtype=np.float32)[:, None]
    with (
        serve({"x": np.repeat(ids, 3, axis=1), "y": ids}) as loader,
        RemoteSequence(loader.address, batch_size=ROWS, prefetch=prefetch) as sequence,
    ):

        def look(step: int, logs: object) -> None:
            loader.wait_until(lambda seen: len(seen.requests) >= min(step + 1 + prefetch, steps))

        Model().fit(sequence, callbacks=[tf_keras.callbacks.LambdaCallback(on_train_batch_end=look)])

        shuffled = [key.offset for key in loader.requests if key.order == "shuffle"]
        assert sorted(shuffled) == list(range(0, steps * ROWS, ROWS))
        assert len(loader.requests) == steps + 1  # and the one that Keras looks at


def test_from_the_second_epoch_on_the_next_one_is_read_ahead_before_it_begins(loader: FakeLoader) -> None:
    with RemoteSequence(loader.address, batch_size=ROWS, prefetch=4) as sequence:

        def look(epoch: int, logs: object) -> None:
            if epoch in {1, 2}:
                loader.wait_until(lambda seen: sum(key.epoch == epoch + 1 for key in seen.requests) >= 4)

        Model().fit(sequence, epochs=4, callbacks=[tf_keras.callbacks.LambdaCallback(on_epoch_end=look)])

    wanted = [(key.epoch, key.offset) for key in loader.requests if key.order == "shuffle" and key.epoch in {1, 2, 3}]
    assert len(wanted) == len(set(wanted)) == 3 * STEPS


@pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning")
def test_each_epoch_of_fewer_steps_begins_a_plan(loader: FakeLoader, sequence: RemoteSequence) -> None:
    """Keras 2 begins anew in each epoch, also with `steps_per_epoch`."""
    model = Model()
    model.fit(sequence, epochs=2, steps_per_epoch=4)

    assert model.epochs()[0][:16] == plan(loader, 0)[:16]


class Interrupted(Exception):
    """As a process that is killed."""


@pytest.mark.parametrize("workers", [1, 4])
def test_a_training_that_was_killed_ends_with_the_batches_and_weights_of_one_that_was_not(
    loader: FakeLoader, tmp_path: Path, workers: int
) -> None:
    def run(folder: Path, *callbacks: Any) -> tuple[list[int], list[Any]]:
        model = Model()
        with RemoteSequence(loader.address, batch_size=ROWS, seed=5, timeout_s=20) as sequence:
            saved = SaveState(folder, sequence, every=1)
            with contextlib.suppress(Interrupted):
                saved.fit(model.keras, epochs=3, callbacks=callbacks, verbose=0, workers=workers)
            return model.recorder.seen, [*model.keras.get_weights(), *map(np.asarray, model.keras.optimizer.variables)]

    at = [0]

    def kill(batch: int, logs: object) -> None:
        at[0] += 1
        if at[0] == 9:
            raise Interrupted

    undisturbed, wanted = run(tmp_path / "whole")
    before, _ = run(tmp_path / "cut", tf_keras.callbacks.LambdaCallback(on_train_batch_end=kill))
    after, found = run(tmp_path / "cut")

    saved = 6 * ROWS - 2 + 2 * ROWS  # the ninth batch was trained, and not saved
    assert before[:saved] + after == undisturbed
    assert len(found) == len(wanted)
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_waiting_is_a_metric_and_a_callback_knows_which_batch_was_trained(
    sequence: RemoteSequence, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[int, int]] = []

    def note(batch: int, logs: object) -> None:
        key = from_text(sequence.trained(batch).key)
        trained.append((key.epoch, key.offset))

    callbacks = [WaitingTime(), tf_keras.callbacks.LambdaCallback(on_train_batch_end=note)]
    history = Model().keras.fit(sequence, epochs=2, callbacks=callbacks, verbose=2).history

    assert [0 <= share <= 1 for share in history["waiting"]] == [True, True]
    assert capsys.readouterr().out.count("- waiting: ") == 2
    assert trained == [(epoch, at) for epoch in (0, 1) for at in range(0, N, ROWS)]


def test_sequences_are_mapped_and_zipped(loader: FakeLoader) -> None:
    with (
        serve({"x": np.repeat(np.arange(N, dtype=np.float32)[:, None], 3, axis=1)}, structure="x") as images,
        serve({"y": np.arange(N, dtype=np.float32)[:, None]}, structure="y") as labels,
        zipped(
            RemoteSequence(images.address, batch_size=ROWS), RemoteSequence(labels.address, batch_size=ROWS)
        ) as pairs,
    ):
        model = Model()
        model.fit(pairs.map(lambda x, y: (x, y)), epochs=2)

        assert model.epochs() == [plan(images, epoch) for epoch in (0, 1)]
