"""Random numbers of the operator's code: after seeding, the same, whatever was drawn before."""

import random
import sys
import tempfile
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline_wire import seeding as python_random


@pytest.fixture(autouse=True)
def _as_it_was() -> Any:
    """Other tests draw from the same generators."""
    states = random.getstate(), np.random.get_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def drawn() -> tuple[float, float]:
    return random.random(), float(np.random.rand())


def test_after_seeding_the_same_numbers_are_drawn_whatever_was_drawn_before() -> None:
    python_random.seed(2**127 + 1)
    first = drawn()
    drawn()
    python_random.seed(2**127 + 1)

    assert drawn() == first
    python_random.seed(2**127 + 2)
    assert drawn() != first


def test_numbers_of_places_and_purposes_have_nothing_to_do_with_each_other() -> None:
    numbers = {
        python_random.number(purpose, *places)
        for purpose in ("sample", "batch")
        for places in ((3, 1, 0), (4, 0, 0), (3, 10), (31, 0), (3, 1), (31,))
    }

    assert len(numbers) == 12
    assert max(numbers) < 2**128


def test_what_is_drawn_never_changes_from_one_release_to_the_next() -> None:
    """Who resumes must find the samples that were left: change VERSION with these numbers."""
    assert python_random.number("sample", 3, 1, 0) == 95133265254539049558495350172050080596
    python_random.seed(5)
    assert drawn() == (0.6229016948897019, 0.22199317108973948)


class Own:
    def __init__(self) -> None:
        self.rng = np.random.default_rng()
        self.same = self.rng
        self.other = random.Random()
        self.old = np.random.RandomState()
        self.philox = np.random.Generator(np.random.Philox())
        self.number = 3


def test_generators_that_are_attributes_or_names_of_the_module_are_found_and_seeded() -> None:
    own, module = Own(), ModuleType("m")
    module.GENERATOR = np.random.default_rng()  # type: ignore[attr-defined]

    found = python_random.generators_in(own, module)

    assert found == [own.rng, own.other, own.old, own.philox, module.GENERATOR]

    def draw() -> list[float]:
        return [float(generator.random()) for generator in (own.rng, own.other, own.philox, module.GENERATOR)]

    python_random.seed(7, found)
    first = [*draw(), own.old.rand()]
    python_random.seed(7, found)
    assert [*draw(), own.old.rand()] == first
    assert len(set(first)) == 5, "each draws numbers of its own"


def test_frameworks_that_the_code_has_imported_are_seeded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in for torch and TensorFlow, which take seconds to import."""
    said: list[int] = []
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(default_generator=SimpleNamespace(manual_seed=said.append))
    )
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(random=SimpleNamespace(set_seed=said.append)))

    python_random.seed(2**128 - 1)

    assert said == [2**63 - 1, 2**31 - 1]


def test_what_names_temporary_files_and_semaphores_is_not_seeded_while_an_object_is_built() -> None:
    """A hundred names that killed processes had left in /dev/shm, and no loader could build an object with a Pool."""
    names, drawn = [], []
    for _ in range(2):
        with python_random.building(7):
            names.append(next(tempfile._RandomNameSequence()))  # type: ignore[attr-defined]
            drawn.append(random.Random().random())

    assert names[0] != names[1]
    assert drawn[0] == drawn[1]
    assert tempfile._Random is random.Random  # type: ignore[attr-defined]
