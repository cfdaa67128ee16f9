"""What a trainer does with a message from a loader, and what must be true of it whatever the message is.

A message is a batch of the form that was described, or a typed refusal. Where protobuf's own reader sees a frame, the
hand-written one sees the same.
"""

import contextlib

import numpy as np
from google.protobuf.message import DecodeError

from feedline.connection.buffers import Buffers, Receiver
from feedline.connection.description import DatasetInfo, Description
from feedline_wire import checksum, frames, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged, FeedlineError, ProtocolMismatch, read_failure
from feedline_wire.key import Key

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
    receiver = Receiver(DESCRIPTION, Buffers(0))
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
        assert (mine.header is not None) == theirs.HasField("header")
        assert mine.header is None or pb.BatchHeader.FromString(mine.header) == theirs.header
        assert (mine.failure is not None) == theirs.HasField("failure")
        assert mine.failure is None or pb.Failure.FromString(mine.failure) == theirs.failure


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
        frames.encode(whole),
        frames.encode(halves),
        frames.encode((failure, *whole)),
        frames.encode((failure,), draining=True),
        frames.encode(whole, checksum=True),
        frames.encode(()),
        checksum.seal(()),
    ]
