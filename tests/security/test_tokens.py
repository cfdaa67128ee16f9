"""Tokens: who is let in, what there is for them, and that a token is never seen where it does not belong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import feedline
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, InvalidRequest, NotAllowed, read_failure

LONG_S = 100.0
"""A refusal that is not told at once would end in LoaderUnavailable after this."""


def failure_of(error: grpc.RpcError) -> FeedlineError:
    """The error that a failed call brought along."""
    call: Any = error
    (wire,) = [value for name, value in call.trailing_metadata() if name == rpc.FAILURE_METADATA]
    return read_failure(wire)


def want(dataset: str, fingerprint: bytes) -> bytes:
    """A first request for one batch of a dataset."""
    key = pb.Key(dataset=dataset, fingerprint=fingerprint, view="train", order="sequential", rows=7)
    return pb.FetchRequest(protocol=PROTOCOL, wants=[pb.Want(ticket=1, key=key)]).SerializeToString()


# ---- who is let in ----


def test_a_trainer_with_a_token_reads_what_is_served(token_loader: Any, tokens: dict[str, str]) -> None:
    with feedline.connect(token_loader.address, token=tokens["alice"]) as loader:
        (batch,) = loader.epoch(dataset="scans", order="sequential", batch_size=7)
        assert set(loader.datasets) == {"digits", "scans"}
        assert loader.status().counters["workers"] == 1

    assert batch.ids.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert '"client": "alice"' in token_loader.log


def test_a_token_in_a_file_is_taken_without_the_line_end_around_it(
    token_loader: Any, tokens: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{tokens['alice']}\n")

    with feedline.connect(token_loader.address, token_file=file) as loader:
        assert set(loader.datasets) == {"digits", "scans"}


def test_a_token_in_the_environment_is_enough(
    token_loader: Any, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLINE_TOKEN", tokens["bob"])

    with feedline.connect(token_loader.address) as loader:
        assert set(loader.datasets) == {"scans"}


def test_without_a_token_the_answer_is_what_to_give(token_loader: Any) -> None:
    with pytest.raises(NotAllowed, match=r"needs a token: give token_file= \(or FEEDLINE_TOKEN_FILE"):
        feedline.connect(token_loader.address, timeout_s=LONG_S)


def test_a_token_that_is_not_known_is_refused_at_once_and_not_repeated(
    token_loader: Any, tokens: dict[str, str]
) -> None:
    with pytest.raises(NotAllowed, match="does not know the token that was sent") as refused:
        feedline.connect(token_loader.address, timeout_s=LONG_S, token=tokens["nobody"])

    assert tokens["nobody"] not in str(refused.value)


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Basic {alice}"),
        ("authorization", "{alice}"),
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer {alice} "),
        ("authorization", "Bearer {alice}{alice}"),
        ("token", "{alice}"),
    ],
)
def test_only_a_bearer_token_is_leave(
    token_loader: Any, raw: Callable[..., Any], tokens: dict[str, str], header: tuple[str, str]
) -> None:
    with raw(token_loader.address) as caller:
        caller.metadata = ((header[0], header[1].format(**tokens)),)
        with pytest.raises(grpc.RpcError) as refused:
            caller.describe()

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_two_tokens_in_one_call_are_no_leave_even_if_one_is_known(
    token_loader: Any, raw: Callable[..., Any], tokens: dict[str, str]
) -> None:
    """A proxy that adds one must not turn somebody else's call into its own."""
    with raw(token_loader.address, tokens["alice"]) as caller:
        caller.metadata += ((rpc.AUTHORIZATION, f"Bearer {tokens['nobody']}"),)
        with pytest.raises(grpc.RpcError) as refused:
            caller.describe()

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_method_but_the_health_check_wants_a_token(token_loader: Any, raw: Callable[..., Any]) -> None:
    methods = [rpc.DESCRIBE, rpc.STATUS, "/feedline.v1.Loader/NotThere", "/grpc.health.v1.Health/Watch"]
    with raw(token_loader.address) as caller:
        assert caller.call("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"  # status: SERVING

        for method in methods:
            with pytest.raises(grpc.RpcError) as refused:
                caller.call(method, b"")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert type(failure_of(refused.value)) is NotAllowed
        with pytest.raises(grpc.RpcError) as refused:
            list(caller.fetch(want("scans", b"")))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_reflection_wants_a_token(token_loader: Any, raw: Callable[..., Any], tokens: dict[str, str]) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with raw(token_loader.address, tokens["bob"]) as caller:
        stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)

        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ServerReflectionInfo(iter([question]), timeout=30))
        (answer,) = stub.ServerReflectionInfo(iter([question]), timeout=30, metadata=caller.metadata)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "feedline.v1.Loader" in [service.name for service in answer.list_services_response.service]


