"""The sealed lane is for the peer that the stream is for: certificates, tokens and rotation hold on it too."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import feedline
from feedline.connection.lanes import sealed
from feedline_wire import PROTOCOL, frames, rpc, sealing
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import LoaderUnavailable, NotAllowed
from feedline_wire.lane import SEALED_GREETING

WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Secured:
    """A loader with TLS and tokens."""

    address: str
    started: Any
    tokens: Path


def over_the_lane(connection: feedline.Loader, dataset: str, lane: str = "sealed") -> None:
    """Wait until batches come by the lane: those before it stands come by gRPC."""
    feed = connection.feed(dataset=dataset, batch_size=1)
    until = time.monotonic() + WAIT_S
    while connection.stats.replicas[0].lane != lane:
        feed.fetch(next(feed.plan.steps(0)))
        assert time.monotonic() < until


def port_of(started: Any) -> int:
    """Where a loader has its lane: the port on which it listens beside the one for gRPC."""
    listening = {
        one.laddr.port
        for one in psutil.Process(started.process.pid).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    [port] = listening - {int(started.address.rpartition(":")[2])}
    return port


def lane_connections(port: int) -> set[int]:
    """The local ports of this process's connections to that port."""
    return {
        one.laddr.port
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
    }


def test_a_trainer_with_a_certificate_has_the_lane(mutual_loader: Any, authority: Any) -> None:
    pair = authority.issue("trainer-8")
    shown = {"ca": authority.file, "certificate": pair.certificate, "key": pair.key}

    with feedline.connect(mutual_loader.address, **shown) as loader:
        over_the_lane(loader, "scans")
        assert len(list(loader.epoch(dataset="scans", batch_size=1))) == 7


def test_who_wants_checksums_has_the_lane_too_whose_pieces_show_every_bit_that_turned(
    tls_loader: Any, authority: Any
) -> None:
    with feedline.connect(tls_loader.address, ca=authority.file, checksum=True) as loader:
        over_the_lane(loader, "scans")
        assert len(list(loader.epoch(dataset="scans", batch_size=1))) == 7


def test_a_trainer_without_the_package_has_its_batches_by_grpc_and_says_once_what_is_missing(
    tls_loader: Any, authority: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(sealing, "AESGCM")
    sealing.missing.cache_clear()
    sealed._can_open.cache_clear()
    try:
        for _ in range(2):
            with feedline.connect(tls_loader.address, ca=authority.file) as loader:
                assert len(list(loader.epoch(dataset="scans", batch_size=1))) == 7
                assert loader.stats.replicas[0].lane == "grpc"
    finally:
        sealing.missing.cache_clear()
        sealed._can_open.cache_clear()

    [said] = [record.getMessage() for record in caplog.records if "sealed" in record.getMessage()]
    assert "needs cryptography 47 or newer; install with: pip install " in said


@pytest.fixture
def token_tls_loader(
    two_datasets: Path, authority: Any, tmp_path: Path, token_entry: Callable[..., str], start_loader: Any
) -> Any:
    """A loader with TLS, where alice may read everything and bob only `scans`."""
    pair = authority.issue("loader", "127.0.0.1")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(token_entry("alice", "alice-token") + token_entry("bob", "bob-token", ["scans"]))
    started = start_loader(two_datasets, "--workers", "1", "--tokens", str(tokens), *pair.arguments)
    return Secured(started.address, started, tokens)


def test_a_token_is_worth_on_the_lane_what_it_is_worth_on_the_stream(token_tls_loader: Any, authority: Any) -> None:
    with feedline.connect(token_tls_loader.address, ca=authority.file, token="bob-token") as loader:
        over_the_lane(loader, "scans")
        assert set(loader.datasets) == {"scans"}
    with pytest.raises(NotAllowed):
        feedline.connect(token_tls_loader.address, ca=authority.file, token="nobody-token")


def test_a_lane_ends_with_the_stream_whose_token_was_withdrawn(
    token_tls_loader: Any, authority: Any, replace_file: Callable[[Path, str], None], token_entry: Callable[..., str]
) -> None:
    with feedline.connect(token_tls_loader.address, ca=authority.file, token="bob-token") as loader:
        over_the_lane(loader, "scans")
        port = port_of(token_tls_loader.started)
        assert len(lane_connections(port)) == 1
        replace_file(token_tls_loader.tokens, token_entry("alice", "alice-token"))

        with pytest.raises(LoaderUnavailable, match="does not know the token"):
            list(loader.epoch(dataset="scans", batch_size=1, timeout_s=1))

        assert lane_connections(port) == set()


def test_certificates_are_replaced_under_a_running_lane_which_goes_on(
    two_datasets: Path, new_authority: Callable[[str], Any], start_loader: Callable[..., Any]
) -> None:
    old, new = new_authority("old"), new_authority("new")
    pair = old.issue("loader", "127.0.0.1")
    started = start_loader(two_datasets, "--workers", "1", *pair.arguments)
    with feedline.connect(started.address, ca=old.file) as loader:
        over_the_lane(loader, "digits")
        port = port_of(started)
        before = lane_connections(port)
        epoch = loader.epoch(dataset="digits", batch_size=1, prefetch=2)
        ids = [next(epoch).ids[0] for _ in range(10)]

        pair.replace_with(new.issue("loader", "127.0.0.1"))
        with feedline.connect(started.address, ca=new.file) as later:  # which makes the loader look
            over_the_lane(later, "digits")
        ids += [batch.ids[0] for batch in epoch]

        assert lane_connections(port) & before == before
        assert len(before) == 1
        assert loader.stats.retried == 0
    assert sorted(ids) == list(range(101))


@settings(max_examples=30)
@given(said=st.binary(max_size=100) | st.binary(max_size=40).map(SEALED_GREETING.__add__))
def test_any_bytes_on_the_lanes_port_are_sent_away(tls_loader: Any, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(tls_loader.started)), WAIT_S) as connection:
        connection.sendall(said)
        with contextlib.suppress(OSError):  # it was sent away already: what it said beyond a greeting was not read
            connection.shutdown(socket.SHUT_WR)

        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""


