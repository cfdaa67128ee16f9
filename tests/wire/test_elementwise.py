"""What is done value by value comes out the same wherever it is done, and what cannot be done is refused."""

import struct
from typing import Any

import numpy as np
import pytest

from feedline_wire import elementwise
from feedline_wire import loader_pb2 as pb
from feedline_wire.elementwise import Cast, Misfit, Normalise, OneHot, Scale
from feedline_wire.errors import DataError, ProtocolMismatch
from feedline_wire.tensors import VARIES, Column

PIXELS = np.arange(256, dtype=np.uint8).reshape(4, 64)


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


# ---- values ----


def test_pixels_divided_by_255_are_what_a_plain_division_gives() -> None:
    """Not x * (1 / 255), which is another number for 60 of the 256 values."""
    scaled = Scale(divide_by=255).apply(PIXELS)

    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[float32(value / 255) for value in row] for row in PIXELS.tolist()]


def test_scaling_multiplies_then_divides_then_adds() -> None:
    assert Scale(factor=3, divide_by=2, offset=-1).apply(np.array([0, 1, 5])).tolist() == [-1.0, 0.5, 6.5]
    assert Scale(offset=0.5, dtype="float64").apply(np.array([1])).tolist() == [1.5]
    assert Scale().apply(np.array([7], np.uint8)).tolist() == [7.0]


def test_normalising_takes_one_number_or_one_for_each_place_on_the_last_axis() -> None:
    rows = np.array([[1, 2], [3, 6]], np.int16)

    assert Normalise((1.0,), (2.0,)).apply(rows).tolist() == [[0.0, 0.5], [1.0, 2.5]]
    assert Normalise((1.0, 2.0), (2.0, 4.0)).apply(rows).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert Normalise((1.0, 2.0), (2.0,)).apply(rows).tolist() == [[0.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 3), (1, 1, 3), (7, 50, 40, 3), (3, 5000, 3), (9000, 3)])
