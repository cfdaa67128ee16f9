"""Keras drives a `RemoteSequence`: fit, evaluate and predict as a user writes them, on whatever backend Keras has.

What a model saw is recorded inside the model, by a layer that writes down the ids in its inputs; x[i] is filled with i.
"""

import gc
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
ops = keras.ops

import feedline.keras  # noqa: E402  # keras may be missing
from feedline import BadSample, InvalidRequest, RemoteSequence  # noqa: E402
from feedline.keras import passes  # noqa: E402
from feedline.reading.readahead import REFILL_PART  # noqa: E402
from feedline.testing import FakeLoader, serve  # noqa: E402
from feedline_wire.key import from_text  # noqa: E402

pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

N = 22
ROWS = 4
STEPS = 6  # five of four rows and one of two
CAPACITY = 1000


class Recorder(keras.layers.Layer):  # type: ignore[misc]  # keras publishes no types
    """Hands its input on and writes down the ids it saw; works in compiled models on every backend."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.log = self.add_weight(shape=(CAPACITY,), dtype="int32", initializer="zeros", trainable=False)
        self.filled = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        ids = ops.cast(x[:, 0], "int32")
        places = ops.cumsum(ops.ones_like(ids)) - 1 + self.filled.value
        self.log.assign(ops.scatter_update(self.log.value, places[:, None], ids))
        self.filled.assign(self.filled.value + ops.sum(ops.ones_like(ids)))
        return x


class Model:
    """A model that predicts each sample's id and remembers the ids it saw."""

    def __init__(self) -> None:
        inputs = keras.Input((3,))
        self._recorder = Recorder()
        outputs = self._recorder(inputs)
        # A trainable weight that stays 0: the loss is 0 as long as y is the id of its x.
        outputs = outputs[:, :1] + keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)(outputs)
        self.keras = keras.Model(inputs, outputs)
        self.keras.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=keras.backend.backend() == "jax")

    def fit(self, data: Any, **arguments: Any) -> list[float]:
        """Train; the loss of each epoch."""
        losses: list[float] = self.keras.fit(data, verbose=0, **arguments).history["loss"]
        return losses

    def seen(self, length: int = N) -> list[list[int]]:
        """All ids seen until now, in order, cut to `length`."""
        ids = keras.ops.convert_to_numpy(self._recorder.log)[: int(self._recorder.filled.value)].tolist()
        return [ids[start : start + length] for start in range(0, len(ids), length)]


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve(columns(N), views={"train": slice(None), "validation": range(14, 22)}) as served:
        yield served


@pytest.fixture
def sequence(loader: FakeLoader) -> Iterator[RemoteSequence]:
    with RemoteSequence(loader.address, batch_size=ROWS, timeout_s=20) as made:
        yield made


@pytest.fixture
def model() -> Model:
    return Model()


def columns(samples: int) -> dict[str, Any]:
    ids = np.arange(samples, dtype=np.float32)[:, None]
    return {"x": np.repeat(ids, 3, axis=1), "y": ids}


def batches(epoch: list[int]) -> set[frozenset[int]]:
    """What shares a batch with what, whatever the order of batches: a plan's mark."""
    return {frozenset(epoch[start : start + ROWS]) for start in range(0, len(epoch), ROWS)}


def plans(requests: list[Any]) -> list[int]:
    """The epochs of the shuffled keys that a loader was asked for, in order of their first request.

    Behind those that are trained there may be some that were read ahead, should another one follow.
    """
    return list(dict.fromkeys(key.epoch for key in requests if key.order == "shuffle"))


def during(act: Callable[[], None], *, batch: int) -> Any:
    """A callback that does something at the end of batch number `batch`, in every epoch."""
    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda number, logs: act() if number == batch else None)


# ---- training ----


def test_fit_trains_on_every_sample_once_in_every_epoch(sequence: RemoteSequence, model: Model) -> None:
    model.fit(sequence, epochs=3)

    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 3


