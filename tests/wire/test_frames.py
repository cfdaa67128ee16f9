"""Frames written by hand are the frames of loader.proto, and whatever arrives is a frame or a ProtocolMismatch."""

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import frames
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.frames import Frame, Piece

MAX_UINT64 = 2**64 - 1

HEADER = pb.BatchHeader(nbytes=5, arrays=[pb.Array(name="x", dtype="uint8", shape=[5], offset=0)])
FAILURE = pb.Failure(kind="BadSample", message="sample 7 is no image", samples=[7], elsewhere=False)

uint64 = st.integers(0, MAX_UINT64)
headers = st.builds(
    pb.BatchHeader,
    nbytes=uint64,
    arrays=st.lists(st.builds(pb.Array, name=st.text(), shape=st.lists(uint64)), max_size=3),
)
failures = st.builds(pb.Failure, kind=st.text(), message=st.text(), samples=st.lists(uint64), elsewhere=st.booleans())
pieces = st.builds(
    Piece,
    ticket=uint64,
    start=uint64,
    data=st.binary(max_size=300),
    header=st.none() | headers.map(pb.BatchHeader.SerializeToString),
    failure=st.none() | failures.map(pb.Failure.SerializeToString),
)


def as_message(piece: Piece) -> pb.Piece:
    """The piece as the generated class has it, for comparison."""
    return pb.Piece(
        ticket=piece.ticket,
        start=piece.start,
        data=bytes(piece.data),
        header=None if piece.header is None else pb.BatchHeader.FromString(piece.header),
        failure=None if piece.failure is None else pb.Failure.FromString(piece.failure),
    )


# ---- compatible with the contract, both ways ----


def test_a_frame_written_by_hand_has_exactly_these_bytes() -> None:
    wire = frames.encode((Piece(ticket=300, start=5, data=b"abc", header=b"\x08\x05"),), draining=True)

    assert wire == (
        b"\x0a\x0e"  # field 1, pieces: 14 bytes
        b"\x08\xac\x02"  # field 1, ticket: 300
        b"\x12\x02\x08\x05"  # field 2, header: nbytes = 5
        b"\x18\x05"  # field 3, start: 5
        b"\x7a\x03abc"  # field 15, data
        b"\x10\x01"  # field 2, draining
    )


@given(st.lists(pieces, max_size=4), st.booleans())
def test_the_generated_class_reads_what_was_written_by_hand(sent: list[Piece], draining: bool) -> None:
    wire = frames.encode(tuple(sent), draining=draining)

    assert pb.Frame.FromString(wire) == pb.Frame(pieces=map(as_message, sent), draining=draining)


@given(st.lists(pieces, max_size=4), st.booleans())
def test_what_the_generated_class_wrote_is_read_by_hand(sent: list[Piece], draining: bool) -> None:
    wire = pb.Frame(pieces=map(as_message, sent), draining=draining).SerializeToString()

    received = frames.decode(wire)

    assert received.draining is draining
    assert [as_message(piece) for piece in received.pieces] == [as_message(piece) for piece in sent]


@given(st.lists(pieces, max_size=4), st.booleans())
def test_what_was_written_by_hand_is_read_by_hand(sent: list[Piece], draining: bool) -> None:
    assert frames.decode(frames.encode(tuple(sent), draining=draining)) == Frame(tuple(sent), draining)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_length_on_either_side_of_a_varints_width_survives(size: int) -> None:
    wire = frames.encode((Piece(1, 0, bytes(size)),))

    assert pb.Frame.FromString(wire).pieces[0].data == bytes(size)
    assert frames.decode(wire).pieces[0].data == bytes(size)


@pytest.mark.parametrize("ticket", [0, 127, 128, 16_383, 16_384, 2**32, 2**63, MAX_UINT64])
def test_a_ticket_on_either_side_of_a_varints_width_survives(ticket: int) -> None:
    wire = frames.encode((Piece(ticket, 0, b""),))

    assert pb.Frame.FromString(wire).pieces[0].ticket == ticket
    assert frames.decode(wire).pieces[0].ticket == ticket


def test_a_failure_arrives_as_itself() -> None:
    wire = frames.encode((frames.failure_piece(7, FAILURE),))

    assert pb.Frame.FromString(wire) == pb.Frame(pieces=[pb.Piece(ticket=7, failure=FAILURE)])
    (piece,) = frames.decode(wire).pieces
    assert (piece.ticket, piece.header, piece.failure) == (7, None, FAILURE.SerializeToString())


def test_a_piece_without_header_is_not_one_with_an_empty_header() -> None:
    """An empty batch's header may well be empty bytes; taking it for none would make the batch's start go missing."""
    bare, headed = frames.decode(frames.encode((Piece(1, 0, b""), Piece(2, 0, b"", header=b"")))).pieces

    assert bare.header is None
    assert headed.header == b""


def test_the_data_of_a_frame_that_arrived_is_not_copied() -> None:
    wire = frames.encode((Piece(1, 0, b"abc"),))

    data = frames.decode(wire).pieces[0].data

    assert isinstance(data, memoryview)
    assert data.obj is wire


