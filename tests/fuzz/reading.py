"""What a trainer does with a message from a loader, and what must be true of it whatever the message is.

A message is a batch of the form that was described, or a typed refusal. Where protobuf's own reader sees a frame, the
hand-written one sees the same.
"""

import contextlib
import socket
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError

from feedline.connection.buffers import Buffers, Receiver
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.lanes.lane import Body, Incoming
from feedline.connection.lanes.sealed import SealedIncoming, SealedLane
from feedline_wire import checksum, compression, frames, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged, FeedlineError, ProtocolMismatch, read_failure
from feedline_wire.key import Key
from feedline_wire.lane import HEAD, SEALED_HEAD
from feedline_wire.sealing import TAG_NBYTES, Opener, Sealer
from feedline_wire.tensors import Array

COLUMNS = (
    tensors.Column("x", np.dtype("<f4"), (2, -1)),
    tensors.Column("y", np.dtype("<i8"), ()),
)
IDS = tensors.Column("__ids__", np.dtype("<i8"), ())
DATASET = DatasetInfo("numbers", b"f" * 16, 100, COLUMNS, ("x", "y"), {"train": 100}, ("shuffle",))
DESCRIPTION = Description("1", "r", {"numbers": DATASET}, max_batch_nbytes=1 << 16, max_window=1024)
KEY = Key("numbers", b"f" * 16, "train", "shuffle", 0, 0, 0, rows=3)
ROWS = 3


def read(wire: bytes) -> None:
    """Everything a trainer does with one message of a stream."""
    try:
        frame = frames.decode(wire)
    except (ProtocolMismatch, Damaged):
        return
    compare(frame, wire)
    receiver = Receiver(DESCRIPTION, Buffers(0), may_be_compressed=True)
    for piece in frame.pieces:
        if piece.failure is not None:
            assert isinstance(read_failure(piece.failure), FeedlineError)
            continue
        with contextlib.suppress(ProtocolMismatch):
            received = receiver.take(piece, KEY)
            if received is not None:
                arrays = received.arrays()
                assert set(arrays) == {"x", "y", "__ids__"}
                assert all(len(array) == ROWS for array in arrays.values())
                assert received.body.nbytes == received.layout.nbytes <= DESCRIPTION.max_batch_nbytes


def compare(frame: frames.Frame, wire: bytes) -> None:
    """The same as protobuf's own reader sees, where a field that may come once does not come twice."""
    try:
        known = pb.Frame.FromString(wire)
    except DecodeError:  # it looks into headers and failures, which are looked into later here
        return
    if known.SerializeToString() != wire:
        return
    assert frame.draining == known.draining
    assert len(frame.pieces) == len(known.pieces)
    for mine, theirs in zip(frame.pieces, known.pieces, strict=True):
        assert (mine.ticket, mine.start, bytes(mine.data)) == (theirs.ticket, theirs.start, theirs.data)
        assert mine.compressed == b"".join(map(frames.varint, theirs.compressed))
        assert (mine.header is not None) == theirs.HasField("header")
        assert mine.header is None or pb.BatchHeader.FromString(mine.header) == theirs.header
        assert (mine.failure is not None) == theirs.HasField("failure")
        assert mine.failure is None or pb.Failure.FromString(mine.failure) == theirs.failure


