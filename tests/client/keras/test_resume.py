"""A training that is interrupted anywhere and continued elsewhere trains what an undisturbed one does, in that order.

What a model saw is recorded inside the model, by a layer that writes down the ids in its inputs; x[i] is filled with i.
So it is saved and restored with the weights, and tells of all processes together.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
ops = keras.ops

import feedline  # noqa: E402  # keras may be missing
from feedline import RemoteSequence, SaveState  # noqa: E402
from feedline.testing import FakeLoader, serve  # noqa: E402
from feedline_wire.errors import DatasetChanged, InvalidRequest  # noqa: E402

pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

N = 22
ROWS = 4
STEPS = 6  # five of four rows and one of two
EPOCHS = 3
CAPACITY = 1000


class Interrupted(Exception):
    """As a process that is killed: nothing is saved because of it."""


class Recorder(keras.layers.Layer):  # type: ignore[misc]  # keras publishes no types
    """Hands its input on and writes down the ids it saw; works in compiled models on every backend."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.log = self.add_weight(shape=(CAPACITY,), dtype="int32", initializer="zeros", trainable=False)
        self.filled = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            ids = ops.cast(x[:, 0], "int32")
            places = ops.cumsum(ops.ones_like(ids)) - 1 + self.filled.value
            self.log.assign(ops.scatter_update(self.log.value, places[:, None], ids))
            self.filled.assign(self.filled.value + ops.sum(ops.ones_like(ids)))
        return x