# ---- what there is for them ----


def test_a_dataset_that_a_token_is_not_for_is_not_described(token_loader: Any, tokens: dict[str, str]) -> None:
    with feedline.connect(token_loader.address, token=tokens["bob"]) as loader:
        assert list(loader.datasets) == ["scans"]
        assert loader.dataset().samples == 7


def test_asking_for_a_dataset_one_may_not_have_is_answered_as_for_one_that_does_not_exist(
    token_loader: Any, raw: Callable[..., Any], tokens: dict[str, str]
) -> None:
    with raw(token_loader.address, tokens["alice"]) as caller:
        (digits,) = [dataset for dataset in caller.describe().datasets if dataset.name == "digits"]

    answers = []
    with raw(token_loader.address, tokens["bob"]) as caller:
        for name in ("digits", "nowhere"):
            (wire,) = caller.fetch(want(name, digits.fingerprint))
            (piece,) = frames.decode(wire).pieces
            answers.append(read_failure(piece.failure))

    assert [type(answer) for answer in answers] == [InvalidRequest, InvalidRequest]
    assert [str(answer) for answer in answers] == [
        "no dataset 'digits' is served here; there is: scans",
        "no dataset 'nowhere' is served here; there is: scans",
    ]


# ---- a token is not seen ----


def test_no_token_is_ever_in_the_loaders_log(
    two_datasets: Path,
    start_loader: Callable[..., Any],
    token_entry: Callable[..., str],
    raw: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """At its most talkative, with tokens that are known, unknown, in the wrong place and in broken requests."""
    known, unknown = "known-4c1f88a0d2", "unknown-93be4417aa"
    file = tmp_path / "tokens.toml"
    file.write_text(token_entry("carol", known))
    loader = start_loader(two_datasets, "--workers", "1", "--tokens", str(file), "--log-level", "debug")

    with feedline.connect(loader.address, token=known) as connection:
        list(connection.epoch(dataset="scans", batch_size=3))
    with pytest.raises(NotAllowed):
        feedline.connect(loader.address, token=unknown)
    with raw(loader.address, known) as caller:
        caller.metadata += (("x-token", unknown),)
        for method, wire in ((rpc.DESCRIBE, b"\xff"), (rpc.STATUS, b"\xff"), ("/a/b", b"")):
            with pytest.raises(grpc.RpcError):
                caller.call(method, wire)
        with pytest.raises(grpc.RpcError):
            list(caller.fetch(b"\xff"))
    file.write_text(f"[carol]\ntoken = '{known}'\n")  # the mistake that is easily made
    with raw(loader.address, known) as caller:
        caller.describe()
    assert loader.stop() == 0

    log = loader.log_text()
    assert '"client": "carol"' in log
    assert '"event": "refused"' in log
    assert "there is no 'token'" in log
    assert known not in log
    assert unknown not in log


def test_no_token_is_in_what_a_trainer_shows_of_itself(token_loader: Any, tokens: dict[str, str]) -> None:
    with feedline.connect(token_loader.address, token=tokens["alice"]) as loader:
        feed = loader.feed(dataset="scans", batch_size=7)
        shown = [repr(thing) for thing in (loader, feed, loader._credentials, loader._fleet, loader.datasets)]
        connections = list(loader._fleet._endpoint_of)
        assert connections
        shown += [repr(connection) + repr(connection._dialer) for connection in connections]

    assert tokens["alice"] not in " ".join(shown)