def test_every_epoch_mixes_the_samples_anew(loader: FakeLoader, model: Model) -> None:
    """Keras itself only changes the order of batches; here other samples meet in a batch."""
    with RemoteSequence(loader.address, batch_size=ROWS, remainder="drop") as sequence:
        model.fit(sequence, epochs=3)

    first, second, third = map(batches, model.seen(20))
    assert first != second != third != first


def test_targets_come_with_their_inputs(sequence: RemoteSequence, model: Model) -> None:
    assert model.fit(sequence, epochs=2) == [0, 0]


def test_the_same_seed_gives_the_same_plans_and_another_seed_others(loader: FakeLoader) -> None:
    def trained(seed: int) -> list[set[frozenset[int]]]:
        model = Model()
        # Whole batches only: Keras does not leave the batch of two rows at the end, so cuts at 4 would not be batches.
        with RemoteSequence(loader.address, batch_size=ROWS, seed=seed, remainder="drop") as sequence:
            model.fit(sequence, epochs=2)
        return [batches(epoch) for epoch in model.seen(20)]

    assert trained(seed=1) == trained(seed=1)
    assert trained(seed=1) != trained(seed=2)


def test_a_model_that_keras_has_to_build_first_still_begins_with_plan_0(
    loader: FakeLoader, sequence: RemoteSequence
) -> None:
    """Keras takes a batch to build the model and throws it away."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    model.fit(sequence, epochs=2, verbose=0)

    assert plans(loader.requests)[:2] == [0, 1]
    assert "epoch=1 next=6" in repr(sequence)


def test_an_epoch_of_one_batch_has_the_plan_of_its_number(loader: FakeLoader) -> None:
    """The batch that Keras takes to build the model was a whole pass, and epoch j had plan j + 1 on JAX and torch."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with RemoteSequence(loader.address, batch_size=N) as sequence:
        model.fit(sequence, epochs=3, verbose=0)

        assert plans(loader.requests)[:3] == [0, 1, 2]
        assert "epoch=2 next=1" in repr(sequence)


def test_what_keras_takes_to_build_a_model_is_not_fetched_twice(loader: FakeLoader, sequence: RemoteSequence) -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    model.fit(sequence, epochs=1, verbose=0)

    offsets = [key.offset for key in loader.requests if key.order == "shuffle"]
    assert sorted(offsets) == [0, 4, 8, 12, 16, 20]


def test_without_shuffle_fit_goes_in_dataset_order(sequence: RemoteSequence, model: Model) -> None:
    model.fit(sequence, epochs=2, shuffle=False)

    assert model.seen() == [list(range(N))] * 2


def test_a_sequential_sequence_never_mixes_samples(loader: FakeLoader, model: Model) -> None:
    """Keras shuffles the batches, but batch i is always rows 4i to 4i + 4."""
    with RemoteSequence(loader.address, batch_size=ROWS, order="sequential", remainder="drop") as sequence:
        model.fit(sequence, epochs=2)

    in_order = {frozenset(range(start, start + ROWS)) for start in (0, 4, 8, 12, 16)}
    assert [batches(epoch) for epoch in model.seen(20)] == [in_order, in_order]
    assert plans(loader.requests) == []


@pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning")
def test_with_fewer_steps_per_epoch_a_pass_spans_epochs(sequence: RemoteSequence, model: Model) -> None:
    model.fit(sequence, steps_per_epoch=4, epochs=3)  # 4 steps, the 2 that are left, 4 of the next pass

    first, second = model.seen()
    assert sorted(first) == list(range(N))
    assert len(set(second)) == len(second)


@pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning")
def test_with_more_steps_per_epoch_than_batches_an_epoch_is_still_a_pass(
    sequence: RemoteSequence, model: Model
) -> None:
    model.fit(sequence, steps_per_epoch=8, epochs=2)

    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 2


