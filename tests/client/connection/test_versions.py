"""Trainers of this release and loaders of others: those next to it work together, others are refused by name."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

import feedline
from feedline.connection.description import from_message
from feedline.testing import serve
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import ProtocolMismatch, to_failure

X = np.arange(40)

ADDITION = bytes((99 << 3 & 0x7F | 0x82, 99 >> 4, 5)) + b"later"
"""A field that this release does not know."""


@pytest.mark.parametrize(
    "says",
    [
        {"protocol": PROTOCOL + 1, "oldest_protocol": PROTOCOL},
        {"protocol": PROTOCOL, "oldest_protocol": PROTOCOL - 1},
        {"protocol": 2**32 - 1, "oldest_protocol": 1},
        {"features": ["checksum", "thought reading"]},
        {"features": []},
    ],
    ids=["the next", "the one before", "any", "more features", "no features"],
)
def test_a_loader_whose_range_reaches_this_version_is_trained_from(says: dict[str, Any]) -> None:
    with serve({"x": X}, **says) as loader, feedline.connect(loader.address) as connected:
        assert Counter(int(x) for batch in connected.epoch(0, batch_size=7) for x in batch["x"]) == Counter(range(40))


@pytest.mark.parametrize(
    ("oldest", "newest", "words"),
    [
        (PROTOCOL + 1, PROTOCOL + 2, "speaks versions 4 to 5 .* version 3: update feedline in the trainer"),
        (1, PROTOCOL - 1, "speaks versions 1 to 2 .* version 3: update feedline in the loader"),
        (PROTOCOL + 1, PROTOCOL, "versions 4 to 3 of feedline's protocol, which is no range"),
        (0, 0, "versions 0 to 0 of feedline's protocol, which is no range"),
    ],
    ids=["newer", "older", "nonsense", "none"],
)
def test_a_loader_of_other_versions_is_refused_with_both_and_the_side_to_update(
    oldest: int, newest: int, words: str
) -> None:
    with (
        serve({"x": X}, protocol=newest, oldest_protocol=oldest) as loader,
        pytest.raises(ProtocolMismatch, match=words),
    ):
        feedline.connect(loader.address, timeout_s=600)


def test_checksums_are_refused_by_name_where_the_loader_has_none() -> None:
    with (
        serve({"x": X}, features=()) as loader,
        pytest.raises(ProtocolMismatch, match="has no checksums; update it, or connect without checksum=True"),
    ):
        feedline.connect(loader.address, timeout_s=600, checksum=True)


# ---- the first release ----


@contextmanager
def first_release() -> Iterator[str]:
    """A loader of feedline 0.1, which refuses every trainer that does not say `protocol = 2`."""

    def describe(request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Description:
        assert request.protocol != 2, "this release does not pretend to be the first"
        refusal = ProtocolMismatch(
            f"the trainer speaks version {request.protocol} of feedline's protocol, this loader (feedline 0.1.0) "
            "version 2; install the same feedline on both sides"
        )
        context.set_trailing_metadata(((rpc.FAILURE_METADATA, to_failure(refusal).SerializeToString()),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refusal))
        raise AssertionError

    handler = grpc.unary_unary_rpc_method_handler(
        describe, pb.DescribeRequest.FromString, pb.Description.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.SERVICE, {"Describe": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_loader_of_the_first_release_is_refused_by_name() -> None:
    with first_release() as address, pytest.raises(ProtocolMismatch) as mismatch:
        feedline.connect(address, timeout_s=600)

    assert str(mismatch.value).startswith(f"the loader at {address} (feedline 0.1) speaks version 2 of feedline's")
    assert str(mismatch.value).endswith("speaks version 3: update feedline in the loader")


# ---- additions of later releases ----


def test_fields_that_this_release_does_not_know_are_passed_over_in_a_description() -> None:
    with serve({"x": X}) as fake, grpc.insecure_channel(fake.address) as channel:
        wire = channel.unary_unary(rpc.DESCRIBE)(pb.DescribeRequest(protocol=PROTOCOL).SerializeToString(), timeout=30)

    later = pb.Description.FromString(wire + ADDITION)

    assert from_message(later, "a:1") == from_message(pb.Description.FromString(wire), "a:1")


def test_fields_that_this_release_does_not_know_are_passed_over_in_a_frame() -> None:
    piece = pb.Piece(ticket=7, data=b"body").SerializeToString() + ADDITION
    frame = bytes((1 << 3 | 2, len(piece))) + piece + ADDITION

    assert frames.decode(frame) == frames.decode(
        pb.Frame(pieces=[pb.Piece(ticket=7, data=b"body")]).SerializeToString()
    )
