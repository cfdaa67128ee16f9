"""What Keras takes as batches, as tables: refused when a client connects."""

from typing import Any

import numpy as np
import pytest

from feedline import InvalidRequest
from feedline.keras.client import check_parts, check_processes, check_shapes, check_shards
from feedline.reading.plan import Plan
from feedline_wire.structure import Structure
from feedline_wire.tensors import Column

TOKENS = Column("tokens", np.dtype("int32"), (-1, 8))
LABEL = Column("label", np.dtype("int32"), ())


@pytest.mark.parametrize(
    "structure", ["x", ("x",), ("x", "y"), ("x", "y", "w"), {"a": "a", "b": "b"}, (("a", "b"), "y")]
)
def test_up_to_three_parts_are_taken(structure: Structure) -> None:
    check_parts(structure, "short")


@pytest.mark.parametrize(("structure", "parts"), [(("a", "b", "c", "d"), 4), ((), 0)])
def test_any_other_number_of_parts_is_refused(structure: Structure, parts: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"has {parts} parts, Keras takes \(x,\), .*nested"):
        check_parts(structure, "short")


@pytest.mark.parametrize("structure", ["x", ("x",), {"a": "a", "b": "b"}])
def test_padding_without_targets_is_refused(structure: Structure) -> None:
    with pytest.raises(InvalidRequest, match="no y; use remainder='short'"):
        check_parts(structure, "pad")


def test_padding_beside_targets_is_taken() -> None:
    check_parts(("x", "y"), "pad")


def test_a_shape_that_varies_is_refused_on_tensorflow() -> None:
    with pytest.raises(
        InvalidRequest, match=r"the shape of tokens int32\(\?, 8\) varies .* transforms truncate and pad"
    ):
        check_shapes([TOKENS, LABEL], "tensorflow")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_shape_that_varies_is_taken_elsewhere(backend: str) -> None:
    check_shapes([TOKENS, LABEL], backend)


def test_fixed_shapes_are_taken_on_tensorflow() -> None:
    check_shapes([LABEL], "tensorflow")


def test_data_divided_by_keras_and_by_us_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="among 4 processes and world=2 divides it again"):
        check_shards(4, 2, 8)


@pytest.mark.parametrize(("shards", "world"), [(1, 1), (4, 1), (1, 2)])
def test_data_divided_once_is_taken(shards: int, world: int) -> None:
    check_shards(shards, world, 8)


def test_batches_that_keras_cannot_divide_evenly_are_refused_with_the_line_to_write() -> None:
    """The processes with one batch less stop, and the others wait for them for ever: in Keras itself."""
    with pytest.raises(InvalidRequest, match=r"9 batches among 2 processes.*world=2, remainder='drop'"):
        check_shards(2, 1, 9)


@pytest.mark.parametrize("samples", [17, 23])
def test_a_last_batch_that_processes_have_no_equal_part_of_is_refused_with_the_line_to_write(samples: int) -> None:
    """One sample for two: one of them has a step less. Seven: a batch of four and one of three."""
    plan = Plan(samples, batch_size=4, remainder="short", rank=1, world=2)

    with pytest.raises(InvalidRequest, match=r"write RemoteSequence\(…, rank=1, world=2, remainder='drop'\)"):
        check_processes(plan, 2)


@pytest.mark.parametrize(
    ("samples", "remainder", "world", "processes"),
    [
        (16, "short", 2, 2),
        (17, "drop", 2, 2),
        (17, "pad", 2, 2),
        (17, "wrap", 2, 2),
        (17, "short", 2, 1),
        (17, "short", 1, 2),
    ],
)
def test_equal_parts_are_taken_and_so_are_trainers_that_do_not_train_in_step(
    samples: int, remainder: Any, world: int, processes: int
) -> None:
    check_processes(Plan(samples, batch_size=4, remainder=remainder, rank=0, world=world), processes)
