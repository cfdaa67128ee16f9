"""A message that was changed on its way is never taken for the one that was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import checksum, frames
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged
from feedline_wire.frames import Piece

FRAME = frames.encode((Piece(300, 5, b"abc", header=b"\x08\x05"),), draining=True, checksum=True)


def test_a_frame_with_a_checksum_has_exactly_these_bytes() -> None:
    # The CRC-32 of the 18 bytes before it, as zlib, gzip, PNG and Ethernet have it.
    assert FRAME == (
        b"\x0a\x0e\x08\xac\x02\x12\x02\x08\x05\x18\x05\x7a\x03abc\x10\x01"  # as without
        b"\x7d"  # field 15, of four bytes
        b"\x75\x4c\xa7\x92"
    )
    assert pb.Frame.FromString(FRAME).crc == 0x92A74C75


def test_the_generated_class_writes_the_checksum_where_it_is_looked_for() -> None:
    """Any gRPC client can make one: serialise without it, and with it."""
    request = pb.FetchRequest(protocol=1, wants=[pb.Want(ticket=7)], cancelled=[3], checksum=True)
    request.crc = int.from_bytes(checksum.field((request.SerializeToString(),))[1:], "little")

    checksum.check(request.SerializeToString())


def test_a_frame_that_was_not_changed_is_read_as_without_a_checksum() -> None:
    checksum.check(FRAME)

    assert frames.decode(FRAME) == frames.decode(FRAME[:-5])


@pytest.mark.parametrize("bit", range(len(FRAME) * 8))
def test_a_single_bit_that_was_turned_is_noticed_wherever_it_is(bit: int) -> None:
    changed = bytearray(FRAME)
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Damaged, match="a message of 23 bytes arrived damaged"):
        checksum.check(bytes(changed))


@given(st.binary(max_size=200))
def test_bytes_without_a_checksum_are_damaged(wire: bytes) -> None:
    with pytest.raises(Damaged):
        checksum.check(wire)


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 22])
def test_a_frame_that_was_cut_short_is_damaged(cut: int) -> None:
    with pytest.raises(Damaged):
        checksum.check(FRAME[:-cut])