def test_a_fit_after_one_that_was_stopped_in_the_middle_is_complete(sequence: RemoteSequence, model: Model) -> None:
    def stop() -> None:
        model.keras.stop_training = True

    model.fit(sequence, epochs=3, callbacks=[during(stop, batch=2)])
    stopped = len(model.seen(1))
    model.fit(sequence, epochs=2)

    # On TensorFlow the model sees no batch of the look-ahead, so three batches on every backend.
    ids = [each for (each,) in model.seen(1)][stopped:]
    assert stopped in {3 * ROWS, 2 * ROWS + 2}
    assert [sorted(ids[:N]), sorted(ids[N:])] == [list(range(N))] * 2


def test_a_second_fit_goes_on_with_new_plans(loader: FakeLoader) -> None:
    def trained(*fits: int) -> list[set[frozenset[int]]]:
        model = Model()
        with RemoteSequence(loader.address, batch_size=ROWS, remainder="drop") as sequence:
            for epochs in fits:
                model.fit(sequence, epochs=epochs)
        return [batches(epoch) for epoch in model.seen(20)]

    whole = trained(6)

    assert len({frozenset(plan) for plan in whole}) == 6
    assert trained(2, 3, 1) == whole
    assert trained(1, 1, 1, 1, 1, 1) == whole


def test_class_weights_apply(loader: FakeLoader) -> None:
    with serve({"x": np.ones((8, 2), np.float32), "y": np.array([0, 1] * 4, np.float32)[:, None]}) as two_classes:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        with RemoteSequence(two_classes.address, batch_size=4) as sequence:
            weighted = model.fit(sequence, class_weight={0: 1.0, 1: 3.0}, verbose=0).history["loss"]

    assert weighted == [1.5]  # half of the samples are off by 1 and weigh 3


# ---- evaluation ----


def test_predict_returns_rows_in_dataset_order(sequence: RemoteSequence, model: Model) -> None:
    before = model.keras.predict(sequence, verbose=0)
    model.fit(sequence)
    after = model.keras.predict(sequence, verbose=0)

    assert before[:, 0].tolist() == list(range(N))
    assert after[:, 0].tolist() == list(range(N))


def test_predict_on_a_model_that_keras_has_to_build_first_is_in_order(sequence: RemoteSequence) -> None:
    model = keras.Sequential([keras.layers.Rescaling(1.0)])

    assert model.predict(sequence, verbose=0)[:, 0].tolist() == list(range(N))


def test_evaluate_goes_in_dataset_order(sequence: RemoteSequence, model: Model) -> None:
    model.keras.evaluate(sequence, verbose=0)
    model.keras.evaluate(sequence, verbose=0)

    assert model.seen() == [list(range(N))] * 2


def test_validation_on_the_training_sequence_itself_mixes_nothing_up(sequence: RemoteSequence, model: Model) -> None:
    model.fit(sequence, epochs=2, validation_data=sequence)

    trained, validated, trained_again, validated_again = model.seen()
    assert validated == validated_again == list(range(N))
    assert sorted(trained) == sorted(trained_again) == list(range(N))


def test_validation_data_is_read_in_order(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    with RemoteSequence(loader.address, view="validation", batch_size=ROWS) as validation:
        model.fit(sequence, validation_data=validation)

    ids = [each for (each,) in model.seen(1)]
    assert sorted(ids[:N]) == list(range(N))
    assert ids[N:] == list(range(14, 22))


def test_an_evaluation_in_the_middle_of_an_epoch_leaves_the_epoch_alone(sequence: RemoteSequence, model: Model) -> None:
    """Also one that Keras abandons, many times over."""
    other = Model()
    callbacks = [
        during(lambda: other.keras.evaluate(sequence, steps=2, verbose=0), batch=batch) for batch in range(STEPS - 1)
    ]

    model.fit(sequence, epochs=2, callbacks=callbacks)

    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 2
    assert other.seen(2 * ROWS) == [list(range(2 * ROWS))] * 2 * (STEPS - 1)


def test_a_batch_asked_for_in_the_middle_of_an_epoch_is_in_dataset_order(
    sequence: RemoteSequence, model: Model
) -> None:
    asked: list[list[float]] = []

    model.fit(sequence, callbacks=[during(lambda: asked.append(sequence[2][0][:, 0].tolist()), batch=1)])

    assert asked == [[8, 9, 10, 11]]
    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))]


