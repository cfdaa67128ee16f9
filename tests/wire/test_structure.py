"""A batch's structure arrives as it was declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import loader_pb2 as pb
from feedline_wire import structure
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.structure import Structure

structures = st.recursive(
    st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def nested(depth: int) -> Structure:
    """A column inside that many tuples."""
    inner: Structure = "x"
    for _ in range(depth):
        inner = (inner,)
    return inner


@given(structures)
def test_a_structure_survives_the_wire(declared: Structure) -> None:
    wire = structure.to_message(declared).SerializeToString()

    assert structure.from_message(pb.Structure.FromString(wire)) == declared


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ("x", ["x"]),
        (("x", "y"), ["x", "y"]),
        (({"left": "l", "right": "r"}, "y", ("w",)), ["l", "r", "y", "w"]),
        ((), []),
    ],
)
def test_columns_are_named_left_to_right(declared: Structure, names: list[str]) -> None:
    assert list(structure.column_names(declared)) == names


def test_a_batch_is_built_as_the_structure_says() -> None:
    batch = structure.build(({"left": "l", "right": "r"}, "y"), {"l": 1, "r": 2, "y": 3, "unused": 4})

    assert batch == ({"left": 1, "right": 2}, 3)


@pytest.mark.parametrize("declared", ["x", ("x",), ("x", "y"), ("x", "y", "x"), ({"a": "x"}, "y"), (("x", "y"), "x")])
def test_batches_are_built_alike_one_by_one_and_by_a_builder(declared: Structure) -> None:
    arrays = {"x": 1, "y": 2}

    made = structure.builder(declared)(arrays)

    assert made == structure.build(declared, arrays)


def test_sixteen_levels_are_read_and_seventeen_are_not() -> None:
    """A hostile peer must not be able to exhaust the stack."""
    assert structure.from_message(structure.to_message(nested(16))) == nested(16)
    with pytest.raises(ProtocolMismatch, match="more than 16 levels"):
        structure.from_message(structure.to_message(nested(17)))


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
def test_a_mapping_with_other_than_one_name_a_part_is_refused(names: list[str]) -> None:
    parts = [pb.Structure(column="x"), pb.Structure(column="y")]

    with pytest.raises(ProtocolMismatch, match=f"{len(names)} names for 2 parts"):
        structure.from_message(pb.Structure(kind=pb.Structure.MAPPING, names=names, parts=parts))


def test_a_kind_of_a_later_version_is_refused_instead_of_guessed() -> None:
    later = pb.Structure.FromString(b"\x08\x07")  # kind = 7

    with pytest.raises(ProtocolMismatch, match="kind 7"):
        structure.from_message(later)