# ---- what is not a frame, or one of a later version ----


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(b"\x98\x06\x96\x01", id="varint"),  # field 99
        pytest.param(b"\x99\x06" + bytes(8), id="64 bits"),
        pytest.param(b"\x9a\x06\x03new", id="bytes"),
        pytest.param(b"\x9d\x06" + bytes(4), id="32 bits"),
    ],
)
def test_fields_of_a_later_version_are_passed_over(unknown: bytes) -> None:
    piece = b"\x08\x05" + unknown + b"\x7a\x01d"
    wire = unknown + b"\x0a" + bytes([len(piece)]) + piece + unknown + b"\x10\x01"

    assert pb.Frame.FromString(wire).pieces[0].ticket == 5  # protobuf's own opinion
    assert frames.decode(wire) == Frame((Piece(5, 0, b"d"),), draining=True)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00", id="field number zero"),
        pytest.param(b"\x0b", id="a group"),
        pytest.param(b"\x0e", id="wire type six"),
        pytest.param(b"\x0a", id="a tag and no length"),
        pytest.param(b"\x0a\x05abc", id="a length past the end"),
        pytest.param(b"\x10\x80", id="an unfinished number"),
        pytest.param(b"\x10" + b"\xff" * 10 + b"\x01", id="a number of eleven bytes"),
        pytest.param(b"\x09\x00\x00", id="half of 64 bits"),
        pytest.param(b"\x0a\x02\x08\x80\x01", id="a number that leaves its piece"),
        pytest.param(b"\x0a\x03\x7a\x02d\x10\x01", id="data that leave their piece"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a length of nearly 2^64"),
    ],
)
def test_what_is_no_frame_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolMismatch):
        frames.decode(garbage)


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_or_refused_but_nothing_else_happens(garbage: bytes) -> None:
    try:
        frames.decode(garbage)
    except ProtocolMismatch:
        return


@given(st.binary(max_size=40))
def test_garbage_that_protobuf_reads_is_read_the_same(garbage: bytes) -> None:
    """Groups aside, which a frame never had: protobuf skips unknown ones, this side refuses them."""
    try:
        expected = pb.Frame.FromString(garbage)
        received = frames.decode(garbage)
    except (DecodeError, ProtocolMismatch):
        return

    assert received.draining == expected.draining
    assert [piece.ticket for piece in received.pieces] == [piece.ticket for piece in expected.pieces]
    assert [bytes(piece.data) for piece in received.pieces] == [piece.data for piece in expected.pieces]


@given(st.lists(pieces, min_size=1, max_size=3), st.data())
def test_a_frame_cut_short_is_refused_or_shorter(sent: list[Piece], draw: st.DataObject) -> None:
    wire = frames.encode(tuple(sent))
    end = draw.draw(st.integers(0, len(wire) - 1))

    try:
        received = frames.decode(wire[:end])
    except ProtocolMismatch:
        return

    assert received.pieces == tuple(sent[: len(received.pieces)])
    assert len(received.pieces) < len(sent)


@given(st.lists(pieces, min_size=1, max_size=3), st.data())
def test_a_frame_with_a_wrong_byte_is_read_or_refused_but_nothing_else_happens(
    sent: list[Piece], draw: st.DataObject
) -> None:
    wire = bytearray(frames.encode(tuple(sent)))
    wire[draw.draw(st.integers(0, len(wire) - 1))] = draw.draw(st.integers(0, 255))

    try:
        frames.decode(bytes(wire))
    except ProtocolMismatch:
        return


# ---- cutting a batch ----


@given(st.binary(max_size=2_000), st.integers(1, 700))
def test_the_pieces_of_a_batch_cover_its_body_once_in_order(body: bytes, frame_bytes: int) -> None:
    cut = list(frames.cut(9, b"header", memoryview(body), frame_bytes))

    end = 0
    for piece in cut:
        assert piece.ticket == 9
        assert piece.start == end
        assert len(piece.data) <= frame_bytes
        end += len(piece.data)
    assert b"".join(piece.data for piece in cut) == body
    assert [piece.header for piece in cut] == [b"header"] + [None] * (len(cut) - 1)


@pytest.mark.parametrize(
    ("nbytes", "starts"),
    [(0, [0]), (1, [0]), (9, [0]), (10, [0]), (11, [0, 6]), (20, [0, 10]), (25, [0, 9, 18])],
)
def test_a_batch_is_cut_into_as_few_pieces_as_fit_and_evenly(nbytes: int, starts: list[int]) -> None:
    cut = frames.cut(1, b"", memoryview(bytes(nbytes)), frame_bytes=10)

    assert [piece.start for piece in cut] == starts


def test_cutting_a_batch_copies_nothing() -> None:
    body = bytearray(b"before")

    first, second = frames.cut(1, b"", memoryview(body), frame_bytes=3)
    body[:] = b"after!"

    assert (bytes(first.data), bytes(second.data)) == (b"aft", b"er!")


# ---- lanes ----


def test_a_lane_ticket_comes_in_a_frame_of_the_generated_class() -> None:
    wire = pb.Frame(lane_ticket=b"0123456789abcdef", draining=True).SerializeToString()

    assert frames.decode(wire) == frames.Frame((), draining=True, lane_ticket=b"0123456789abcdef")


def test_a_piece_sent_ahead_of_its_body_is_a_piece_of_the_generated_class_and_reads_back() -> None:
    header = pb.BatchHeader(nbytes=7).SerializeToString()
    piece = frames.Piece(300, 0, b"", header=header)

    wire = frames.encode_head(piece)

    assert pb.Piece.FromString(wire) == pb.Piece(ticket=300, header=pb.BatchHeader(nbytes=7))
    assert frames.decode_head(wire) == piece


@given(st.binary(max_size=200))
def test_any_bytes_sent_ahead_are_a_piece_or_a_protocol_mismatch(wire: bytes) -> None:
    with contextlib.suppress(ProtocolMismatch):
        assert isinstance(frames.decode_head(wire), frames.Piece)
