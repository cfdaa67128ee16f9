"""Who asks for a batch, read from the caller's frame: Keras' own adapters ask here, and those who look like them."""

import random
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

keras = pytest.importorskip("keras")

from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter  # noqa: E402  # keras may be missing

from feedline.keras.caller import Run, asking_frame, is_adapter, run_of  # noqa: E402

pytestmark = pytest.mark.keras

STEPS = 5


class Asked(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
    """Notes who asks, as a RemoteSequence sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run | None] = []
        self.orders: list[Any] = []
        self.frame: FrameType | None = None

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[int]:
        self.frame = asking_frame(self)
        run = run_of(self.frame, self, overridden=type(self).__getitem__ is not Asked.__getitem__)
        self.runs.append(run)
        self.orders.append(run and run.order())
        return (index,)


class Overriding(Asked):
    def __getitem__(self, index: int) -> tuple[int]:
        return super().__getitem__(index)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def indices(run: Iterator[tuple[int]]) -> list[int]:
    return [index for (index,) in run]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_run_of_keras_generator_is_known_with_its_order(asked: Asked, shuffle: bool) -> None:
    taken = indices(PyDatasetAdapter(asked, shuffle=shuffle).get_numpy_iterator())

    assert [run.shuffled for run in asked.runs if run] == [shuffle] * STEPS
    assert [list(order) for order in asked.orders] == [taken] * STEPS
    assert sorted(taken) == list(range(STEPS))


def test_two_runs_of_one_adapter_are_two(asked: Asked) -> None:
    adapter = PyDatasetAdapter(asked)

    indices(adapter.get_numpy_iterator())
    indices(adapter.get_numpy_iterator())

    assert len({id(run.frame) for run in asked.runs if run}) == 2
    assert {id(run.adapter) for run in asked.runs if run} == {id(adapter)}


def test_a_subclass_is_seen_through_but_never_shuffled() -> None:
    asked = Overriding()

    indices(PyDatasetAdapter(asked, shuffle=True).get_numpy_iterator())

    assert [run.shuffled for run in asked.runs if run] == [False] * STEPS
    assert None not in asked.orders


def test_user_code_is_no_run(asked: Asked) -> None:
    assert asked[3] == (3,)
    assert asked.runs == [None]
    assert not is_adapter(asked.frame)


def test_a_generator_of_the_user_is_no_run(asked: Asked) -> None:
    list(asked[index] for index in range(2))  # noqa: C400  # a generator is what is asked about

    assert asked.runs == [None, None]


def test_an_adapter_of_a_wrapper_is_no_run_of_what_is_wrapped(asked: Asked) -> None:
    class Wrapper(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> tuple[int]:
            return asked[index]

    indices(PyDatasetAdapter(Wrapper(), shuffle=True).get_numpy_iterator())

    assert asked.runs == [None] * STEPS


def test_the_shard_of_a_process_is_cut_from_the_order(asked: Asked) -> None:
    """As Keras 3.16 does: process 1 of 2 asks for every second index."""
    adapter = PyDatasetAdapter(asked, shuffle=True)
    adapter._num_data_shards, adapter._data_shard_id = 2, 1
    run_of_keras = adapter._get_iterator()
    next(run_of_keras)

    whole = run_of_keras.gi_frame.f_locals["indices"]
    assert asked.orders == [whole[1::2]]
    assert asked.runs[0] is not None
    assert asked.runs[0].shards == 2


class Imitation:
    """An adapter of some other Keras: its generator's locals are what the test says."""

    def __init__(self, dataset: Any, order: Any) -> None:
        self.py_dataset = dataset
        self.shuffle = True
        self._order = order

    def run(self) -> Iterator[tuple[int]]:
        indices = self._order
        yield self.py_dataset[indices[0]]


@pytest.mark.parametrize(
    "order", [[0, 1, 1], [1, 2, 3], (0, 1, 2), [0.0, 1.0], [True, False], range(1, 4), range(0, 6, 2)]
)
def test_an_order_that_is_not_each_index_once_is_no_order(
    asked: Asked, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")

    next(Imitation(asked, order).run())

    assert asked.orders == [None]
    assert asked.runs[0] is not None


def test_an_order_of_any_mixture_is_one(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")
    order = random.Random(1).sample(range(100), 100)

    next(Imitation(asked, order).run())

    assert asked.orders == [order]


def test_an_adapter_that_drives_another_dataset_is_no_run_of_this_one(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")
    # Hands every index on by C code alone, which leaves no frame between.
    wrapper = type("Wrapper", (), {"__getitem__": staticmethod(asked.__getitem__)})()

    next(Imitation(wrapper, [0, 1, 2]).run())

    assert asked.runs == [None]


def test_what_only_looks_like_an_adapter_is_none(asked: Asked) -> None:
    """Outside of Keras' own data adapters nothing is taken for a training pass."""
    next(Imitation(asked, [0, 1, 2]).run())

    assert asked.runs == [None]
