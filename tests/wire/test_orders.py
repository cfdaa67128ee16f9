"""One order has one text, and a text that names none is answered with those there are."""

import pytest

from feedline_wire.errors import InvalidRequest
from feedline_wire.orders import Order, parse


@pytest.mark.parametrize(
    ("text", "order", "canonical"),
    [
        ("shuffle", Order("shuffle"), "shuffle"),
        ("sequential", Order("sequential"), "sequential"),
        ("replacement", Order("replacement"), "replacement"),
        ("stream", Order("stream"), "stream"),
        ("blocks", Order("blocks", 128, 256), "blocks:128x256"),
        ("blocks:64", Order("blocks", 64, 256), "blocks:64x256"),
        ("blocks:64x1", Order("blocks", 64, 1), "blocks:64x1"),
        ("blocks:064x08", Order("blocks", 64, 8), "blocks:64x8"),
        ("blocks:32:in-order", Order("blocks", 32, 0), "blocks:32:in-order"),
        ("buckets", Order("buckets", 32, 256), "buckets:32x256"),
        ("buckets:64", Order("buckets", 64, 256), "buckets:64x256"),
        ("buckets:64x8", Order("buckets", 64, 8), "buckets:64x8"),
    ],
)
def test_an_order_is_written_in_one_way(text: str, order: Order, canonical: str) -> None:
    assert parse(text) == order
    assert str(order) == canonical
    assert parse(canonical) == order


@pytest.mark.parametrize(
    "text",
    [
        "",
        "random",
        "Shuffle",
        "blocks:",
        "blocks:x8",
        "blocks:8x",
        "blocks:-1",
        "blocks:٣",
        "blocks:8 ",
        "buckets:8:in-order",
        "b" * 99,
    ],
)
def test_a_text_that_names_no_order_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidRequest, match="there is: shuffle, sequential, replacement, blocks, ") as refusal:
        parse(text)

    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("text", ["blocks:0", "blocks:0x4", "blocks:4x0", "blocks:0:in-order", "blocks:9999999999"])
def test_blocks_of_no_size_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"a block has 1\.\.1000000000 samples"):
        parse(text)


@pytest.mark.parametrize("text", ["buckets:0", "buckets:0x4", "buckets:4x0", "buckets:1024x1025"])
def test_buckets_that_cannot_be_sorted_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"sorted as a whole, has 1\.\.1048576 samples"):
        parse(text)
