"""Generators in several workers: none gives what another gives, and what gives samples gives samples."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset
from feedline_server.sources.python import streams
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest
from feedline_wire.errors import DataError

Open = Callable[..., Dataset]


@pytest.fixture(autouse=True)
def _alone_again() -> Iterator[None]:
    yield
    streams.be_worker(0, 1)


def taken(dataset: Dataset, count: int, column: str = "x") -> list[object]:
    found = dataset.source.draw(SampleRequest(np.zeros(count, np.int64), np.zeros(count, np.int64), 0))[column]  # type: ignore[union-attr]
    return [found[row].tolist() for row in range(count)] if isinstance(found, Ragged) else found.tolist()


FOREVER = """
    def forever({parameters}):
        while True:
            for k in range(40){part}: yield np.full((2, 1), k, "f4"), np.array([2 * k, 2 * k + 1])
"""


def test_a_generator_is_told_its_worker_and_how_many_there_are(opened: Open) -> None:
    found = []
    for worker in (0, 1):
        streams.be_worker(worker, 2)
        text = FOREVER.format(parameters="worker, workers", part="[worker::workers]")
        dataset = opened(text, "m:forever", steps_per_epoch=40)
        found += taken(dataset, 20, "y")
        assert not dataset.is_for_one_worker

    assert sorted(number for rows in found for number in rows) == list(range(80))  # type: ignore[attr-defined]


def test_a_generator_that_does_not_ask_which_worker_it_is_in_is_served_by_one(opened: Open) -> None:
    """Two workers of a plain `while True` over a list delivered half of it twice: 80 rows, 40 of them different."""
    dataset = opened(FOREVER.format(parameters="", part=""), "m:forever", steps_per_epoch=40)

    assert dataset.is_for_one_worker
    (said,) = [note for note in dataset.notes if "one worker serves it" in note]
    assert "give the function parameters worker and workers" in said


def test_a_parameter_seed_is_enough_where_numbers_are_drawn(opened: Open) -> None:
    dataset = opened("    def made(seed):\n        while True: yield [seed]", steps_per_epoch=3)

    assert not dataset.is_for_one_worker


SHARDED = """
    class Part:
        def __init__(self, numbers): self.numbers = numbers
        def __iter__(self): return iter([[number] for number in self.numbers])
        def shard(self, count, index): return Part(self.numbers[index::count])
        def cardinality(self): return len(self.numbers)
        def __len__(self): return len(self.numbers)
    made = Part([*range(10)])
"""


def test_what_can_be_sharded_is_and_its_cardinality_is_its_length(opened: Open) -> None:
    streams.be_worker(1, 2)
    dataset = opened(SHARDED)

    assert dataset.views["train"].samples == 10
    assert taken(dataset, 5) == [[1], [3], [5], [7], [9]]
    assert not dataset.is_for_one_worker
    assert opened(SHARDED, steps_per_epoch=4).views["train"].samples == 4


def test_two_streams_that_begin_alike_have_the_same_first_and_others_have_not(opened: Open) -> None:
    text = "    def made(seed):\n        while True: yield [{value}]"

    alike = [opened(text.format(value="7"), steps_per_epoch=3).source.first for _ in range(2)]  # type: ignore[union-attr]
    others = [opened(text.format(value="seed"), steps_per_epoch=3).source.first for _ in range(2)]  # type: ignore[union-attr]

    assert alike[0] == alike[1]
    assert others[0] != others[1]


SAMPLES = """
    class IterableDataset:
        def __getitem__(self, i): raise NotImplementedError
    class It(IterableDataset):
        def __len__(self): return 100
        def __iter__(self):
            return iter([(np.full((28, 28), k, "f4"), np.zeros((28, 28), "u1")) for k in range(100)])
"""


def test_samples_of_an_iterable_dataset_are_batched_and_not_cut_into_rows(opened: Open) -> None:
    """A (28, 28) image and its mask arrived as 28 rows."""
    dataset = opened(SAMPLES, "m:It")

    assert [str(column) for column in dataset.columns] == ["x float32(28, 28)", "y uint8(28, 28)"]
    assert (dataset.is_stream, dataset.is_batched) == (True, False)
    assert dataset.views["train"].samples == 100
    assert np.array(taken(dataset, 3)).shape == (3, 28, 28)
    assert np.array(taken(dataset, 2))[:, 0, 0].tolist() == [3, 4]


def test_a_generator_function_of_samples_is_declared(opened: Open) -> None:
    text = "    def made():\n        for k in range(5): yield k, [k, k]"

    dataset = opened(text, batched=False, steps_per_epoch=5)

    assert taken(dataset, 4, "y") == [[0, 0], [1, 1], [2, 2], [3, 3]]
    with pytest.raises(DataError, match="how many of its samples make up an epoch"):
        opened(text, batched=False)


@pytest.mark.keras
def test_a_dataset_of_tensorflow_is_sharded_with_its_cardinality(opened: Open) -> None:
    text = "    import tensorflow as tf\n    made = tf.data.Dataset.range(20).shuffle(20).batch(2)"
    found = []
    for worker in (0, 1):
        streams.be_worker(worker, 2)
        dataset = opened(text)
        found += taken(dataset, 5)

    assert dataset.views["train"].samples == 10
    assert sorted(number for rows in found for number in rows) == list(range(20))  # type: ignore[attr-defined]