def test_normalization_adapts_to_a_sequence() -> None:
    pytest.importorskip("tensorflow", reason="Keras' adapt imports it on every backend")
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        pytest.skip(f"Keras {keras.__version__} adapts to no PyDataset; 3.13 is the first that does")
    x = np.array([[0.0], [2.0], [4.0], [6.0], [8.0]], np.float32)
    with serve({"x": x, "y": x}) as loader, RemoteSequence(loader.address, batch_size=2) as sequence:
        layer = keras.layers.Normalization()
        layer.adapt(sequence)

    assert ops.convert_to_numpy(layer.mean).item() == pytest.approx(4)


# ---- epochs ----


def test_a_training_that_follows_the_epochs_has_their_plans_after_a_restart(loader: FakeLoader) -> None:
    def trained(**arguments: Any) -> list[set[frozenset[int]]]:
        model = Model()
        with RemoteSequence(loader.address, batch_size=ROWS, remainder="drop") as sequence:
            model.fit(sequence, callbacks=[sequence.follow_epochs()], **arguments)
        return [batches(epoch) for epoch in model.seen(20)]

    without_a_stop = trained(epochs=5)

    assert trained(initial_epoch=3, epochs=5) == without_a_stop[3:]


def test_set_epoch_chooses_the_next_plan(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    sequence.set_epoch(7)

    model.fit(sequence, epochs=2)

    assert plans(loader.requests)[:2] == [7, 8]
    assert "epoch=8 next=6" in repr(sequence)


# ---- reading ahead ----


def test_a_training_pass_is_read_ahead_in_the_order_keras_will_ask_in() -> None:
    """While batch k is trained on, a whole window behind it has been asked for, and nothing is asked for twice.

    But for what the window is filled with at once: a quarter of it has to be gone.
    """
    steps, prefetch = 40, 8
    at_once = prefetch // REFILL_PART
    with serve(columns(steps * ROWS)) as loader:
        with RemoteSequence(loader.address, batch_size=ROWS, prefetch=prefetch) as sequence:
            model = Model()

            def look(step: int, logs: object) -> None:
                wanted = min(step + 1 + prefetch - (at_once - 1), steps)
                loader.wait_until(lambda seen: sum(key.order == "shuffle" for key in seen.requests) >= wanted)

            model.fit(sequence, epochs=1, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)])

            assert [sorted(epoch) for epoch in model.seen(steps * ROWS)] == [list(range(steps * ROWS))]
            assert sequence.stats.surprises == 0
        shuffled = [key for key in loader.requests if key.order == "shuffle"]

    # Once each, and two while Keras built the model; TensorFlow looks at the first two in dataset order instead.
    assert len({key.offset for key in shuffled}) == steps
    assert len(loader.requests) <= steps + 2


def test_from_the_second_epoch_on_the_next_one_is_read_ahead_before_it_begins() -> None:
    """Its order is Keras' affair and does not exist yet, but what it gets first is batch 0 of the next plan."""
    prefetch = 4
    with serve(columns(N)) as loader, RemoteSequence(loader.address, batch_size=ROWS, prefetch=prefetch) as sequence:
        model, ahead = Model(), []

        def look(epoch: int, logs: object) -> None:
            if 1 <= epoch < 4:
                loader.wait_until(lambda seen: sum(key.epoch == epoch + 1 for key in seen.requests) >= prefetch)
            ahead.append(sorted(key.offset for key in loader.requests if key.epoch == epoch + 1))

        losses = model.fit(sequence, epochs=5, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)])

        assert losses == [0] * 5
        assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 5
        assert sequence.stats.surprises == 0
    assert ahead == [[], *[[ROWS * number for number in range(prefetch)]] * 4]
    once = [(key.epoch, key.offset) for key in loader.requests if key.order == "shuffle" and key.epoch > 0]
    assert len(once) == len(set(once)), "what was read ahead is what is trained, and is not asked for again"


