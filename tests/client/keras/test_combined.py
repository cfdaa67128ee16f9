"""`map` and `zip`: mixed, read ahead and continued as what they are made of."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import feedline  # noqa: E402  # keras may be missing
import feedline.keras  # noqa: E402
from feedline import BadSample, InvalidRequest, RemoteSequence  # noqa: E402
from feedline.testing import FakeLoader, serve  # noqa: E402

pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

N = 22
ROWS = 4
IDS = np.arange(N, dtype=np.float32)


@pytest.fixture
def images() -> Iterator[FakeLoader]:
    with serve({"x": np.repeat(IDS[:, None], 3, axis=1)}, structure="x", name="images") as loader:
        yield loader


@pytest.fixture
def labels() -> Iterator[FakeLoader]:
    with serve({"y": IDS[:, None]}, structure="y", name="labels") as loader:
        yield loader


@pytest.fixture
def zipped(images: FakeLoader, labels: FakeLoader) -> Iterator[Any]:
    with feedline.keras.zip(made(images), made(labels)) as sequence:
        yield sequence


def made(loader: FakeLoader, **more: Any) -> RemoteSequence:
    return RemoteSequence(loader.address, **{"batch_size": ROWS, "timeout_s": 20, **more})


class Trained:
    """A model that notes what it is trained with, on the host."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[float], list[float]]] = []
        inputs = keras.Input((3,))
        self.keras = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        self.keras.compile("sgd", "mse")

    def fit(self, sequence: Any, **more: Any) -> None:
        seen = sequence.map(self._note)
        self.keras.fit(seen, verbose=0, **more)

    def _note(self, x: Any, y: Any) -> Any:
        self.batches.append((x[:, 0].tolist(), y[:, 0].tolist()))
        return x, y


def epochs(batches: list[list[float]]) -> list[list[float]]:
    """Samples of whole epochs, from the end: what Keras looked at before comes first."""
    ids = [sample for batch in batches for sample in batch]
    return [ids[start : start + N] for start in range(len(ids) % N, len(ids), N)]


def test_what_is_zipped_belongs_together_row_by_row_and_is_mixed_anew_in_every_epoch(zipped: Any) -> None:
    model = Trained()
    model.fit(zipped, epochs=3)

    assert all(x == y for x, y in model.batches)
    first, second, third = epochs([x for x, _ in model.batches])[-3:]
    assert sorted(first) == sorted(second) == sorted(third) == list(range(N))
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert zipped.stats.surprises == 0


def test_in_dataset_order_too(zipped: Any) -> None:
    assert len(zipped) == 6
    assert [(x[:, 0].tolist(), y[:, 0].tolist()) for x, y in zipped[1:3]] == [
        ([4, 5, 6, 7],) * 2,
        ([8, 9, 10, 11],) * 2,
    ]


def test_a_pass_over_it_is_read_ahead_and_fetched_once(images: FakeLoader, zipped: Any) -> None:
    for _ in zipped:
        images.wait_until(lambda seen: len(seen.requests) == 6)

    assert sorted(key.offset for key in images.requests) == [0, 4, 8, 12, 16, 20]


def test_a_training_pass_is_read_ahead(images: FakeLoader, zipped: Any) -> None:
    model = Trained()
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: images.wait_until(
            lambda seen: len({key.offset for key in seen.requests if key.order == "shuffle"}) == 6 or batch < 2
        )
    )
    model.fit(zipped, epochs=1, callbacks=[look])

    shuffled = [key for key in images.requests if key.order == "shuffle" and key.epoch == 0]
    assert {key.offset for key in shuffled} == {0, 4, 8, 12, 16, 20}


