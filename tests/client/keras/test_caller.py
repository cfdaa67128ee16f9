"""Who asks for a batch, read from the caller's frame: Keras' own adapters ask here, and those who look like them."""

import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

keras = pytest.importorskip("keras")

from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter  # noqa: E402  # keras may be missing

from feedline.keras.caller import Run, asking_frame, fit_of_caller, is_adapter, run_of, sequence_of  # noqa: E402

pytestmark = pytest.mark.keras

STEPS = 5


class Observed(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
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
        overridden = type(self).__getitem__ is not Observed.__getitem__
        run = run_of(self.frame, self, overridden=overridden, iteration=Observed.__init__.__code__)
        self.runs.append(run)
        self.orders.append(run and run.order())
        return (index,)


class Overriding(Observed):
    def __getitem__(self, index: int) -> tuple[int]:
        return super().__getitem__(index)


@pytest.fixture
def observed() -> Observed:
    return Observed()


def indices(run: Iterator[tuple[int]]) -> list[int]:
    return [index for (index,) in run]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_run_of_keras_generator_is_known_with_its_order(observed: Observed, shuffle: bool) -> None:
    taken = indices(PyDatasetAdapter(observed, shuffle=shuffle).get_numpy_iterator())

    assert [run.shuffled for run in observed.runs if run] == [shuffle] * STEPS
    assert [list(order) for order in observed.orders] == [taken] * STEPS
    assert sorted(taken) == list(range(STEPS))


def test_two_runs_of_one_adapter_are_two(observed: Observed) -> None:
    adapter = PyDatasetAdapter(observed)

    indices(adapter.get_numpy_iterator())
    indices(adapter.get_numpy_iterator())

    assert len({id(run.frame) for run in observed.runs if run}) == 2
    assert {id(run.adapter) for run in observed.runs if run} == {id(adapter)}


def test_a_subclass_is_seen_through_but_never_shuffled() -> None:
    observed = Overriding()

    indices(PyDatasetAdapter(observed, shuffle=True).get_numpy_iterator())

    assert [run.shuffled for run in observed.runs if run] == [False] * STEPS
    assert None not in observed.orders


def test_user_code_is_no_run(observed: Observed) -> None:
    assert observed[3] == (3,)
    assert observed.runs == [None]
    assert not is_adapter(observed.frame)


def test_a_generator_of_the_user_is_no_run(observed: Observed) -> None:
    list(observed[index] for index in range(2))  # noqa: C400  # a generator is what is asked about

    assert observed.runs == [None, None]


class Wrapper(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
    def __init__(self, wrapped: Observed) -> None:
        super().__init__()
        self._wrapped = wrapped

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[int]:
        return self._wrapped[index]


def test_a_run_over_a_wrapper_is_known_with_its_order_and_is_no_training_pass(observed: Observed) -> None:
    taken = indices(PyDatasetAdapter(Wrapper(observed), shuffle=True).get_numpy_iterator())

    assert [(run.shuffled, run.is_direct) for run in observed.runs if run] == [(False, False)] * STEPS
    assert [list(order) for order in observed.orders] == [taken] * STEPS
    assert len({run.frame for run in observed.runs if run}) == 1


def test_a_model_is_built_while_keras_says_so_and_with_its_own_adapter(observed: Observed) -> None:
    adapter, other = PyDatasetAdapter(observed), PyDatasetAdapter(observed)
    module: dict[str, Any] = {"__name__": "keras.src.trainers.trainer"}
    exec("def _maybe_symbolic_build(iterator, look):\n    return look()\n", module)
    build = module["_maybe_symbolic_build"]
    probes: list[bool] = []

    def look() -> None:
        indices(adapter.get_numpy_iterator())
        assert observed.runs[-1] is not None
        probes.append(observed.runs[-1].is_probe)

    build(SimpleNamespace(data_adapter=adapter), look)
    build(SimpleNamespace(data_adapter=other), look)
    look()

    assert probes == [True, False, False]


def test_the_fit_that_a_callback_is_in_is_known(observed: Observed) -> None:
    adapter = PyDatasetAdapter(observed)
    module: dict[str, Any] = {"__name__": "keras.src.backend.torch.trainer"}
    exec("def fit(epoch_iterator, callback):\n    return callback()\n", module)

    found = module["fit"](SimpleNamespace(data_adapter=adapter), fit_of_caller)

    assert found is adapter
    assert sequence_of(found) is observed
    assert fit_of_caller() is None


def test_the_shard_of_a_process_is_cut_from_the_order(observed: Observed) -> None:
    """As Keras 3.16 does: process 1 of 2 asks for every second index."""
    adapter = PyDatasetAdapter(observed, shuffle=True)
    adapter._num_data_shards, adapter._data_shard_id = 2, 1
    run_of_keras = adapter._get_iterator()
    next(run_of_keras)

    whole = run_of_keras.gi_frame.f_locals["indices"]
    assert observed.orders == [whole[1::2]]
    assert observed.runs[0] is not None
    assert observed.runs[0].shards == 2


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
    observed: Observed, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")

    next(Imitation(observed, order).run())

    assert observed.orders == [None]
    assert observed.runs[0] is not None


def test_an_order_of_any_mixture_is_one(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")
    order = random.Random(1).sample(range(100), 100)

    next(Imitation(observed, order).run())

    assert observed.orders == [order]


def test_an_adapter_that_drives_another_dataset_is_no_run_of_this_one(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "__name__", "keras.src.trainers.data_adapters.imitation")
    # Hands every index on by C code alone, which leaves no frame between.
    wrapper = type("Wrapper", (), {"__getitem__": staticmethod(observed.__getitem__)})()

    next(Imitation(wrapper, [0, 1, 2]).run())

    assert observed.runs == [None]


def test_what_only_looks_like_an_adapter_is_none(observed: Observed) -> None:
    """Outside of Keras' own data adapters nothing is taken for a training pass."""
    next(Imitation(observed, [0, 1, 2]).run())

    assert observed.runs == [None]


def test_threads_that_run_on_while_their_frames_are_read_are_no_danger() -> None:
    """With Python 3.11 and JAX a training could fail, or crash, where a collection began while a frame was read.

    Here collections begin as often as they can, and what they call lets the other threads run, as JAX's callback does.
    Functions of many sizes make what was a frame's memory something else at once.
    """
    script = """
        import gc, random, sys, threading, time
        from feedline.keras.caller import running
        gc.callbacks.append(lambda phase, info: time.sleep(0))
        gc.set_threshold(10, 1000, 1000)
        sys.setswitchinterval(1e-6)
        functions = []
        for size in range(1, 36, 3):
            names = " = ".join(f"v{number}" for number in range(size))
            exec(f"def call(n):\\n {names} = {{}}\\n return random.choice(functions)(n - 1) if n else None")
            functions.append(call)
        over = threading.Event()
        def work():
            while not over.is_set():
                random.choice(functions)(random.randrange(15))
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20_000):
                assert running() == []
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert gc.isenabled()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
