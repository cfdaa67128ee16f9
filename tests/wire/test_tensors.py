"""Arrays come out of a body as they went in, and a header that lies is refused before anything is touched."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import loader_pb2 as pb
from feedline_wire import tensors
from feedline_wire.errors import DataError, ProtocolMismatch
from feedline_wire.tensors import VARIES, Column, Layout, Placed

F4 = np.dtype("<f4")
I8 = np.dtype("<i8")
U1 = np.dtype("u1")

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
placements = st.lists(st.tuples(st.sampled_from(sorted(tensors.DTYPES)).map(np.dtype), shapes), max_size=5)


def header(
    *, nbytes: int = 64, dtype: str = "float32", shape: tuple[int, ...] = (16,), offset: int = 0
) -> pb.BatchHeader:
    """The header of one array that fits its body exactly; each test lies in one respect."""
    return pb.BatchHeader(nbytes=nbytes, arrays=[pb.Array(name="x", dtype=dtype, shape=shape, offset=offset)])


# ---- laying out ----


def test_every_array_begins_on_a_64_byte_boundary() -> None:
    layout = tensors.lay_out([("a", U1, (1,)), ("b", F4, (16,)), ("c", I8, (2, 4)), ("d", U1, (65,)), ("e", U1, ())])

    assert [(array.name, array.offset) for array in layout.arrays] == [
        ("a", 0), ("b", 64), ("c", 128), ("d", 192), ("e", 320),
    ]  # fmt: skip
    assert layout.nbytes == 321


def test_the_layout_of_a_batch_has_its_rows_before_each_columns_shape() -> None:
    columns = [Column("x", F4, (2, 3)), Column("y", I8, ())]

    layout = tensors.batch_layout(columns, rows=5)

    assert layout == Layout((Placed("x", F4, (5, 2, 3), 0), Placed("y", I8, (5,), 128)), 168)


@pytest.mark.parametrize(
    ("shape", "nbytes"),
    [
        pytest.param((), 8, id="no dimensions"),
        pytest.param((0,), 0, id="no elements"),
        pytest.param((0, 7), 0, id="no rows"),
        pytest.param((7, 0), 0, id="rows without elements"),
    ],
)
def test_arrays_of_unusual_shapes_come_out_as_they_went_in(shape: tuple[int, ...], nbytes: int) -> None:
    layout = tensors.lay_out([("odd", I8, shape), ("next", U1, (3,))])
    body = np.zeros(layout.nbytes, U1)

    out = tensors.views(body, tensors.from_header(tensors.to_header(layout)))

    assert out["odd"].shape == shape
    assert out["odd"].nbytes == nbytes
    assert out["next"].shape == (3,)


def test_a_body_of_nothing_is_a_layout_too() -> None:
    layout = tensors.from_header(tensors.to_header(tensors.lay_out([])))

    assert layout == Layout((), 0)
    assert tensors.views(np.empty(0, U1), layout) == {}


@given(placements, st.randoms(use_true_random=False))
def test_what_is_written_through_views_is_read_through_the_header(
    placed: list[tuple[np.dtype, tuple[int, ...]]], random: Random
) -> None:
    layout = tensors.lay_out((str(i), dtype, shape) for i, (dtype, shape) in enumerate(placed))
    sent = {array.name: random.randbytes(array.dtype.itemsize * math.prod(array.shape)) for array in layout.arrays}
    body = np.zeros(layout.nbytes, U1)
    for name, view in tensors.views(body, layout).items():
        view[...] = np.frombuffer(sent[name], view.dtype).reshape(view.shape)

    received = tensors.views(body, tensors.from_header(tensors.to_header(layout)))

    assert {name: (array.dtype, array.shape) for name, array in received.items()} == {
        str(i): placed for i, placed in enumerate(placed)
    }
    assert {name: array.tobytes() for name, array in received.items()} == sent


def test_views_are_of_the_body_itself() -> None:
    layout = tensors.lay_out([("x", F4, (2,)), ("y", F4, (2,))])
    body = np.zeros(layout.nbytes, U1)

    tensors.views(body, layout)["y"][:] = 1.0

    assert body[64:72].tobytes() == b"\x00\x00\x80\x3f" * 2  # 1.0, little-endian
    assert not body[:64].any()


def test_padding_is_cleared_and_nothing_else() -> None:
    layout = tensors.lay_out([("a", U1, (1,)), ("b", U1, (64,)), ("c", U1, (0,)), ("d", U1, (3,))])
    body = np.full(layout.nbytes + 5, 255, U1)  # a slot may be larger than the body in it

    tensors.clear_padding(body, layout)

    assert body.tobytes() == b"\xff" + bytes(63) + b"\xff" * 64 + b"\xff" * 3 + b"\xff" * 5


def test_billions_of_rows_do_not_overflow_into_a_small_body() -> None:
    """A key may ask for 2^32 - 1 rows; were its size computed in 64 bits, it would pass for a batch of a few bytes."""
    layout = tensors.batch_layout([Column("x", F4, (2**30,))], rows=2**32 - 1)

    assert layout.nbytes == (2**32 - 1) * 2**32


# ---- what arrives ----


def test_a_header_survives_the_wire() -> None:
    layout = tensors.lay_out([("x", F4, (5, 2)), ("__ids__", I8, (5,))])

    wire = tensors.to_header(layout).SerializeToString()

    assert tensors.from_header(pb.BatchHeader.FromString(wire)) == layout
    assert tensors.read_header(wire) == layout


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(header(shape=(17,)), id="a row too many"),
        pytest.param(header(nbytes=63), id="a body a byte too short"),
        pytest.param(header(nbytes=65), id="a body a byte longer than its arrays need"),
        pytest.param(pb.BatchHeader(nbytes=1), id="a body of no arrays"),
        pytest.param(header(offset=64), id="past the end"),
        pytest.param(header(nbytes=68, offset=4), id="off its boundary"),
        pytest.param(header(shape=(0,), offset=128), id="nothing, but outside"),
        pytest.param(header(shape=(2**62, 4)), id="2^66 bytes, 0 in 64 bits"),
        pytest.param(header(shape=(2**63, 2**63, 4)), id="2^130 bytes"),
        pytest.param(header(nbytes=0, shape=(2**62, 0)), id="no bytes, but too long for numpy"),
        pytest.param(header(nbytes=0, shape=(2**64 - 1, 0)), id="no bytes, but longer than any integer of numpy"),
        pytest.param(header(nbytes=4, shape=(1,) * 33), id="too many dimensions"),
        pytest.param(header(offset=2**64 - 64), id="an offset at the end of numbers"),
        pytest.param(header(dtype="object"), id="objects"),
        pytest.param(header(dtype="float128"), id="a dtype of some machines only"),
        pytest.param(header(dtype=">f4"), id="big-endian"),
        pytest.param(header(dtype="U8"), id="text"),
        pytest.param(header(dtype="f4,f4"), id="records"),
        pytest.param(header(dtype=""), id="no dtype"),
    ],
)
def test_a_header_that_lies_is_refused(lie: pb.BatchHeader) -> None:
    with pytest.raises(ProtocolMismatch):
        tensors.from_header(lie)


@pytest.mark.parametrize("shape", [(1,) * 32, (2**60 + 2**59, 0), (2**61 - 1, 0), (0,)])
def test_an_array_as_large_as_numpy_makes_them_is_let_in(shape: tuple[int, ...]) -> None:
    nbytes = 4 * math.prod(shape)

    layout = tensors.from_header(header(nbytes=nbytes, shape=shape))

    assert tensors.views(np.zeros(nbytes, np.uint8), layout)["x"].shape == shape


@given(
    st.builds(
        pb.BatchHeader,
        nbytes=st.integers(0, 4096),
        arrays=st.lists(
            st.builds(
                pb.Array,
                name=st.sampled_from(["x", "y"]),
                dtype=st.sampled_from(["float32", "uint8", "complex128", "object"]),
                shape=st.lists(st.integers(0, 9) | st.integers(0, 2**64 - 1), max_size=4),
                offset=st.integers(0, 4).map(lambda lines: lines * 64) | st.integers(0, 2**64 - 1),
            ),
            max_size=3,
        ),
    )
)
def test_a_header_that_is_accepted_can_be_viewed(message: pb.BatchHeader) -> None:
    try:
        layout = tensors.from_header(message)
    except ProtocolMismatch:
        return

    for name, array in tensors.views(np.zeros(layout.nbytes, U1), layout).items():
        assert array.shape in [tuple(sent.shape) for sent in message.arrays if sent.name == name]


@given(st.binary(max_size=60))
def test_garbage_in_a_headers_place_is_refused_or_a_header(garbage: bytes) -> None:
    try:
        tensors.read_header(garbage)
    except ProtocolMismatch:
        return


# ---- columns and dtypes ----


def test_columns_survive_the_wire() -> None:
    columns = (Column("x", F4, (28, 28)), Column("words", I8, (VARIES,)), Column("y", U1, ()))

    assert tensors.to_columns(tensors.from_columns(columns)) == columns


@pytest.mark.parametrize(
    "column",
    [pb.Column(name="x", dtype="object", shape=[1]), pb.Column(name="x", dtype="float32", shape=[-2])],
)
def test_columns_that_cannot_be_are_refused(column: pb.Column) -> None:
    with pytest.raises(ProtocolMismatch):
        tensors.to_columns([column])


def test_a_column_says_what_it_is() -> None:
    assert str(Column("words", I8, (VARIES, 300))) == "words int64(?, 300)"


@pytest.mark.parametrize(("shape", "nbytes"), [((), 4), ((28, 28), 3136), ((VARIES, 300), 1200), ((0, 3), 0)])
def test_a_column_knows_the_bytes_of_a_row(shape: tuple[int, ...], nbytes: int) -> None:
    assert Column("x", F4, shape).row_nbytes == nbytes


@pytest.mark.parametrize("name", sorted(tensors.DTYPES))
def test_a_big_endian_dtype_travels_little_endian(name: str) -> None:
    assert tensors.wire_dtype(np.dtype(name).newbyteorder(">")) == np.dtype(name).newbyteorder("<")


@pytest.mark.parametrize(
    "dtype",
    ["object", "U4", "S4", "M8[s]", "m8[s]", "V8", "f4,f4", "(2,)f4"],
)
def test_a_dtype_that_is_no_number_is_refused_with_those_that_are(dtype: str) -> None:
    with pytest.raises(DataError, match=r"cannot be served; convert the data to one of: bool, complex128"):
        tensors.wire_dtype(np.dtype(dtype))