def made() -> Any:
    """A small model with an optimizer that has a memory and a layer that draws, the same each time."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.3, seed=1)(Recorder()(inputs) / N)))
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=keras.backend.backend() == "jax")
    return model


def seen(model: Any) -> list[int]:
    """All ids it was trained with, in order."""
    recorder = next(layer for layer in model.layers if isinstance(layer, Recorder))
    return ops.convert_to_numpy(recorder.log)[: int(recorder.filled.value)].tolist()  # type: ignore[no-any-return]


def weights(model: Any) -> list[list[float]]:
    return [ops.convert_to_numpy(each).tolist() for each in [*model.weights, *model.optimizer.variables]]


def columns() -> dict[str, Any]:
    ids = np.arange(N, dtype=np.float32)[:, None]
    return {"x": np.repeat(ids, 3, axis=1), "y": ids}


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve(columns()) as served:
        yield served


Make = Callable[..., RemoteSequence]

PLAN: dict[str, Any] = {"batch_size": ROWS, "seed": 5, "timeout_s": 100}
"""What is trained where a test says nothing else."""


@pytest.fixture
def make(loader: FakeLoader) -> Iterator[Make]:
    """Make sequences, as each process makes its own."""
    open_ones: list[RemoteSequence] = []

    def one(**more: Any) -> RemoteSequence:
        open_ones.append(RemoteSequence(loader.address, **{**PLAN, **more}))
        return open_ones[-1]

    yield one
    for each in open_ones:
        each.close()


def interrupt(epoch: int, batch: int) -> Any:
    """A callback that kills the training after a batch of an epoch."""
    now: list[int] = []

    def begin(number: int, logs: Any) -> None:
        now[:] = [number]

    def end(number: int, logs: Any) -> None:
        if (now[0], number) == (epoch, batch):
            raise Interrupted

    return keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_train_batch_end=end)


def train(saved: SaveState, *callbacks: Any, epochs: int = EPOCHS, **more: Any) -> Any:
    """A process' training: a new model, gone on with from the folder."""
    model = made()
    saved.fit(model, epochs=epochs, callbacks=callbacks, verbose=0, **more)
    return model


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model that was trained without interruption."""
    with serve(columns()) as served, RemoteSequence(served.address, **PLAN) as sequence:
        yield train(SaveState(tmp_path_factory.mktemp("undisturbed"), sequence))


# ---- exactly ----


@pytest.mark.parametrize(
    ("every", "at"),
    [(1, (0, 0)), (1, (0, 3)), (1, (1, 0)), (1, (2, 5)), (2, (0, 5)), (2, (1, 4)), (None, (0, 3)), (None, (2, 1))],
)
def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    make: Make, tmp_path: Path, undisturbed: Any, every: int | None, at: tuple[int, int]
) -> None:
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path / "run", make(), every=every), interrupt(*at))

    resumed = train(SaveState(tmp_path / "run", make(), every=every))

    assert seen(resumed) == seen(undisturbed)
    assert weights(resumed) == weights(undisturbed)


def test_a_training_may_be_interrupted_again_and_again_also_while_the_rest_of_an_epoch_is_trained(
    make: Make, tmp_path: Path, undisturbed: Any
) -> None:
    for epoch, batch in ((0, 2), (0, 1), (1, 3), (1, 0), (2, 4)):  # batches are counted from where a process began
        with pytest.raises(Interrupted):
            train(SaveState(tmp_path, make(), every=1), interrupt(epoch, batch))

    resumed = train(SaveState(tmp_path, make(), every=1))

    assert seen(resumed) == seen(undisturbed)
    assert weights(resumed) == weights(undisturbed)


def test_it_continues_with_another_batch_size(make: Make, tmp_path: Path, undisturbed: Any) -> None:
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path, make(), every=1), interrupt(1, 2))

    resumed = train(SaveState(tmp_path, make(batch_size=5), every=1))

    assert seen(resumed) == seen(undisturbed), "the order of samples is that of the plan"


def test_a_training_that_is_over_trains_nothing_more_and_more_epochs_go_on_from_there(
    make: Make, tmp_path: Path, undisturbed: Any
) -> None:
    train(SaveState(tmp_path, make()))

    again = train(SaveState(tmp_path, make()))
    more = train(SaveState(tmp_path, make()), epochs=EPOCHS + 1)

    assert seen(again) == seen(undisturbed)
    assert seen(more)[: EPOCHS * N] == seen(undisturbed)
    assert Counter(seen(more)[EPOCHS * N :]) == Counter(range(N))


def test_an_unbuilt_model_is_built_before_its_weights_are_loaded(make: Make, tmp_path: Path) -> None:
    def unbuilt() -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    trained, resumed = unbuilt(), unbuilt()
    SaveState(tmp_path, make()).fit(trained, epochs=1, verbose=0)

    epoch, state = SaveState(tmp_path, make()).restore(resumed)

    assert epoch == 1
    assert (state["epoch"], state["offset"]) == (1, 0)
    assert weights(resumed) == weights(trained)


def test_a_model_that_draws_elsewhere_than_the_one_that_was_saved_begins_to_draw_anew_and_says_so(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = keras.Input((3,))
    without = keras.Model(inputs, keras.layers.Dense(1)(Recorder()(inputs) / N))
    without.compile("adam", "mse")
    SaveState(tmp_path, make()).fit(without, epochs=1, verbose=0)

    SaveState(tmp_path, make()).restore(made())

    assert "the model has 1 layers that draw random numbers, and had 0 when it was saved" in caplog.text


def test_the_state_is_that_of_a_feed_and_a_plain_loop_continues_it(
    make: Make, tmp_path: Path, loader: FakeLoader
) -> None:
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path, make(), every=1), interrupt(1, 2))

    state = json.loads((tmp_path / "state.json").read_text())["state"]
    with feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=ROWS)
        feed.load_state_dict(state)
        left = [int(sample) for batch in feed for sample in batch.ids]
        whole = [int(sample) for batch in connection.epoch(1, batch_size=ROWS, seed=5) for sample in batch.ids]

    assert left == whole[2 * ROWS :]  # the interruption came before the third was saved


def test_evaluation_and_other_callbacks_go_on_as_in_any_fit(make: Make, tmp_path: Path) -> None:
    validation = make(order="sequential")
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path, make(), every=1), interrupt(1, 2), validation_data=validation)

    history = SaveState(tmp_path, make(), every=1).fit(made(), epochs=4, validation_data=validation, verbose=0)

    assert history.epoch == [1, 2, 3]
    assert [len(values) for values in history.history.values()] == [3, 3]
    assert set(history.history) == {"loss", "val_loss"}


def test_a_callback_that_stops_the_training_stops_it_in_the_rest_of_an_epoch_too(make: Make, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path, make(), every=1), interrupt(1, 2))
    model = made()

    def end(number: int, logs: Any) -> None:
        model.stop_training = True

    stop = keras.callbacks.LambdaCallback(on_train_batch_end=end)

    SaveState(tmp_path, make(), every=1).fit(model, epochs=4, callbacks=[stop], verbose=0)
    after_stop = json.loads((tmp_path / "state.json").read_text())["state"]

    assert len(seen(model)) == N + 3 * ROWS
    assert (after_stop["epoch"], after_stop["offset"]) == (1, 3 * ROWS)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras on torch takes one step at a time")
def test_several_steps_in_one_execution_are_counted_one_by_one(make: Make, tmp_path: Path) -> None:
    model = made()
    model.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=4)
    saved = SaveState(tmp_path, make(), every=1)

    saved.fit(model, epochs=1, verbose=0)

    assert repr(saved) == f"<SaveState {tmp_path} epoch=0 trained={STEPS}>"
    state = json.loads((tmp_path / "state.json").read_text())["state"]
    assert (state["epoch"], state["offset"]) == (1, 0)


# ---- the folder ----


def test_a_save_that_is_interrupted_leaves_the_one_before(
    make: Make, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(SaveState(tmp_path / "run", make(), every=1), interrupt(1, 2))
    with monkeypatch.context() as during:
        during.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            train(SaveState(tmp_path / "run", make(), every=1))
    assert len(list((tmp_path / "run").glob("*.weights.h5"))) == 2

    resumed = train(SaveState(tmp_path / "run", make(), every=1))

    assert weights(resumed) == weights(undisturbed)
    assert len(list((tmp_path / "run").glob("*.weights.h5"))) == 1


def test_only_the_first_rank_saves_and_all_restore(make: Make, tmp_path: Path) -> None:
    train(SaveState(tmp_path, make(rank=1, world=2)), epochs=1)
    assert list(tmp_path.iterdir()) == []

    train(SaveState(tmp_path, make(rank=0, world=2)), epochs=1)
    assert SaveState(tmp_path, make(rank=1, world=2)).restore(made())[0] == 1


# ---- refusals ----


def test_what_was_saved_on_other_data_or_with_another_seed_is_refused(
    make: Make, tmp_path: Path, loader: FakeLoader
) -> None:
    train(SaveState(tmp_path, make()), epochs=1)

    with pytest.raises(InvalidRequest, match="the state was saved with seed 5, this sequence has 6"):
        SaveState(tmp_path, make(seed=6)).restore(made())
    loader.stop()
    loader.change(fingerprint=b"\xfe\xed")
    loader.start()
    with pytest.raises(DatasetChanged, match="the loader serves 'fake' with feed"):
        SaveState(tmp_path, make()).restore(made())


def test_a_file_that_is_something_else_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"epoch": 3}')

    with pytest.raises(InvalidRequest, match=r"state\.json is not what SaveState writes"):
        SaveState(tmp_path, make()).restore(made())


def test_a_training_that_cannot_be_continued_is_refused_before_it_begins(make: Make, tmp_path: Path) -> None:
    class Mine(RemoteSequence):
        def __getitem__(self, index: int) -> tuple[Any, ...]:
            return super().__getitem__(index)

    with pytest.raises(InvalidRequest, match="under remainder='wrap'"):
        SaveState(tmp_path, make(remainder="wrap"))
    with (
        Mine(make()._client.target, batch_size=ROWS) as mine,
        pytest.raises(InvalidRequest, match="Mine has a __getit"),
    ):
        SaveState(tmp_path, mine)
    with pytest.raises(InvalidRequest, match="every is 0"):
        SaveState(tmp_path, make(), every=0)
    with pytest.raises(InvalidRequest, match="fit goes through 3 batches an epoch and the sequence has 6"):
        train(SaveState(tmp_path, make()), steps_per_epoch=3)


# ---- the rest of an epoch ----


def test_the_rest_of_an_epoch_has_as_many_batches_as_are_left_and_is_a_sequence_of_its_own(make: Make) -> None:
    sequence = make()

    with sequence.rest(sequence.state_dict(1, 2)) as rest:
        assert (len(rest), len(sequence)) == (4, STEPS)
        assert rest.state_dict(1, 1)["offset"] == 3 * ROWS
        model = made()
        model.fit(rest, verbose=0)

    with sequence.rest(sequence.state_dict(1, STEPS)) as whole:
        assert len(whole) == STEPS
    assert len(seen(model)) == N - 2 * ROWS