def test_map_changes_batches_and_nothing_else(zipped: Any) -> None:
    def change(x: Any, y: Any) -> Any:
        x *= 10  # in place
        return x, y, np.ones(len(y))

    mapped = zipped.map(change)

    for _ in range(2):
        x, _, weights = mapped[2]
        assert x[:, 0].tolist() == [80, 90, 100, 110]
        assert weights.tolist() == [1] * 4
    assert zipped[2][0][:, 0].tolist() == [8, 9, 10, 11]
    assert repr(mapped).startswith("<map of <zip of <RemoteSequence images/train ")


def test_a_function_that_returns_no_batch_is_told(zipped: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"the function of map returned 4 parts; Keras takes x, \(x, y\)"):
        zipped.map(lambda x, y: (x, y, x, y))[0]


def test_predict_keeps_the_order(images: FakeLoader) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1.0)])
    with made(images).map(lambda x: x + 1) as sequence:
        rows = model.predict(sequence, verbose=0)

    assert rows[:, 0].tolist() == (IDS + 1).tolist()


def test_one_with_other_samples_orders_or_sizes_is_refused_with_what_differs(images: FakeLoader) -> None:
    with serve({"y": np.zeros((9, 1), np.float32)}, structure="y", name="labels") as other:
        first, second = made(images), made(other, seed=3, batch_size=3)
        with first, second, pytest.raises(InvalidRequest, match="rows of images/train and labels/train") as refused:
            feedline.keras.zip(first, second)

    assert "samples 22 and 9, batch_size 4 and 3, seed 0 and 3" in str(refused.value)


def test_what_cannot_be_put_together_is_refused(images: FakeLoader) -> None:
    class Own(RemoteSequence):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index)

    with made(images) as first:
        with pytest.raises(InvalidRequest, match="zipped with itself"):
            feedline.keras.zip(first, first)
        with pytest.raises(InvalidRequest, match="is a list; put together RemoteSequences"):
            feedline.keras.zip(first, [1])
        with pytest.raises(InvalidRequest, match=r"zip has got no sequence; write for example zip\(images, labels\)"):
            feedline.keras.zip()
        with pytest.raises(InvalidRequest, match=r"map has got 3, which cannot be called; write for example map\("):
            first.map(3)  # type: ignore[arg-type]
    with Own(images.address) as own, pytest.raises(InvalidRequest, match="Own has a __getitem__ of its own"):
        own.map(lambda x: x)


def test_a_row_that_is_missing_in_one_is_an_error_and_no_shift(images: FakeLoader) -> None:
    with (
        serve({"y": IDS[:, None]}, structure="y", bad=[5]) as torn,
        feedline.keras.zip(made(images), made(torn)) as zipped,
    ):
        zipped[0]
        with pytest.raises(BadSample, match=r"samples \[5\] of fake/train cannot be read, .* zipped"):
            zipped[1]


class Interrupted(Exception):
    """As a process that is killed."""


def test_a_training_over_them_is_continued_with_the_very_next_batch(
    images: FakeLoader, labels: FakeLoader, tmp_path: Any
) -> None:
    def run(stops: bool) -> list[int]:
        trained: list[int] = []

        def note(batch: int, logs: Any) -> None:
            trained.extend(saved._running.trained(batch).ids.tolist())
            if stops and batch == 2:
                raise Interrupted

        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse")
        with feedline.keras.zip(made(images), made(labels)) as zipped:
            saved = feedline.SaveState(tmp_path, zipped, every=1)
            with contextlib.suppress(Interrupted):
                noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
                saved.fit(model, epochs=2, callbacks=[noting], verbose=0)
        return trained

    before, after = run(stops=True), run(stops=False)

    # Batch 2 was trained and not saved: it is trained again by the one that was saved before.
    assert len(before) == 3 * ROWS
    assert before[2 * ROWS :] == after[:ROWS]
    whole = before[: 2 * ROWS] + after
    assert sorted(whole[:N]) == sorted(whole[N:]) == list(range(N))


def test_a_state_of_something_else_is_refused(zipped: Any) -> None:
    with pytest.raises(InvalidRequest, match="this state is not of 2 sequences that are zipped"):
        zipped.place_of({"version": 1})
