"""A key arrives as it was asked."""

from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import key as keys
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key

uint64 = st.integers(0, 2**64 - 1)


@given(
    st.builds(
        Key,
        dataset=st.text(),
        fingerprint=st.binary(),
        view=st.text(),
        order=st.text(),
        seed=uint64,
        epoch=uint64,
        offset=uint64,
        rows=st.integers(0, 2**32 - 1),
    )
)
def test_a_key_survives_the_wire(asked: Key) -> None:
    wire = keys.to_message(asked).SerializeToString()

    assert keys.from_message(pb.Key.FromString(wire)) == asked


def test_a_key_reads_as_what_was_asked() -> None:
    asked = Key("voxels", b"\x01", "train", "shuffle", seed=3, epoch=2, offset=64, rows=32)

    assert str(asked) == "voxels/train shuffle seed=3 epoch=2 positions 64..95"