class Connection:
    """What a socket would bring, as far as it is asked."""

    def __init__(self, wire: bytes) -> None:
        self._left = memoryview(wire)

    def recv_into(self, into: memoryview, nbytes: int = 0, _flags: int = 0) -> int:
        """See socket."""
        count = min(len(self._left), nbytes or len(into))
        into[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def setsockopt(self, *_: int) -> None:
        """See socket."""


def sealed_answers(answers: list[bytes]) -> tuple[bytes, bytes]:
    """Answers (two bytes that say how long the head is, head, body) as a loader would seal them; and the key."""
    sealer = Sealer(b"sixteen bytes...")
    wire = b""
    for answer in answers:
        length = int.from_bytes(answer[:2], "little")
        head, body = answer[2 : 2 + length], answer[2 + length :]
        wire += SEALED_HEAD.pack(len(head))
        for piece in (head, body) if body else (head,):
            into = bytearray(len(piece) + TAG_NBYTES)
            sealer.seal(memoryview(piece), memoryview(into))
            wire += into
    return wire, sealer.key


def read_sealed(wire: bytes, key: bytes) -> list[bytes]:
    """Everything a trainer does with what comes on a sealed lane: the bodies of the batches that it hands out."""
    receiver = Receiver(DESCRIPTION, Buffers(0), may_be_compressed=True)
    found: list[bytes] = []

    def take(piece: frames.Piece, incoming: Body, nbytes: int, placed: Array | None) -> None:
        assert placed is None
        if piece.ticket % 2:  # not wanted any more
            incoming.skip(nbytes)
        elif piece.failure is not None:
            assert isinstance(read_failure(piece.failure), FeedlineError)
        else:
            received = receiver.whole(piece, nbytes, KEY, incoming.read_into)
            assert set(received.arrays()) == {"x", "y", "__ids__"}
            found.append(received.body.tobytes())

    lane = SealedLane("h", "1", b"", memory_nbytes=0, take=take, unreachable=_nothing, ended=_nothing)
    incoming = SealedIncoming(Incoming(cast(socket.socket, Connection(wire))), Opener(b"sixteen bytes...", key))
    with contextlib.suppress(EOFError, FeedlineError, ValueError):  # as the lane's own reader, which then ends it
        while lane._read_one(incoming):
            pass
    return found


def _nothing(_: object) -> None: ...


def read_lane(wire: bytes) -> None:
    """What a loader that means harm seals, and the same with every byte in doubt."""
    sealed, key = sealed_answers([wire])
    right = read_sealed(sealed, key)
    assert len(right) <= 1
    changed = bytearray(sealed)
    if changed:
        changed[len(wire) * 7 % len(changed)] ^= 1 << len(wire) % 8
        assert read_sealed(bytes(changed), key) == []


def lane_seeds() -> list[bytes]:
    """Answers as loaders seal them, to begin with."""
    layout = tensors.lay_out(
        [("x", np.dtype("<f4"), (ROWS, 2, 5)), ("y", np.dtype("<i8"), (ROWS,)), ("__ids__", np.dtype("<i8"), (ROWS,))]
    )
    header = tensors.to_header(layout).SerializeToString()
    body = (bytes(range(256)) * 4)[: layout.nbytes]
    failure = pb.Failure(kind="BadSample", message="sample 7", samples=[7], elsewhere=True)
    whole = frames.encode_head(frames.Piece(2, 0, b"", header=header))
    refusal = frames.encode_head(frames.failure_piece(2, failure))
    unwanted = frames.encode_head(frames.Piece(3, 0, b"", header=header))
    seeds = []
    for about, following in ((whole, body), (refusal, b""), (unwanted, body)):
        head = HEAD.pack(len(about), len(following)) + about
        seeds.append(len(head).to_bytes(2, "little") + head + following)
    return seeds


def _compressed_seeds() -> list[bytes]:
    """The same with a batch that is compressed."""
    layout = tensors.lay_out(
        [("x", np.dtype("<f4"), (ROWS, 2, 300)), ("y", np.dtype("<i8"), (ROWS,)), ("__ids__", np.dtype("<i8"), (ROWS,))]
    )
    header = tensors.to_header(layout).SerializeToString()
    body = np.arange(layout.nbytes // 4, dtype="<i4").view(np.uint8)
    frames_of = []
    for method in compression.METHODS:
        parts = [bytes(compression.compress(body[a:b], 4, method)) for _, a, b in compression.chunks(layout)]
        lengths, source = compression.write_lengths(map(len, parts)), memoryview(b"".join(parts))
        for nbytes in (frames.FRAME_BYTES, 100):
            frames_of.append(frames.encode(tuple(frames.cut(4, header, source, nbytes, compressed=lengths))))
    return frames_of


def seeds() -> list[bytes]:
    """Frames as loaders send them, to begin with."""
    layout = tensors.lay_out(
        [("x", np.dtype("<f4"), (ROWS, 2, 5)), ("y", np.dtype("<i8"), (ROWS,)), ("__ids__", np.dtype("<i8"), (ROWS,))]
    )
    header = tensors.to_header(layout).SerializeToString()
    body = memoryview(bytes(range(256)) * 4)[: layout.nbytes]
    whole = tuple(frames.cut(1, header, body))
    halves = tuple(frames.cut(300, header, body, frame_bytes=100))
    failure = frames.failure_piece(2, pb.Failure(kind="BadSample", message="sample 7", samples=[7], elsewhere=True))
    return [
        *(_compressed_seeds() if compression.is_installed() else []),
        frames.encode(whole),
        frames.encode(halves),
        frames.encode((failure, *whole)),
        frames.encode((failure,), draining=True),
        frames.encode(whole, checksum=True),
        frames.encode(()),
        checksum.field(()),
    ]