def test_normalising_colours_is_the_same_however_the_pixels_lie(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean, std = (0.5, 120.0, 7.25), (3.0, 0.1, 55.0)

    normalised = Normalise(mean, std).apply(pixels)
    fortran = Normalise(mean, std).apply(np.asfortranarray(pixels))

    by_hand = (pixels.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    assert normalised.tobytes() == fortran.tobytes() == by_hand.tobytes()


def test_one_hot_adds_an_axis() -> None:
    assert OneHot(3).apply(np.array([2, 0])).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert OneHot(2, "uint8").apply(np.array([[1, 0]])).tolist() == [[[0, 1], [1, 0]]]
    assert OneHot(2).apply(np.array([True])).tolist() == [[0.0, 1.0]]


def test_a_cast_cuts_fractions_off_and_keeps_what_is_not_finite() -> None:
    assert Cast("int8").apply(np.array([1.7, -1.7])).tolist() == [1, -1]
    assert Cast("bool").apply(np.array([0, 3])).tolist() == [False, True]
    assert str(Cast("float16").apply(np.array([np.inf, np.nan, 0.5])).tolist()) == "[inf, nan, 0.5]"


OPERATIONS = [
    Cast("float32"),
    Scale(divide_by=255, offset=1),
    Scale(dtype="float64"),
    Normalise((3.0,), (7.0,)),
    OneHot(256, "uint8"),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_values_are_the_same_in_memory_of_the_callers_and_whatever_lies_around_them(operation: Any) -> None:
    column = operation.column(Column("x", PIXELS.dtype, (64,)))
    out = np.full((4, *column.shape), 99, column.dtype)

    returned = operation.apply(PIXELS, out)

    assert returned is out
    alone = np.concatenate([operation.apply(PIXELS[row : row + 1]) for row in range(4)])
    assert out.tobytes() == alone.tobytes() == operation.apply(np.asfortranarray(PIXELS)).tobytes()
    assert (alone.dtype, alone.shape[1:]) == (column.dtype, column.shape)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_nothing_to_do_is_done(operation: Any) -> None:
    assert len(operation.apply(PIXELS[:0])) == 0


# ---- what does not fit ----


@pytest.mark.parametrize(
    ("operation", "values", "says", "rows"),
    [
        (Cast("uint8"), np.array([1, 256, 300]), "the value 256 cannot be uint8", (1, 2)),
        (Cast("uint64"), np.array([-1, 2]), "the value -1 cannot be uint64", (0,)),
        (Cast("int64"), np.array([1.0, np.nan]), "the value nan cannot be int64", (1,)),
        (Cast("int64"), np.array([2.0**63, 2.0**62]), "cannot be int64", (0,)),
        (Cast("int64"), np.array([1, 2**64 - 1], np.uint64), "cannot be int64", (1,)),
        (Cast("float16"), np.array([70000]), "the value 70000 cannot be float16", (0,)),
        (Cast("float32"), np.array([[1.0, np.inf], [1.0, 1e300]]), r"1e\+300 cannot be float32", (1,)),
        (OneHot(5), np.array([[0, 4], [5, 0], [-1, 0]]), r"the value 5 is no class of 0\.\.4", (1, 2)),
        (OneHot(1), np.array([False, True]), "is no class", (1,)),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_rows(
    operation: Any, values: np.ndarray, says: str, rows: tuple[int, ...]
) -> None:
    with pytest.raises(Misfit, match=says) as misfit:
        operation.apply(values)

    assert misfit.value.rows == rows


def test_the_ends_of_a_dtype_fit() -> None:
    assert Cast("int8").apply(np.array([-128, 127])).tolist() == [-128, 127]
    assert Cast("int64").apply(np.array([-(2.0**63)])).tolist() == [-(2**63)]
    assert Cast("uint64").apply(np.array([2**63 - 1])).tolist() == [2**63 - 1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cast("object"), "there is: bool"),
        (lambda: Scale(dtype="uint8"), "one of: float16, float32, float64"),
        (lambda: Scale(divide_by=0), "divides by 0"),
        (lambda: Scale(factor=float("nan")), "give numbers"),
        (lambda: Normalise((1.0,), (0.0,)), "more than 0"),
        (lambda: Normalise((1.0,), (1e-60,)), "more than 0 as float32"),
        (lambda: Normalise((), ()), "0 means"),
        (lambda: Normalise((1.0, 2.0), (1.0, 2.0, 3.0)), "2 means and 3 deviations"),
        (lambda: OneHot(0), "with 0 classes"),
        (lambda: OneHot(3, "str"), "there is: bool"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()


@pytest.mark.parametrize(
    ("operation", "column", "says"),
    [
        (Cast("float32"), Column("x", np.dtype("complex64"), (2,)), "column x complex64.*half would be lost"),
        (Scale(), Column("x", np.dtype("complex64"), ()), "cannot be scaled"),
        (Normalise((1.0, 2.0), (1.0, 1.0)), Column("x", np.dtype("f4"), (3,)), "another size"),
        (Normalise((1.0, 2.0), (1.0, 1.0)), Column("x", np.dtype("f4"), ()), "there is none of"),
        (OneHot(3), Column("y", np.dtype("f4"), ()), "column y float32.*cast it to int64 first"),
    ],
)
def test_a_column_that_it_is_not_for_is_refused(operation: Any, column: Column, says: str) -> None:
    with pytest.raises(DataError, match=says):
        operation.column(column)


# ---- on the wire ----

LATE: tuple[elementwise.Deferred, ...] = (
    ("x", Cast("float64")),
    ("x", Scale(2.0, 3.0, 4.0, "float64")),
    ("x", Normalise((1.0, 2.0), (3.0, 4.0))),
    ("y", OneHot(61, "uint8")),
)


def test_what_is_done_late_survives_the_wire() -> None:
    wire = pb.Dataset(deferred=elementwise.to_messages(LATE)).SerializeToString()

    assert elementwise.from_messages(pb.Dataset.FromString(wire).deferred) == LATE


def test_columns_become_what_is_done_to_them_says() -> None:
    before = (
        Column("x", np.dtype("u1"), (VARIES, 2)),
        Column("y", np.dtype("i8"), ()),
        Column("z", np.dtype("u1"), ()),
    )

    after = elementwise.columns_after(before, LATE)

    assert [str(column) for column in after] == ["x float32(?, 2)", "y uint8(61)", "z uint8()"]


def test_a_column_that_is_not_there_cannot_be_finished() -> None:
    with pytest.raises(DataError, match="no column 'x' to finish; the columns are y"):
        elementwise.columns_after((Column("y", np.dtype("i8"), ()),), LATE)


@pytest.mark.parametrize(
    "message",
    [
        pb.Deferred(column="x"),
        pb.Deferred(column="x", cast=pb.Cast(dtype="object")),
        pb.Deferred(column="x", scale=pb.Scale(factor=1, dtype="float32")),
        pb.Deferred(column="x", normalise=pb.Normalise(dtype="float32")),
        pb.Deferred(column="x", one_hot=pb.OneHot(classes=2**32 - 1, dtype="uint8")),
    ],
    ids=lambda message: message.WhichOneof("operation") or "unknown",
)
def test_what_this_side_cannot_do_is_another_protocol(message: pb.Deferred) -> None:
    with pytest.raises(ProtocolMismatch, match="column 'x' is to be finished here"):
        elementwise.from_messages([message])
