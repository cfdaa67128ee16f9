"""What one caller can make a loader spend is bounded: bytes of a request, keys in a window, streams."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

import feedline
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderBusy, read_failure

WINDOW = 1024
"""What a loader says in its limits."""


def failure_of(error: grpc.RpcError) -> FeedlineError:
    """The error that a failed call brought along."""
    call: Any = error
    (wire,) = [value for name, value in call.trailing_metadata() if name == rpc.FAILURE_METADATA]
    return read_failure(wire)


def request(*tickets: int, **key: Any) -> bytes:
    """A request for the same key under each ticket."""
    wants = [pb.Want(ticket=ticket, key=pb.Key(**key)) for ticket in tickets]
    return pb.FetchRequest(protocol=PROTOCOL, wants=wants).SerializeToString()


def is_well(caller: Any) -> bool:
    """It answers, and what was lent came back."""
    return bool(caller.describe().replica) and caller.status().counters["arena_lent"] == 0


def test_the_window_that_is_described_is_the_one_that_is_kept(open_loader: Any, raw: Callable[..., Any]) -> None:
    with raw(open_loader.address) as caller:
        assert caller.describe().limits.max_window == WINDOW


@pytest.mark.parametrize("method", [rpc.DESCRIBE, rpc.STATUS])
def test_a_request_of_more_than_a_mebibyte_is_refused(open_loader: Any, raw: Callable[..., Any], method: str) -> None:
    with raw(open_loader.address) as caller:
        with pytest.raises(grpc.RpcError) as refused:
            caller.call(method, bytes((1 << 20) + 1))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert is_well(caller)


def test_a_stream_with_a_request_of_more_than_a_mebibyte_is_ended(open_loader: Any, raw: Callable[..., Any]) -> None:
    with raw(open_loader.address) as caller:
        with pytest.raises(grpc.RpcError) as refused:
            list(caller.fetch(request(), bytes((1 << 20) + 1)))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert is_well(caller)


def test_a_request_with_more_keys_than_a_window_has_ends_its_stream(open_loader: Any, raw: Callable[..., Any]) -> None:
    """As many as a mebibyte holds would each become a refusal, which is a hundred times as large."""
    with raw(open_loader.address) as caller:
        with pytest.raises(grpc.RpcError) as refused:
            list(caller.fetch(request(*range(WINDOW + 1))))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(failure_of(refused.value)) == "1025 keys wanted in one message; a stream may have 1024 unanswered"
        assert is_well(caller)


def test_a_whole_window_of_keys_under_the_longest_names_fits_into_one_request(
    open_loader: Any, raw: Callable[..., Any]
) -> None:
    names = {"dataset": "d" * 255, "view": "v" * 200, "fingerprint": bytes(16), "order": "shuffle"}
    names |= {"seed": 2**64 - 1, "epoch": 2**64 - 1, "offset": 2**64 - 1, "rows": 2**32 - 1}
    with raw(open_loader.address) as caller:
        wires = list(caller.fetch(request(*range(2**64 - WINDOW, 2**64), **names)))

    pieces = [piece for wire in wires for piece in frames.decode(wire).pieces]
    assert len(pieces) == WINDOW
    assert all(type(read_failure(piece.failure)) is InvalidRequest for piece in pieces)


@pytest.mark.parametrize("name", ["dataset", "view", "order"])
def test_a_refusal_does_not_carry_a_long_name_back(open_loader: Any, raw: Callable[..., Any], name: str) -> None:
    with raw(open_loader.address) as caller:
        (digits, _) = caller.describe().datasets
        key = {"dataset": "digits", "fingerprint": digits.fingerprint, "view": "train", "order": "shuffle", "rows": 1}
        (wire,) = caller.fetch(request(1, **(key | {name: "n" * 100_000})))

    assert len(wire) < 1000
    assert "(100000 characters)" in str(read_failure(frames.decode(wire).pieces[0].failure))


def test_requests_that_are_none_are_refused_as_such(open_loader: Any, raw: Callable[..., Any]) -> None:
    with raw(open_loader.address) as caller:
        for call in (
            lambda: caller.call(rpc.DESCRIBE, b"\xff\xff"),
            lambda: caller.call(rpc.STATUS, b"\xff\xff"),
            lambda: list(caller.fetch(b"\xff\xff")),
            lambda: list(caller.fetch(request(), b"\xff\xff")),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "2 bytes came that are no " in str(failure_of(refused.value))


# ---- streams ----


def silent_stream(caller: Any) -> Any:
    """A Fetch call that never says a word."""
    return caller.channel.stream_stream(rpc.FETCH)(iter(SimpleQueue().get, None), metadata=caller.metadata)


def test_a_stream_that_says_nothing_is_one_of_those_that_are_counted(
    two_datasets: Path, start_loader: Callable[..., Any], raw: Callable[..., Any]
) -> None:
    """Else anybody could hold every thread of a loader without being seen."""
    loader = start_loader(two_datasets, "--workers", "1", "--max-trainers", "1")
    with raw(loader.address) as caller:
        silent = silent_stream(caller)
        while not caller.status().trainers:
            pass
        with pytest.raises(grpc.RpcError) as refused:
            list(caller.fetch(request()))
        silent.cancel()
        while caller.status().trainers:
            pass

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert type(failure_of(refused.value)) is LoaderBusy
        assert list(caller.fetch(request())) == []


def test_one_client_has_no_more_streams_than_it_may_and_others_have_theirs(
    two_datasets: Path, token_loader: Any, tokens: dict[str, str], start_loader: Callable[..., Any], raw: Any
) -> None:
    loader = start_loader(
        two_datasets, "--workers", "1", "--tokens", str(token_loader.tokens), "--max-streams-per-client", "1"
    )
    with raw(loader.address, tokens["alice"]) as alice:
        silent = silent_stream(alice)
        while not alice.status().trainers:
            pass
        with pytest.raises(grpc.RpcError) as refused:
            list(alice.fetch(request()))
        with feedline.connect(loader.address, token=tokens["bob"]) as bob:
            assert len(list(bob.epoch(batch_size=1))) == 7
        silent.cancel()

    busy = failure_of(refused.value)
    assert type(busy) is LoaderBusy
    assert str(busy) == (
        "this loader serves 1 streams of alice and takes no more (max_streams_per_client = 1); "
        "close some, add a replica or raise max_streams_per_client"
    )


def test_without_tokens_a_client_is_its_host(
    two_datasets: Path, start_loader: Callable[..., Any], raw: Callable[..., Any]
) -> None:
    loader = start_loader(two_datasets, "--workers", "1", "--max-streams-per-client", "1")
    with raw(loader.address) as one, raw(loader.address) as other:
        silent = silent_stream(one)
        while not one.status().trainers:
            pass
        with pytest.raises(grpc.RpcError) as refused:
            list(other.fetch(request()))
        silent.cancel()

    assert "serves 1 streams of 127.0.0.1 and takes no more" in str(failure_of(refused.value))
