"""A key arrives as it was asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import key as keys
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import Key, from_text, to_text

uint64 = st.integers(0, 2**64 - 1)


some = st.builds(
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


@given(some)
def test_a_key_survives_the_wire(asked: Key) -> None:
    wire = keys.to_message(asked).SerializeToString()

    assert keys.from_message(pb.Key.FromString(wire)) == asked


def test_a_key_reads_as_what_was_asked() -> None:
    asked = Key("voxels", b"\x01", "train", "shuffle", seed=3, epoch=2, offset=64, rows=32)

    assert str(asked) == "voxels/train shuffle seed=3 epoch=2 positions 64..95"


@given(some.filter(lambda key: key.dataset and key.rows))
def test_a_key_survives_as_a_word(asked: Key) -> None:
    text = to_text(asked)

    assert from_text(f" {text}\n") == asked
    assert text.isascii()
    assert not set(text) & set(" '\"$`\\&;|<>()*?[]{}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "d/train/shuffle/0/0/0/8",
        "d/train/shuffle/0/0/0/8/xyz",
        "d/train/shuffle/0/-1/0/8/0a",
        "/t/s/0/0/0/8/0a",
    ],
)
def test_what_is_no_key_is_an_error_that_shows_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match="such as digits/train/shuffle/7/3/7552/64/0a1b"):
        from_text(text)
