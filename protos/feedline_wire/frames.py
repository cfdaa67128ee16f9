"""Frames written and read by hand, byte-compatible with `Frame` and `Piece` of loader.proto.

A protobuf message with a `bytes` body encodes at 0.4-0.8 GB/s from Python; the same bytes written by hand (tag, length,
memoryview joined once) at 14-30 GB/s, and a hand parse is free (docs/design.md). Headers and failures are small and go
through the generated classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from feedline_wire import loader_pb2 as pb
from feedline_wire.checksum import Buffer
from feedline_wire.checksum import field as checksum_field
from feedline_wire.errors import ProtocolMismatch

FRAME_BYTES = 2 << 20
"""Bulk bytes in one frame. 1-4 MiB ran fastest, one 64 MiB message at half the speed (docs/design.md)."""

# A protobuf tag is field number << 3 | wire type; 0 is a varint, 2 a length-delimited field.
_FRAME_PIECES = 1 << 3 | 2
_FRAME_LANE_TICKET = 4 << 3 | 2
_FRAME_DRAINING = 2 << 3 | 0
_PIECE_TICKET = 1 << 3 | 0
_PIECE_HEADER = 2 << 3 | 2
_PIECE_START = 3 << 3 | 0
_PIECE_FAILURE = 4 << 3 | 2
_PIECE_STAGES = 5 << 3 | 2
_PIECE_COMPRESSED = 6 << 3 | 2
_PIECE_DATA = 15 << 3 | 2

_FRAME_PIECES_TAG, _PIECE_TICKET_TAG, _PIECE_HEADER_TAG, _PIECE_START_TAG, _PIECE_FAILURE_TAG, _PIECE_DATA_TAG = (
    bytes((tag,)) for tag in (_FRAME_PIECES, _PIECE_TICKET, _PIECE_HEADER, _PIECE_START, _PIECE_FAILURE, _PIECE_DATA)
)
_PIECE_STAGES_TAG, _PIECE_COMPRESSED_TAG = (bytes((tag,)) for tag in (_PIECE_STAGES, _PIECE_COMPRESSED))

_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one batch: `data` belongs at byte `start` of its body; `header` comes with the first part.

    A memoryview given as `data` is one-dimensional and of bytes: its `len` is taken for its size.
    """

    ticket: int
    start: int
    data: Buffer
    header: bytes | None = None
    """A serialised BatchHeader."""
    failure: bytes | None = None
    """A serialised Failure, instead of a batch."""
    stages: bytes = b""
    """How long the batch was in each stage of the loader (`stages.pack`), with its first part."""
    compressed: bytes = b""
    """How many bytes stand for each of its chunks (`compression.write_lengths`), with its first part."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a `Fetch` stream, read."""

    pieces: tuple[Piece, ...]
    draining: bool = False
    lane_ticket: bytes = b""