def test_what_was_read_ahead_of_a_fit_that_is_over_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow keeps the adapter of a fit for ever, and Keras' adapter keeps the sequence."""
    monkeypatch.setattr(passes, "GIVEN_UP_S", 0.1)
    with serve(columns(N)) as loader:
        sequence = RemoteSequence(loader.address, batch_size=ROWS, prefetch=4)
        model = Model()
        model.fit(sequence, epochs=3)

        until(lambda: "buffered=0/4" in repr(sequence))
        model.fit(sequence, epochs=2)
        gone = weakref.ref(sequence)
        sequence = None  # type: ignore[assignment]
        until(lambda: gone() is None)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)  # a thread does it, and tells nobody


def test_a_fit_that_is_stopped_in_an_epoch_that_was_read_ahead_leaves_the_next_plan_to_the_next(
    loader: FakeLoader,
) -> None:
    def trained(*, stopped: bool) -> list[int]:
        model = Model()
        with RemoteSequence(loader.address, batch_size=ROWS, remainder="drop") as sequence:

            def stop(epoch_and_batch: list[int]) -> None:
                model.keras.stop_training = stopped and epoch_and_batch == [2, 1]

            at = [0, 0]
            watch = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: at.__setitem__(0, epoch),
                on_train_batch_end=lambda batch, logs: (at.__setitem__(1, batch), stop(at)),
            )
            model.fit(sequence, epochs=3, callbacks=[watch])
            model.fit(sequence, epochs=2)
        return model.seen(CAPACITY)[0]

    whole, cut = trained(stopped=False), trained(stopped=True)

    assert len(whole) == 5 * 20
    assert cut == whole[:48] + whole[60:], "two of five batches of the third epoch, then the fourth plan and the fifth"


def test_what_was_there_in_time_is_counted(sequence: RemoteSequence, model: Model) -> None:
    model.fit(sequence, epochs=2)

    stats = sequence.stats
    assert 2 * STEPS <= stats.requests <= 2 * STEPS + 2
    assert 0 <= stats.ready < stats.requests
    assert 0 < stats.waited_s <= stats.passes_s
    assert 0 < stats.waiting_share <= 1


# ---- subclasses and wrappers ----


class WithOwnTargets(RemoteSequence):
    """Pairs batch i with targets that are kept here."""

    targets = np.arange(N, dtype=np.float32)[:, None]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        x, _ = super().__getitem__(index)
        return x, self.targets[index * ROWS : (index + 1) * ROWS]


def test_a_subclass_that_adds_its_own_targets_gets_batches_in_dataset_order(loader: FakeLoader, model: Model) -> None:
    with WithOwnTargets(loader.address, batch_size=ROWS) as sequence:
        losses = model.fit(sequence, epochs=2)

        assert losses == [0, 0]
        assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 2
        assert sequence.stats.surprises == 0
    assert plans(loader.requests) == []
    assert len(loader.requests) <= 2 * STEPS + 2  # read ahead in Keras' order: nothing is fetched in vain


class Zipped(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
    """Pairs two sequences."""

    def __init__(self, *sequences: RemoteSequence) -> None:
        super().__init__()
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        first, second = (sequence[index] for sequence in self._sequences)
        return first[0], second[1]


def test_sequences_that_are_zipped_give_batches_that_belong_together(loader: FakeLoader, model: Model) -> None:
    with (
        RemoteSequence(loader.address, batch_size=ROWS, seed=1) as first,
        RemoteSequence(loader.address, batch_size=ROWS, seed=2) as second,
    ):
        losses = model.fit(Zipped(first, second), epochs=2)
        assert first.stats.surprises + second.stats.surprises == 0

    assert losses == [0, 0]
    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))] * 2


