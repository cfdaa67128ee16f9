"""Samples are seeded where their code draws, which is found out call by call, and cost little where it does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset
from feedline_server.sources.python import draws
from feedline_server.sources.source import SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError

Open = Callable[..., Dataset]


def read(dataset: Dataset, *ids: int, epoch: int = 0) -> list[Any]:
    request = SampleRequest(np.array(ids, np.int64), np.full(len(ids), epoch), 0)
    return dataset.source.draw(request)["x"].tolist()  # type: ignore[union-attr, no-any-return]  # a GeneratedSource


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was seeded before a sample, one entry a generator."""
    found: list[object] = []
    reseed = seeding.reseed

    def noted(generator: object, value: int) -> None:
        found.append(generator)
        reseed(generator, value)

    monkeypatch.setattr(draws.seeding, "has_unreadable", lambda: False)  # other tests have imported TensorFlow
    monkeypatch.setattr(draws.seeding, "reseed", noted)
    return found


RARELY = """
    class made:
        def __init__(self): self.rng = np.random.default_rng()
        def __len__(self): return 100
        def __getitem__(self, i): return float(i) if i % 50 else {draw}
"""


@pytest.mark.parametrize("draw", ["random.random()", "np.random.rand()", "self.rng.random()", "np.random.randn()"])
def test_code_that_draws_for_one_sample_in_fifty_is_seeded_from_that_one_on(
    opened: Open, seeded: list[object], draw: str
) -> None:
    one, another = (opened(RARELY.format(draw=draw)) for _ in range(2))
    whole = read(one, *range(100))

    assert read(another, 50) == whole[50:51]
    assert read(another, 99, 0, 50, 3) == [99.0, whole[0], whole[50], 3.0]
    assert whole[0] != whole[50]
    assert read(one, 0, epoch=1) != whole[:1]
    assert len({type(generator) for generator in seeded[-4:]}) == 1, "what it draws from, and nothing else"


def test_code_that_draws_nothing_is_not_seeded(opened: Open, seeded: list[object]) -> None:
    dataset = opened(RARELY.format(draw="-1.0"))
    seeded.clear()

    assert read(dataset, *range(3)) == [-1.0, 1.0, 2.0]
    assert seeded == []


def test_a_normal_number_that_numpy_has_kept_is_not_drawn_unnoticed(opened: Open) -> None:
    """`randn` makes two numbers and keeps one: the next call changes nothing that can be seen from outside."""
    text = RARELY.format(draw="np.random.randn()").replace("i % 50", "i % 50 != 7")
    one, another = opened(text), opened(text)
    np.random.seed(3)
    np.random.randn()

    assert read(one, 7) == read(another, 7)


MANY = """
    asked = []
    class made:
        def __len__(self): return 10
        def __getitem__(self, i): return i + {each}
        def __getitems__(self, ids):
            asked.append(list(ids))
            return [i + {many} for i in ids]
"""


def test_getitems_is_used_where_it_is_there_and_the_code_draws_nothing(opened: Open, seeded: list[object]) -> None:
    dataset = opened(MANY.format(each="0.0", many="0.0"))
    asked = dataset.source.objects["train"].modules[0].asked  # type: ignore[union-attr]

    assert read(dataset, 3, 1, 4) == [3, 1, 4]
    assert asked == [[3, 1, 4]]
    assert not list(dataset.source.check())  # type: ignore[union-attr]


def test_where_getitems_draws_each_sample_is_seeded_by_itself(opened: Open, seeded: list[object]) -> None:
    text = MANY.format(each="random.random()", many="random.random()")
    one, another = opened(text), opened(text)

    assert read(one, 3, 1, 4)[1:2] == read(another, 1)


def test_getitems_that_gives_another_sample_than_getitem_is_refused(opened: Open, seeded: list[object]) -> None:
    dataset = opened(MANY.format(each="0.0", many="(len(ids) > 1)"))

    with pytest.raises(DataError, match=r"column 'x' of sample 0 is another one when it is read together with others"):
        list(dataset.source.check())  # type: ignore[union-attr]


def test_a_sample_that_getitems_cannot_read_is_named(opened: Open, seeded: list[object]) -> None:
    dataset = opened(MANY.format(each="1 / (i - 4)", many="1 / (i - 4)"))

    with pytest.raises(BadSample, match=r"sample 4 \(m:made\[4\]\) cannot be read: it raised ZeroDivisionError"):
        read(dataset, 3, 4, 5)


@pytest.mark.parametrize(
    "items",
    [
        "(np.full((2, 3), i, 'f4'), i)",
        "({'a': np.full(2, i, 'i2'), 'b': {'c': float(i)}}, [i, i + 1])",
        "np.float32(i)",
        "(i if i % 2 else float(i), bool(i))",
        "{'b': i, 'a': np.full(3, i)} if i % 2 else {'a': np.full(3, i), 'b': i}",
        "np.full((0, 2), i)",
    ],
)
def test_samples_are_collated_together_as_one_by_one(opened: Open, monkeypatch: pytest.MonkeyPatch, items: str) -> None:
    dataset = opened(f"    made = [{items} for i in range(6)]")
    request = SampleRequest(np.array([4, 1, 5]), np.zeros(3, np.int64), 0)
    together = dataset.source.draw(request)  # type: ignore[union-attr]
    form = type(dataset.source._reading.form)  # type: ignore[union-attr]  # no other way to the slow one
    monkeypatch.setattr(form, "together", lambda *_: None)

    alone = dataset.source.draw(request)  # type: ignore[union-attr]

    assert together.keys() == alone.keys()
    for name, array in alone.items():
        assert (together[name].dtype, together[name].shape) == (array.dtype, array.shape)
        assert together[name].tobytes() == array.tobytes()
