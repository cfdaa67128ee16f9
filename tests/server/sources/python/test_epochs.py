"""What the operator's objects are from epoch to epoch: as in Keras, reproducible from any epoch, and no two alike."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset
from feedline_server.sources.python import epochs
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError

Open = Callable[..., Dataset]

WALK = """
    calls = []
    class made:
        def __init__(self): self.i = np.arange(64); self.on_epoch_end()
        def __len__(self): return 4
        def __getitem__(self, k): j = self.i[16 * k : 16 * k + 16]; return j[:, None].astype("f4"), j
        def on_epoch_end(self): np.random.RandomState(42).shuffle(self.i); calls.append(1)
"""


def units(dataset: Dataset, *ids: int, column: str = "y", epoch: int = 0, seed: int = 0) -> list[list[float]]:
    request = SampleRequest(np.array(ids, np.int64), np.full(len(ids), epoch), seed)
    found = dataset.source.draw(request)[column]  # type: ignore[union-attr]  # it is a GeneratedSource
    return [found[unit].tolist() for unit in range(len(found))] if isinstance(found, Ragged) else found.tolist()


def check(dataset: Dataset) -> Iterator[str]:
    return dataset.source.check()  # type: ignore[no-any-return, union-attr]  # it is a PythonSource


def as_in_keras(epoch: int) -> list[list[int]]:
    index = np.arange(64)
    for _ in range(1 + epoch):
        np.random.RandomState(42).shuffle(index)
    return index.reshape(4, 16).tolist()


def test_an_index_is_shuffled_further_from_epoch_to_epoch_as_in_keras(opened: Open) -> None:
    """`RandomState(42)` in `on_epoch_end` gave every epoch the same batches: each began from the object as built."""
    one, another = opened(WALK), opened(WALK)

    assert [units(one, 0, 1, 2, 3, epoch=epoch) for epoch in range(5)] == [as_in_keras(epoch) for epoch in range(5)]
    assert units(another, 2, epoch=37) == as_in_keras(37)[2:3]
    assert units(another, 1, epoch=3) == as_in_keras(3)[1:2], "an earlier one, afterwards"


def test_an_epoch_is_that_of_a_training_whatever_was_begun_before(opened: Open) -> None:
    text = WALK.replace("np.random.RandomState(42)", "np.random")
    one, another = opened(text), opened(text)
    walked = [units(one, 0, 3, epoch=epoch, seed=7) for epoch in range(6)]

    assert units(another, 3, epoch=5, seed=7) == walked[5][1:]
    assert units(another, 3, 0, epoch=2, seed=7) == walked[2][::-1]
    assert len({str(epoch) for epoch in walked}) == 6
    assert units(one, 0, epoch=1, seed=8) != walked[1][:1]


def test_the_thousandth_epoch_is_near_one_that_is_kept(opened: Open) -> None:
    dataset = opened(WALK)
    calls = dataset.source.objects["train"].modules[0].calls  # type: ignore[union-attr]
    units(dataset, 0, epoch=1000)
    begun = {}

    for epoch in (999, 1000, 937, 500, 64, 1):
        calls.clear()
        units(dataset, 0, epoch=epoch)
        begun[epoch] = len(calls)

    assert max(begun.values()) <= 64
    assert begun[1000] == 0, "it is at hand"


def test_an_epoch_that_takes_too_long_to_begin_is_an_error_that_says_why(opened: Open) -> None:
    dataset = opened(WALK.replace("calls.append(1)", "__import__('time').sleep(0.01)"), start_timeout_s=0.1)

    with pytest.raises(DataError, match=r"epoch 10000 is what 10000 calls of on_epoch_end make of it, .* set_epoch"):
        units(dataset, 0, epoch=10_000)


def test_a_counter_of_epochs_counts_as_it_does_in_keras(opened: Open) -> None:
    dataset = opened(
        """
        class made:
            epoch = 0
            def __len__(self): return 2
            def __getitem__(self, k): return [k], [self.epoch]
            def on_epoch_end(self): self.epoch += 1
        """
    )

    assert [units(dataset, 1, epoch=epoch) for epoch in (0, 1, 5)] == [[[0]], [[1]], [[5]]]


def test_an_object_that_is_told_its_epoch_is_told_it_as_in_a_training_loop(opened: Open) -> None:
    dataset = opened(
        """
        class made:
            def __init__(self): self.said = []
            def __len__(self): return 1
            def __getitem__(self, k): return [k], [self.said]
            def set_epoch(self, epoch): self.said.append(epoch)
            def on_epoch_end(self): self.said.append(-1)
        """
    )

    assert units(dataset, 0, epoch=0) == [[[0]]]
    with pytest.raises(BadSample, match="has rows of y int64"):
        units(dataset, 0, epoch=3)


def test_samples_are_told_their_epoch_too(opened: Open) -> None:
    dataset = opened(
        """
        class made:
            epoch = None
            def __len__(self): return 4
            def __getitem__(self, i): return i, 10 * self.epoch + i
            def set_epoch(self, epoch): self.epoch = epoch
        """
    )
    across = SampleRequest(np.array([2, 3, 0]), np.array([4, 4, 5]), 0)

    assert dataset.source.draw(across)["y"].tolist() == [42, 43, 50]  # type: ignore[union-attr]
    assert units(dataset, 1, epoch=0) == [1]


NESTED = """
    class Nested:
        def __init__(self):
            self.rng = np.random.default_rng()
            self.steps = [{"py": random.Random()}, lambda r=np.random.RandomState(): r.rand()]
    class made:
        def __init__(self): self.t = Nested()
        def __len__(self): return 3
        def __getitem__(self, k):
            drawn = self.t.rng.random(), self.t.steps[0]["py"].random(), self.t.steps[1]()
            return np.full((8, 3), drawn), np.arange(8)