def test_what_wraps_a_sequence_is_read_ahead_in_the_order_keras_will_ask_in() -> None:
    """It found 0 of 25 batches ready: each was fetched when it was asked for."""
    steps, prefetch = 40, 8
    with (
        serve(columns(steps * ROWS)) as loader,
        RemoteSequence(loader.address, batch_size=ROWS, prefetch=prefetch) as first,
        RemoteSequence(loader.address, batch_size=ROWS, prefetch=prefetch) as second,
    ):
        model = Model()

        def look(step: int, logs: object) -> None:
            loader.wait_until(lambda seen: len(seen.requests) >= min(2 * (step + 1 + prefetch), 2 * steps))

        model.fit(Zipped(first, second), epochs=1, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)])

        assert [sorted(epoch) for epoch in model.seen(steps * ROWS)] == [list(range(steps * ROWS))]
        # And two of each, where TensorFlow looks at the first two and where a model is built.
        assert len(loader.requests) <= 2 * (steps + 2)


# ---- several trainers, remainders ----


def test_two_ranks_share_an_epoch(loader: FakeLoader) -> None:
    seen: list[list[int]] = []
    for rank in (0, 1):
        model = Model()
        with RemoteSequence(loader.address, batch_size=ROWS, rank=rank, world=2) as sequence:
            model.fit(sequence, epochs=2)
            assert len(sequence) == 3
        seen += model.seen(N // 2)

    first_of_0, second_of_0, first_of_1, second_of_1 = seen
    assert sorted(first_of_0 + first_of_1) == list(range(N))
    assert sorted(second_of_0 + second_of_1) == list(range(N))


def test_padding_weighs_nothing(loader: FakeLoader, model: Model) -> None:
    with RemoteSequence(loader.address, batch_size=ROWS, remainder="pad") as sequence:
        model.fit(sequence, epochs=1)
        x, _, weights = sequence[STEPS - 1]

    assert Counter(model.seen(STEPS * ROWS)[0]).total() == 24
    assert set(model.seen(STEPS * ROWS)[0]) == set(range(N))
    assert x[:, 0].tolist() == [20, 21, 0, 1]
    assert weights.tolist() == [1, 1, 0, 0]


def test_under_wrap_passes_run_on_over_the_ends_of_epochs() -> None:
    """Three batches of four a pass, ten samples an epoch: five passes are six whole epochs."""
    model = Model()
    with serve(columns(10)) as loader:
        sequence = RemoteSequence(loader.address, batch_size=4, remainder="wrap")
        assert len(sequence) == 3
        model.fit(sequence, epochs=5)
        sequence.close()

    assert Counter(model.seen(60)[0]) == dict.fromkeys(range(10), 6)


# ---- what goes wrong ----


def test_a_loader_that_stalls_is_told_by_what_fit_raises(loader: FakeLoader, model: Model) -> None:
    """TensorFlow keeps nothing of an error but its text."""
    with RemoteSequence(loader.address, batch_size=ROWS, timeout_s=1, prefetch=1) as sequence:
        loader.stall(after=3)

        with pytest.raises(
            Exception, match=r"no batch fake/train shuffle .* within 1 s from 127\.0\.0\.1:\d+"
        ) as raised:
            model.fit(sequence)

        assert "timeout_s" in str(raised.value)
        loader.resume()


def test_a_bad_sample_is_named_by_what_fit_raises(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    loader.fail(lambda key: BadSample("sample 17 is no image", samples=[17]) if key.order == "shuffle" else None)

    with pytest.raises(Exception, match="sample 17 is no image"):
        model.fit(sequence)


def test_after_an_error_the_next_fit_is_complete(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    loader.fail(lambda key: BadSample("sample 17 is no image", samples=[17]) if key.order == "shuffle" else None)
    with pytest.raises(Exception, match="sample 17 is no image"):
        Model().fit(sequence)  # on JAX a model whose fit failed cannot be used again
    loader.fail(None)

    model.fit(sequence)

    assert [sorted(epoch) for epoch in model.seen()] == [list(range(N))]


def test_closing_ends_a_fit_that_waits(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    loader.stall(after=2)

    def close_when_it_waits() -> None:
        loader.wait_until(lambda seen: len(seen.requests) > seen.answered >= 2)
        sequence.close()

    closing = threading.Thread(target=close_when_it_waits)
    closing.start()
    with pytest.raises(Exception, match="closed"):
        model.fit(sequence)

    closing.join()


def test_what_a_fit_waited_for_is_counted_by_stage_and_said_after_each_epoch(
    sequence: RemoteSequence, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_wire.verdict.SOONEST_S", 0.0)  # a quick machine trains for less than that

    model.fit(sequence, epochs=2, callbacks=[sequence.show_why()])

    found = sequence.stats.as_dict()
    assert sum(found["stages"].values()) > 0
    assert found["waiting_share"] == sequence.stats.waiting_share
    assert len(re.findall(r"^(?:The trainer .*|No trainer .*)$", capsys.readouterr().out, re.MULTILINE)) == 2
    assert "of the last" in str(sequence.why())


# ---- what callbacks say ----


def test_the_share_of_time_waited_is_a_metric_of_each_epoch(
    loader: FakeLoader, sequence: RemoteSequence, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    with RemoteSequence(loader.address, view="validation", batch_size=ROWS) as validation:
        history = model.keras.fit(
            sequence, validation_data=validation, epochs=3, callbacks=[feedline.keras.WaitingTime()], verbose=2
        ).history

    assert len(history["waiting"]) == 3
    assert all(0 <= share <= 1 for share in history["waiting"])
    assert len(re.findall(r"- waiting: \d", capsys.readouterr().out)) == 3


def test_a_loader_that_makes_the_trainer_wait_shows_in_that_epoch(
    loader: FakeLoader, sequence: RemoteSequence, model: Model
) -> None:
    """Three seconds of the second epoch, of which the rest takes milliseconds."""
    held = threading.Event()

    def hold(epoch: int, logs: object) -> None:
        if epoch == 1:
            loader.stall()
            held.set()

    def release() -> None:
        held.wait(60)
        time.sleep(3)
        loader.resume()

    releasing = threading.Thread(target=release, daemon=True)
    releasing.start()
    hold_it = keras.callbacks.LambdaCallback(on_epoch_begin=hold)
    history = model.keras.fit(
        sequence, epochs=3, callbacks=[hold_it, feedline.keras.WaitingTime(name="idle")], verbose=0
    ).history
    releasing.join()

    assert history["idle"][1] > 0.5


def test_without_shuffling_it_is_counted_too(sequence: RemoteSequence, model: Model) -> None:
    history = model.keras.fit(
        sequence, epochs=1, shuffle=False, callbacks=[feedline.keras.WaitingTime()], verbose=0
    ).history

    assert 0 < history["waiting"][0] <= 1


def test_where_no_sequence_is_found_it_says_what_to_write(sequence: RemoteSequence, model: Model) -> None:
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(InvalidRequest, match=r"fit goes through something that is no sequence.*WaitingTime\(train\)"):
        model.keras.fit(x, x[:, :1], callbacks=[feedline.keras.WaitingTime()], verbose=0)
    with pytest.raises(InvalidRequest, match=r"WaitingTime has got 3, a int; name .*WaitingTime\(train\)"):
        model.keras.fit(sequence, callbacks=[feedline.keras.WaitingTime(3)], verbose=0)  # type: ignore[arg-type]

    history = model.keras.fit(
        Zipped(sequence, sequence), callbacks=[feedline.keras.WaitingTime(sequence)], verbose=0
    ).history
    assert 0 < history["waiting"][0] <= 1


def test_a_callback_knows_which_batch_was_trained(loader: FakeLoader, sequence: RemoteSequence, model: Model) -> None:
    """What `feedline peek --batch-key` shows, where the loss jumps."""
    trained: list[tuple[str, list[int]]] = []

    def note(batch: int, logs: object) -> None:
        key, ids = sequence.trained(batch)
        trained.append((key, ids.tolist()))

    model.fit(sequence, epochs=2, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)])

    assert [ids for _, ids in trained] == [
        epoch[start : start + ROWS] for epoch in model.seen() for start in range(0, N, ROWS)
    ]
    keys = [from_text(key) for key, _ in trained]
    assert [(key.epoch, key.offset) for key in keys] == [(epoch, at) for epoch in (0, 1) for at in range(0, N, ROWS)]