def cut(
    ticket: int,
    header: bytes,
    body: memoryview,
    frame_bytes: int = FRAME_BYTES,
    *,
    stages: bytes = b"",
    compressed: bytes = b"",
) -> Iterator[Piece]:
    """The pieces of a batch, in order, each small enough for a frame; an empty body makes one piece.

    They are of one size: a batch a little larger than two frames does not end in a tiny third.
    """
    count = max(-(-len(body) // frame_bytes), 1)
    size = max(-(-len(body) // count), 1)
    for start in range(0, max(len(body), 1), size):
        data = body[start : start + size]
        if start:
            yield Piece(ticket, start, data)
        else:
            yield Piece(ticket, start, data, header, stages=stages, compressed=compressed)


def encode(pieces: tuple[Piece, ...], *, draining: bool = False, checksum: bool = False) -> bytes:
    """The frame's wire bytes: the bulk bytes are copied once, by the join."""
    parts: list[Buffer] = []
    for piece in pieces:
        head = encode_head(piece)
        parts += (_FRAME_PIECES_TAG, varint(len(head) + len(piece.data)), head, piece.data)
    if draining:
        parts.append(bytes([_FRAME_DRAINING, 1]))
    if checksum:
        parts.append(checksum_field(parts))
    return b"".join(parts)


def decode(wire: bytes) -> Frame:
    """The frame that arrived; the pieces' data are views of `wire`. ProtocolMismatch if it is not a frame."""
    pieces = []
    draining = False
    lane_ticket = b""
    at = 0
    end = len(wire)
    try:
        while at < end:
            tag, value, at = _field(wire, at, end)
            if tag == _FRAME_PIECES:
                pieces.append(decode_head(wire, value, at))
            elif tag == _FRAME_DRAINING:
                draining = value != 0
            elif tag == _FRAME_LANE_TICKET:
                lane_ticket = wire[value:at]
    except IndexError:
        raise ProtocolMismatch(f"a frame ends at byte {end}, in the middle of a field; it is not a frame") from None
    return Frame(tuple(pieces), draining, lane_ticket)


def encode_head(piece: Piece) -> bytes:
    """A piece without its data, as a lane sends it ahead of a batch's body and a frame has it before the data."""
    head = _PIECE_TICKET_TAG + varint(piece.ticket)
    if piece.header is not None:
        head += _PIECE_HEADER_TAG + varint(len(piece.header)) + piece.header
    if piece.start:
        head += _PIECE_START_TAG + varint(piece.start)
    if piece.failure is not None:
        head += _PIECE_FAILURE_TAG + varint(len(piece.failure)) + piece.failure
    if piece.stages:
        head += _PIECE_STAGES_TAG + varint(len(piece.stages)) + piece.stages
    if piece.compressed:
        head += _PIECE_COMPRESSED_TAG + varint(len(piece.compressed)) + piece.compressed
    return head + _PIECE_DATA_TAG + varint(len(piece.data))


def decode_head(wire: bytes, at: int = 0, end: int | None = None) -> Piece:
    """The piece from byte `at` to `end`, by default all bytes; its data is a view. ProtocolMismatch if it is none."""
    end = len(wire) if end is None else end
    ticket = start = 0
    header = failure = None
    stages = compressed = b""
    data: Buffer = b""
    try:
        while at < end:
            tag, value, at = _field(wire, at, end)
            if tag == _PIECE_DATA:
                data = memoryview(wire)[value:at]
            elif tag == _PIECE_TICKET:
                ticket = value
            elif tag == _PIECE_START:
                start = value
            elif tag == _PIECE_HEADER:
                header = wire[value:at]
            elif tag == _PIECE_FAILURE:
                failure = wire[value:at]
            elif tag == _PIECE_STAGES:
                stages = wire[value:at]
            elif tag == _PIECE_COMPRESSED:
                compressed = wire[value:at]
    except IndexError:
        raise ProtocolMismatch(f"a piece ends at byte {end}, in the middle of a field; it is none") from None
    return Piece(ticket, start, data, header, failure, stages, compressed)


def failure_piece(ticket: int, failure: pb.Failure) -> Piece:
    """The piece that says why there is no batch."""
    return Piece(ticket, 0, b"", failure=failure.SerializeToString())


def _field(wire: bytes, at: int, end: int) -> tuple[int, int, int]:
    """The field at `at` of a message that ends at `end`: its tag, its number or where its bytes begin, where it ends.

    Fields this side does not know come out like any other and are passed over, as protobuf does. Numbers below 128 take
    the short way: nearly all tags and lengths are.
    """
    tag = wire[at]
    at += 1
    if tag >= 0x80:
        tag, at = number(wire, at - 1)
    if tag < 8:
        raise ProtocolMismatch(f"a frame holds a field without a number before byte {at}; it is not a frame")
    wire_type = tag & 7
    if wire_type in {0, 2}:
        value = wire[at]
        at += 1
        if value >= 0x80:
            value, at = number(wire, at - 1)
        if wire_type == 2:
            value, at = at, at + value
    elif wire_type in {1, 5}:
        value, at = at, at + (8 if wire_type == 1 else 4)
    else:
        raise ProtocolMismatch(f"a frame holds a field of wire type {wire_type} before byte {at}; it is not a frame")
    if at > end:
        raise ProtocolMismatch(f"a message in a frame ends at byte {end}, in the middle of a field that ends at {at}")
    return tag, value, at


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(wire: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. ProtocolMismatch if it is too long, IndexError if it is cut."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        byte = wire[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ProtocolMismatch(
        f"a frame holds a number of more than {_MAX_VARINT_BYTES} bytes before byte {at}; it is not a frame"
    )
