"""What Keras takes as batches, as tables: refused when a client connects."""

import numpy as np
import pytest

from feedline import InvalidRequest
from feedline.keras.client import check_parts, check_shapes, check_shards
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
        check_shards(4, 2)


@pytest.mark.parametrize(("shards", "world"), [(1, 1), (4, 1), (1, 2)])
def test_data_divided_once_is_taken(shards: int, world: int) -> None:
    check_shards(shards, world)
