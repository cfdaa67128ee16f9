"""Frames written and read by hand, byte-compatible with `Frame` and `Piece` of loader.proto.

A protobuf message with a `bytes` body encodes at 0.4-0.8 GB/s from Python; the same bytes written by hand (tag, length, memoryview
joined once) at 14-30 GB/s, and a hand parse is free (docs/design.md). Only what carries bulk bytes is done by hand: headers and
failures are small and go through the generated classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import ProtocolMismatch

FRAME_BYTES = 2 << 20
"""Bulk bytes in one frame. 1-4 MiB ran fastest, one 64 MiB message at half the speed (docs/design.md)."""

Buffer = bytes | bytearray | memoryview

# A protobuf tag is field number << 3 | wire type; 0 is a varint, 2 a length-delimited field.
_FRAME_PIECES = 1 << 3 | 2
_FRAME_DRAINING = 2 << 3 | 0
_PIECE_TICKET = 1 << 3 | 0
_PIECE_HEADER = 2 << 3 | 2
_PIECE_START = 3 << 3 | 0
_PIECE_FAILURE = 4 << 3 | 2
_PIECE_DATA = 15 << 3 | 2

_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one batch: `data` belongs at byte `start` of its body; `header` comes with the first part."""

    ticket: int
    start: int
    data: Buffer
    header: bytes | None = None
    """A serialised BatchHeader."""
    failure: bytes | None = None
    """A serialised Failure, instead of a batch."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a `Fetch` stream, read."""

    pieces: tuple[Piece, ...]
    draining: bool = False


def cut(ticket: int, header: bytes, body: memoryview, frame_bytes: int = FRAME_BYTES) -> Iterator[Piece]:
    """The pieces of a batch, in order, each small enough for a frame; an empty body makes one piece."""
    for start in range(0, max(len(body), 1), frame_bytes):
        yield Piece(ticket, start, body[start : start + frame_bytes], header=header if start == 0 else None)


def encode(pieces: tuple[Piece, ...], *, draining: bool = False) -> bytes:
    """The frame's wire bytes: the bulk bytes are copied once, by the join."""
    parts: list[Buffer] = []
    for piece in pieces:
        prefix = _prefix(piece)
        parts += (bytes([_FRAME_PIECES]) + _varint(len(prefix) + len(piece.data)) + prefix, piece.data)
    if draining:
        parts.append(bytes([_FRAME_DRAINING, 1]))
    return b"".join(parts)


def decode(wire: bytes) -> Frame:
    """The frame that arrived; the pieces' data are views of `wire`. ProtocolMismatch if it is not a frame."""
    view = memoryview(wire)
    pieces = []
    draining = False
    for tag, value in _fields(view):
        if tag == _FRAME_PIECES and isinstance(value, memoryview):
            pieces.append(_piece(value))
        elif tag == _FRAME_DRAINING:
            draining = bool(value)
    return Frame(tuple(pieces), draining)


def failure_piece(ticket: int, failure: pb.Failure) -> Piece:
    """The piece that says why there is no batch."""
    return Piece(ticket, 0, b"", failure=failure.SerializeToString())


def _prefix(piece: Piece) -> bytes:
    """Everything of a piece before its data."""
    out = bytearray()
    out.append(_PIECE_TICKET)
    out += _varint(piece.ticket)
    if piece.header is not None:
        out.append(_PIECE_HEADER)
        out += _varint(len(piece.header))
        out += piece.header
    if piece.start:
        out.append(_PIECE_START)
        out += _varint(piece.start)
    if piece.failure is not None:
        out.append(_PIECE_FAILURE)
        out += _varint(len(piece.failure))
        out += piece.failure
    out.append(_PIECE_DATA)
    out += _varint(len(piece.data))
    return bytes(out)


def _piece(view: memoryview) -> Piece:
    ticket = start = 0
    header = failure = None
    data: Buffer = b""
    for tag, value in _fields(view):
        if isinstance(value, memoryview):
            if tag == _PIECE_DATA:
                data = value
            elif tag == _PIECE_HEADER:
                header = bytes(value)
            elif tag == _PIECE_FAILURE:
                failure = bytes(value)
        elif tag == _PIECE_TICKET:
            ticket = value
        elif tag == _PIECE_START:
            start = value
    return Piece(ticket, start, data, header, failure)


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The (tag, value) pairs of a message; fields this side does not know are passed on, as protobuf does."""
    at = 0
    end = len(view)
    while at < end:
        tag, at = _read_varint(view, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = _read_varint(view, at)
            yield tag, value
            continue
        if wire_type == 2:
            size, at = _read_varint(view, at)
        elif wire_type in {1, 5}:
            size = 8 if wire_type == 1 else 4
        else:
            raise ProtocolMismatch(f"a frame holds a field of wire type {wire_type} at byte {at}; it is not a frame")
        if at + size > end:
            raise ProtocolMismatch(f"a frame ends at byte {end}, in the middle of a field that ends at {at + size}")
        yield tag, view[at : at + size]
        at += size


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for _ in range(_MAX_VARINT_BYTES):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ProtocolMismatch(f"a frame holds an unfinished number at byte {at}; it is not a frame")