"""


@pytest.mark.parametrize("batched", [True, False])
def test_generators_at_any_depth_are_keyed_and_no_epoch_repeats_another(opened: Open, batched: bool) -> None:
    """With deterministic = false, which our own message recommended, every epoch was the one before."""
    one, another = opened(NESTED, batched=batched), opened(NESTED, batched=batched)
    first = [units(one, k, column="x", epoch=epoch)[0][0] for epoch in (0, 1, 2) for k in (0, 1, 2)]

    numbers = list(itertools.chain(*first))
    assert len(set(numbers)) == len(numbers) == 27
    assert units(another, 1, column="x", epoch=2)[0][0] == first[7]
    assert not list(check(one))


@pytest.mark.keras
def test_layers_of_keras_that_augment_draw_by_seed_and_epoch_too(opened: Open) -> None:
    text = """
    import keras
    class made(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.augment = keras.Sequential([keras.layers.RandomTranslation(0.4, 0.4)])
        def __len__(self): return 3
        def __getitem__(self, k):
            x = np.arange(64, dtype="f4").reshape(1, 8, 8, 1) + k
            return np.asarray(self.augment(x, training=True)), np.arange(1)
    """
    one, another = opened(text), opened(text)
    first = [units(one, k, column="x", epoch=epoch) for epoch in (0, 1) for k in (0, 1, 2)]

    assert not list(check(one))
    assert len({str(batch) for batch in first}) == 6
    assert units(another, 1, column="x", epoch=1) == first[4]


def test_a_batch_with_a_generator_of_its_own_repeats_although_it_is_read_in_another_order(opened: Open) -> None:
    list(check(opened(NESTED, batched=True)))


@pytest.mark.parametrize(
    "frozen",
    [
        "np.random.seed(42); np.random.shuffle(self.i)",
        "np.random.default_rng(42).shuffle(self.i)",
    ],
)
def test_epochs_that_are_alike_where_code_draws_are_said_at_the_start(opened: Open, frozen: str) -> None:
    text = WALK.replace(
        "np.random.RandomState(42).shuffle(self.i); calls.append(1)", f"self.i = np.arange(64); {frozen}"
    )

    said = list(check(opened(text)))

    assert len(said) == 1
    assert "m:made: draws random numbers, but its epochs 0 to 2 begin and end alike" in said[0]
    assert f"m.py, line 9: {frozen[: frozen.index('(')]}(…) is a" in said[0]
    assert not list(check(opened(WALK)))
    assert not list(check(opened("made = [1, 2, 3]"))), "what draws nothing may be alike"


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (
            "np.random.default_rng().random()",
            "m.py, line 6: np.random.default_rng(…) is a new generator with each call",
        ),
        ("__import__('os').urandom(4)[0]", "m.py, line 6: __import__('os').urandom(…) is numbers of the system"),
        ("self.other()", "m.py, line 8: np.random.RandomState(…) is a new generator with each call; make it once"),
    ],
)
def test_what_cannot_be_seeded_is_named_with_its_line_and_the_cure(opened: Open, call: str, cause: str) -> None:
    dataset = opened(
        f"""
        class made:
            def __len__(self): return 5
            def __getitem__(self, i): return float({call})
            def other(self):
                return np.random.RandomState().rand()
        """
    )

    with pytest.raises(DataError) as caught:
        list(check(dataset))

    assert cause in str(caught.value)
    assert "deterministic = false" in str(caught.value)


def test_what_another_class_of_the_module_draws_is_not_named(opened: Open) -> None:
    text = """
    class Other:
        def __getitem__(self, i): return np.random.default_rng().random()
    class made:
        calls = 0
        def __len__(self): return 5
        def __getitem__(self, i): self.calls += 1; return self.calls
    """

    with pytest.raises(DataError) as caught:
        list(check(opened(text)))

    assert "default_rng" not in str(caught.value)
    assert "keep nothing from one call to the next; or say deterministic = false" in str(caught.value)


def test_a_length_that_changes_is_refused_at_the_start_with_both(opened: Open) -> None:
    """Epoch 1 held batches of 0 rows, and data that no epoch reached."""
    text = """
    class made:
        n = 6
        def __len__(self): return self.n
        def __getitem__(self, k): r = 16 if k < self.n else 0; return np.ones((r, 1), "f4"), np.zeros(r, int)
        def on_epoch_end(self): self.n -= 2
    """

    with pytest.raises(
        DataError, match=r"m:made: its length is 6 when it is built and 4 in epoch 1, .* steps_per_epoch"
    ):
        list(check(opened(text)))


def test_a_length_that_changes_later_ends_that_epoch_with_an_error(opened: Open) -> None:
    dataset = opened(
        """
        class made(list):
            def on_epoch_end(self): self.extend([[1]] * (len(self) == 4)); self.insert(0, self.pop())
        made = made([[0], [1], [2], [3]])
        """
    )

    with pytest.raises(DataError, match=r"its length is 4 when it is built and 5 in epoch 1"):
        units(dataset, 0, column="x", epoch=1)
    assert units(dataset, 0, column="x", epoch=0) == [[0]]


def test_a_batch_without_rows_is_an_error(opened: Open) -> None:
    dataset = opened("made = [[1.0], []]", batched=True)

    with pytest.raises(BadSample, match=r"batch 1 \(m:made\[1\]\) has no rows; give every batch at least one"):
        units(dataset, 1, column="x")


@pytest.mark.parametrize(
    "text",
    [
        """
        class made:
            perm = None
            def __len__(self): return 4
            def on_epoch_end(self): pass
            def __getitem__(self, k):
                if self.perm is None or k % 4 == 0: self.perm = np.random.permutation(64)
                return self.perm[16 * (k % 4) : 16 * (k % 4) + 16], [0] * 16
        """,
        """
        class made:
            hard = False
            def __len__(self): return 64
            def on_epoch_end(self): pass
            def __getitem__(self, k):
                if k % 10 == 0: self.hard = True
                return [float(self.hard)]
        """,
    ],
)
def test_state_between_batches_is_found_at_the_start(opened: Open, text: str) -> None:
    with pytest.raises(
        DataError, match=r"column 'x' of batch \d+ is another one when it is read again, in another order"
    ):
        list(check(opened(text)))


def test_what_a_copy_closes_in_its_finalizer_stays_open_for_the_others(opened: Open, tmp_path: Any) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(range(8)))
    dataset = opened(
        """
        class made:
            def __init__(self): self.file = open("data.bin", "rb")
            def __len__(self): return 8
            def __del__(self): self.file.close()
            def on_epoch_end(self): pass
            def __getitem__(self, k): self.file.seek(k); return [self.file.read(1)[0]]
        """
    )

    assert [units(dataset, 3, column="x", epoch=epoch) for epoch in range(10)] == [[[3]]] * 10
    list(check(dataset))
    assert units(dataset, 5, column="x") == [[5]]


def test_states_that_are_kept_are_evenly_spread_and_few(opened: Open) -> None:
    dataset = opened(WALK)
    for epoch in range(200):
        units(dataset, 0, epoch=epoch)

    (of_seed,) = dataset.source._reading._under.values()  # type: ignore[union-attr]  # there is no other way to see it

    assert sorted(of_seed._kept) == [*range(0, 200, 8), 199]
    assert len(of_seed._kept) <= epochs.KEPT_STATES
    assert seeding.VERSION == 2, "raised with what an epoch is"


def test_what_a_constructor_draws_from_a_generator_without_a_seed_is_the_same_in_every_process(opened: Open) -> None:
    """It was refused, with the advice to make the generator in __init__, where it was."""
    text = """
        class made:
            def __init__(self):
                self.rng, self.old, self.python = np.random.default_rng(), np.random.RandomState(), random.Random()
                self.on_epoch_end()
            def on_epoch_end(self):
                self.order = [*self.rng.permutation(9), self.old.rand(), self.python.random()]
            def __len__(self): return 3
            def __getitem__(self, i): return np.array([self.order])
    """
    processes = [opened(text), opened(text)]  # each imports and builds anew, with other entropy of the system

    orders = [next(iter(one.source.objects.values())).value.order for one in processes]  # type: ignore[union-attr]
    assert orders[0] == orders[1]
    assert processes[0].source.unlike([*processes[1].source.content()]) is None  # type: ignore[union-attr]
    assert np.random.default_rng().random() != np.random.default_rng().random()
    assert random.Random().random() != random.Random().random()


def test_a_constructor_that_differs_is_not_explained_by_lines_of_classes_that_are_not_served(opened: Open) -> None:
    text = """
        import time
        class Other:
            def __init__(self): self.began = time.time_ns()
        class made:
            def __init__(self):
                self.rng, self.began = np.random.default_rng(), time.perf_counter()
            def __len__(self): return 3
            def __getitem__(self, i): return np.array([self.began])
    """
    one, other = opened(text), opened(text)

    error = str(one.source.unlike([*other.source.content()]))  # type: ignore[union-attr]
    assert "m.py, line 9: time.perf_counter(…) is the time" in error
    assert "time_ns" not in error
    assert "default_rng" not in error
