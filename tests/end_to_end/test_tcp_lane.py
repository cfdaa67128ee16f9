"""The tcp lane beside gRPC: the same batches and guarantees, and gRPC where there is no lane (promises G1, G2, G4)."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

import feedline
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.lane import ACCEPTED, GREETING, HEAD, TCP, TICKET_NBYTES

SAMPLES = 101
WHOLE = Counter(range(SAMPLES))
StartLoader = Callable[..., Any]


def tcp_port(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        describe = channel.unary_unary(
            rpc.DESCRIBE,
            request_serializer=pb.DescribeRequest.SerializeToString,
            response_deserializer=pb.Description.FromString,
        )
        description: pb.Description = describe(pb.DescribeRequest(protocol=PROTOCOL), timeout=10)
        return next((int(lane.address) for lane in description.lanes if lane.name == TCP), 0)


def lane_connections(port: int) -> int:
    """Connections of this process to that port."""
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    )


def content(epoch: feedline.Epoch) -> list[tuple[bytes, bytes, bytes]]:
    return [(batch["x"].tobytes(), batch["y"].tobytes(), batch.ids.tobytes()) for batch in epoch]


def test_batches_travel_by_the_lane_and_are_the_same_bytes_as_by_grpc(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    by_lane = start_loader(hundred_and_one, "--no-shm-lane")
    by_grpc = start_loader(hundred_and_one, "--no-shm-lane", "--no-tcp-lane")
    port = tcp_port(by_lane.address)

    with feedline.connect(by_lane.address) as loader:
        epoch = loader.epoch(0, batch_size=9, seed=3, prefetch=2)  # so that most are wanted when the lane stands
        batches = [next(epoch)]
        until = time.monotonic() + 10
        while not lane_connections(port):  # the first batches may have come by gRPC while it was being made
            assert time.monotonic() < until
            time.sleep(0.01)
        assert lane_connections(port) == 1
        batches += list(epoch)
    with feedline.connect(by_grpc.address) as loader:
        other = list(loader.epoch(0, batch_size=9, seed=3))

    assert tcp_port(by_grpc.address) == 0
    for one, two in zip(batches, other, strict=True):
        assert one.ids.tobytes() == two.ids.tobytes()
        assert one["x"].tobytes() == two["x"].tobytes()
    assert lane_connections(port) == 0  # closed with the stream


def test_a_large_batch_and_many_small_ones_arrive_whole_by_the_lane(
    tmp_path: Path, start_loader: StartLoader, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> None:
    data = numbered_columns(tmp_path / "rows", 300, (50_000,))
    loader = start_loader(tmp_path / "rows", "--no-shm-lane")

    with feedline.connect(loader.address) as connected:
        [whole] = connected.epoch(0, batch_size=300, order="sequential")
        ones = list(connected.epoch(0, batch_size=1, order="shuffle", prefetch=64))

    assert np.array_equal(whole["x"], data["x"])  # 60 MB
    assert Counter(int(batch.ids[0]) for batch in ones) == Counter(range(300))
    assert all(np.all(batch["x"] == batch.ids[0]) for batch in ones)


def test_every_sample_comes_once_although_workers_and_the_loader_die_under_the_lane(
    hundred_and_one: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(hundred_and_one, "--no-shm-lane")
    ids = []
    with feedline.connect(loader.address) as connected:
        for batch in connected.epoch(0, batch_size=2, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index == 10:
                for worker in loader.workers():
                    worker.kill()
            if batch.index == 25:
                loader.kill()
                start_loader(hundred_and_one, "--no-shm-lane", "--listen", loader.address)

    assert Counter(ids) == WHOLE


class Cutter:
    """Passes a lane on, and cuts it after so many bytes."""

    def __init__(self, to_port: int, after_nbytes: int) -> None:
        self._to_port = to_port
        self._after_nbytes = after_nbytes
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                trainer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(trainer,), daemon=True).start()

    def _pass_on(self, trainer: socket.socket) -> None:
        # Either end may be gone first: what it had not read then resets the other.
        with trainer, socket.create_connection(("127.0.0.1", self._to_port)) as loader, contextlib.suppress(OSError):
            loader.sendall(trainer.recv(len(GREETING) + TICKET_NBYTES, socket.MSG_WAITALL))
            left = self._after_nbytes
            while left and (data := loader.recv(min(left, 4096))):
                trainer.sendall(data)
                left -= len(data)
            self.cuts += not left


@pytest.fixture
def cutter(hundred_and_one: Path, start_loader: StartLoader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A loader whose lane is cut in the middle of a batch, again and again; its address."""
    loader = start_loader(hundred_and_one, "--no-shm-lane")
    cutter = Cutter(tcp_port(loader.address), after_nbytes=3000)
    connect = socket.create_connection

    def redirected(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        towards = (address[0], cutter.port) if threading.current_thread().name.startswith("feedline tcp") else address
        return connect(towards, *args, **more)

    monkeypatch.setattr(socket, "create_connection", redirected)
    yield cutter, loader.address
    cutter.close()


def test_a_lane_that_is_cut_in_the_middle_of_a_batch_loses_nothing(cutter: tuple[Cutter, str]) -> None:
    middle, address = cutter

    with feedline.connect(address) as loader:
        batches = list(loader.epoch(0, batch_size=10, prefetch=2))

    assert middle.cuts >= 1
    assert Counter(int(i) for batch in batches for i in batch.ids) == WHOLE
    assert all(np.all(batch["x"] == batch.ids[:, None, None]) for batch in batches)


def test_where_the_port_cannot_be_reached_batches_come_by_grpc(
    hundred_and_one: Path, start_loader: StartLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = start_loader(hundred_and_one, "--no-shm-lane")
    port = tcp_port(loader.address)

    def refused(*args: Any, **more: Any) -> socket.socket:
        raise ConnectionRefusedError("no way through")

    monkeypatch.setattr(socket, "create_connection", refused)
    with feedline.connect(loader.address) as connected:
        ids = [int(i) for batch in connected.epoch(0, batch_size=10) for i in batch.ids]
        assert lane_connections(port) == 0

    assert Counter(ids) == WHOLE


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", GREETING + bytes(TICKET_NBYTES), GREETING + b"short"])
def test_who_has_no_ticket_is_sent_away_without_a_word(one_worker: str, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", tcp_port(one_worker)), timeout=10) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)

        try:
            heard = stranger.recv(100)
        except ConnectionResetError:
            heard = b""

    assert heard == b""


def test_a_ticket_is_good_for_one_connection_and_only_while_its_stream_lives(one_worker: str) -> None:
    port = tcp_port(one_worker)
    say = threading.Event()
    with grpc.insecure_channel(one_worker) as channel:

        def requests() -> Iterator[pb.FetchRequest]:
            yield pb.FetchRequest(protocol=PROTOCOL, lane=TCP)
            say.wait(30)

        fetch = channel.stream_stream(
            rpc.FETCH, request_serializer=pb.FetchRequest.SerializeToString, response_deserializer=None
        )
        call = fetch(requests())
        ticket = frames.decode(next(call)).lane_ticket
        with socket.create_connection(("127.0.0.1", port), timeout=10) as first:
            first.sendall(GREETING + ticket)
            assert first.recv(1) == ACCEPTED
            with socket.create_connection(("127.0.0.1", port), timeout=10) as second:
                second.sendall(GREETING + ticket)
                assert second.recv(1) == b""
            say.set()
            call.cancel()
            assert first.recv(HEAD.size) == b""  # the lane ends with its stream
        with socket.create_connection(("127.0.0.1", port), timeout=10) as late:
            late.sendall(GREETING + ticket)
            assert late.recv(1) == b""