def test_it_is_well_after_all_that(tls_loader: Any, authority: Any) -> None:
    with feedline.connect(tls_loader.address, ca=authority.file) as loader:
        over_the_lane(loader, "scans")


# ---- no downgrade ----


def test_a_stream_under_tls_that_asks_for_a_plain_lane_gets_no_ticket(tls_loader: Any, authority: Any) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    say = threading.Event()

    def requests() -> Iterator[pb.FetchRequest]:
        yield pb.FetchRequest(protocol=PROTOCOL, lane="tcp", wants=[pb.Want(ticket=7)])
        say.wait(WAIT_S)

    with grpc.secure_channel(tls_loader.address, credentials) as channel:
        fetch = channel.stream_stream(
            rpc.FETCH, request_serializer=pb.FetchRequest.SerializeToString, response_deserializer=None
        )
        call = fetch(requests(), timeout=WAIT_S)
        first = frames.decode(next(call))
        say.set()
        call.cancel()

    assert first.lane_ticket == b""
    assert first.pieces[0].ticket == 7  # it is answered over the stream


@pytest.fixture
def tls_in_front(open_loader: Any, authority: Any) -> Iterator[str]:
    """The address of a proxy that speaks TLS for a loader that does not."""
    pair = authority.issue("proxy", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    host, port = open_loader.address.split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()

    def accept() -> None:
        while True:
            try:
                trainer, _ = listener.accept()
            except OSError:
                return
            try:
                outside = context.wrap_socket(trainer, server_side=True)
            except OSError:
                trainer.close()
                continue
            inside = socket.create_connection((host, int(port)))
            for ends in ((outside, inside), (inside, outside)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_trainer_with_tls_takes_no_plain_lane_of_a_loader_behind_a_proxy_that_speaks_tls(
    tls_in_front: str, open_loader: Any, raw: Callable[..., Any], authority: Any
) -> None:
    """The loader believes that it speaks to its own network; what the lanes carry would pass the proxy in the clear."""
    with raw(open_loader.address) as caller:
        assert {lane.name for lane in caller.describe().lanes} == {"tcp", "shm"}

    with feedline.connect(tls_in_front, ca=authority.file) as loader:
        ids = [batch.ids[0] for batch in loader.epoch(dataset="digits", batch_size=1)]
        lane = loader.stats.replicas[0].lane

    assert sorted(ids) == list(range(101))
    assert lane == "grpc"
