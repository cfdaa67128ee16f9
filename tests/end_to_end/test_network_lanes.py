"""The tcp and the sealed lane beside gRPC: the same batches and guarantees, gRPC where there is none (G1, G2, G4)."""

import contextlib
import itertools
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from busy import wait_for_lane, warnings

import feedline
from feedline.connection.lanes import sealed, tcp
from feedline.fleet import rates
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError
from feedline_wire.lane import ACCEPTED, HEAD, SEALED, SEALED_HEAD, TICKET_NBYTES
from feedline_wire.sealing import KEY_NBYTES, TAG_NBYTES

SAMPLES = 101
WHOLE = Counter(range(SAMPLES))
StartLoader = Callable[..., Any]
Lane = Any
"""See conftest.py."""


def lane_connections(port: int) -> int:
    """Connections of this process to that port."""
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    )


def content(epoch: feedline.Epoch) -> list[tuple[bytes, bytes, bytes]]:
    return [(batch["x"].tobytes(), batch["y"].tobytes(), batch.ids.tobytes()) for batch in epoch]


def test_batches_travel_by_the_lane_and_are_the_same_bytes_as_by_grpc(
    hundred_and_one: Path, start_loader: StartLoader, lane: Lane, by_lane: str
) -> None:
    by_grpc = start_loader(hundred_and_one, *lane.loader, "--no-tcp-lane").address
    port = lane.port(by_lane)

    with feedline.connect(by_lane, **lane.trainer) as loader:
        feed = loader.feed(batch_size=9, seed=3)
        wait_for_lane(loader, feed)
        assert lane_connections(port) == 1
        batches = list(feed.epoch(0))
        assert loader.stats.replicas[0].lane == lane.name
    with feedline.connect(by_grpc, **lane.trainer) as loader:
        other = list(loader.epoch(0, batch_size=9, seed=3))

    assert lane.port(by_grpc) == 0
    for one, two in zip(batches, other, strict=True):
        assert one.ids.tobytes() == two.ids.tobytes()
        assert one["x"].tobytes() == two["x"].tobytes()
    assert lane_connections(port) == 0  # closed with the stream


def test_a_large_batch_and_many_small_ones_arrive_whole_by_the_lane(
    tmp_path: Path, start_loader: StartLoader, lane: Lane, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> None:
    data = numbered_columns(tmp_path / "rows", 300, (50_000,))
    loader = start_loader(tmp_path / "rows", *lane.loader)

    with feedline.connect(loader.address, **lane.trainer) as connected:
        [whole] = connected.epoch(0, batch_size=300, order="sequential")
        ones = list(connected.epoch(0, batch_size=1, order="shuffle", prefetch=64))

    assert np.array_equal(whole["x"], data["x"])  # 60 MB
    assert Counter(int(batch.ids[0]) for batch in ones) == Counter(range(300))
    assert all(np.all(batch["x"] == batch.ids[0]) for batch in ones)


def test_every_sample_comes_once_although_workers_and_the_loader_die_under_the_lane(
    hundred_and_one: Path, start_loader: StartLoader, lane: Lane
) -> None:
    loader = start_loader(hundred_and_one, *lane.loader)
    ids = []
    with feedline.connect(loader.address, **lane.trainer) as connected:
        for batch in connected.epoch(0, batch_size=2, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index == 10:
                for worker in loader.workers():
                    worker.kill()
            if batch.index == 25:
                loader.kill()
                start_loader(hundred_and_one, *lane.loader, "--listen", loader.address)

    assert Counter(ids) == WHOLE


class Middle:
    """Passes a lane on, and cuts it after so many bytes, or turns a bit there."""

    def __init__(self, to_port: int, greeting_nbytes: int, how: str) -> None:
        self._to_port = to_port
        self._greeting_nbytes = greeting_nbytes
        self._how = how
        self.troubles = 0
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
            loader.sendall(trainer.recv(self._greeting_nbytes, socket.MSG_WAITALL))
            left = AFTER_NBYTES
            while left and (data := loader.recv(min(left, 4096))):
                trainer.sendall(data)
                left -= len(data)
            self.troubles += not left
            if self._how == "turned" and (data := loader.recv(1)):
                trainer.sendall(bytes([data[0] ^ 4]))
                while data := loader.recv(4096):
                    trainer.sendall(data)


class Lengthening(Middle):
    """Passes lanes on; of the first, the length of the first answer's head becomes 16 KiB more on the way."""

    def _pass_on(self, trainer: socket.socket) -> None:
        with trainer, socket.create_connection(("127.0.0.1", self._to_port)) as loader, contextlib.suppress(OSError):
            loader.sendall(trainer.recv(self._greeting_nbytes, socket.MSG_WAITALL))
            if not self.troubles:
                trainer.sendall(loader.recv(len(ACCEPTED) + TAG_NBYTES, socket.MSG_WAITALL))
                [nbytes] = SEALED_HEAD.unpack(loader.recv(SEALED_HEAD.size, socket.MSG_WAITALL))
                self.troubles += 1
                trainer.sendall(SEALED_HEAD.pack(nbytes + (16 << 10)))
            while data := loader.recv(4096):
                trainer.sendall(data)


AFTER_NBYTES = 3000
"""A batch of 10 rows has 1,040."""


@pytest.fixture
def middle(lane: Lane, by_lane: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Trouble in the middle of a batch, again and again, on the lane of the shared loader."""
    how = getattr(request, "param", "cut")
    kind = Lengthening if how == "longer" else Middle
    middle = kind(lane.port(by_lane), len(lane.greeting) + TICKET_NBYTES, how)
    connect = socket.create_connection

    def redirected(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        is_lane = threading.current_thread().name.startswith(f"feedline {lane.name}")
        return connect((address[0], middle.port) if is_lane else address, *args, **more)

    monkeypatch.setattr(socket, "create_connection", redirected)
    yield middle
    middle.close()


def assert_whole(loader: feedline.Loader, epoch: int) -> None:
    batches = list(loader.epoch(epoch, batch_size=10, prefetch=2))
    assert Counter(int(i) for batch in batches for i in batch.ids) == WHOLE
    assert all(np.all(batch["x"] == batch.ids[:, None, None]) for batch in batches)


def test_a_lane_that_is_cut_in_the_middle_of_a_batch_loses_nothing(middle: Middle, lane: Lane, by_lane: str) -> None:
    with feedline.connect(by_lane, **lane.trainer) as loader:
        for epoch in itertools.count():  # the first batches may have come by gRPC while the lane was being made
            assert_whole(loader, epoch)
            if middle.troubles:
                break
        assert loader.stats.damaged == 0


@pytest.mark.parametrize("lane", [SEALED], indirect=True)
@pytest.mark.parametrize("middle", ["turned"], indirect=True)
def test_a_bit_that_is_turned_on_the_sealed_lane_is_noticed_counted_and_costs_nothing(
    middle: Middle, lane: Lane, by_lane: str
) -> None:
    with feedline.connect(by_lane, **lane.trainer) as loader:
        for epoch in itertools.count():  # the first batches may have come by gRPC while the lane was being made
            assert_whole(loader, epoch)
            if loader.stats.damaged:
                break

    assert middle.troubles >= 1


@pytest.mark.parametrize("lane", [SEALED], indirect=True)
@pytest.mark.parametrize("middle", ["longer"], indirect=True)
def test_a_length_that_became_more_on_the_way_is_waited_for_no_longer_than_a_stream_that_brings_nothing(
    middle: Middle, lane: Lane, by_lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one thing on the sealed lane that is not sealed; what the trainer then waits for never comes."""
    monkeypatch.setattr(rates, "RENEW_AFTER_S", 1.0)  # 10 s in earnest
    monkeypatch.setattr(rates, "RENEW_UNKNOWN_S", 1.0)  # 30 s
    with feedline.connect(by_lane, **lane.trainer) as loader:
        for epoch in itertools.count():  # the first batches may have come by gRPC while the lane was being made
            assert_whole(loader, epoch)
            if middle.troubles and loader.stats.replicas[0].lane == SEALED:
                break

        assert loader.stats.retried >= 1
    assert middle.troubles == 1


def test_where_the_port_cannot_be_reached_batches_come_by_grpc_and_one_line_says_so(
    lane: Lane, by_lane: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = lane.port(by_lane)

    def refused(*args: Any, **more: Any) -> socket.socket:
        raise ConnectionRefusedError("no way through")

    monkeypatch.setattr(socket, "create_connection", refused)
    with feedline.connect(by_lane, **lane.trainer) as connected:
        ids = [int(i) for batch in connected.epoch(0, batch_size=10) for i in batch.ids]
        ids += [int(i) for batch in connected.epoch(1, batch_size=10) for i in batch.ids]
        assert lane_connections(port) == 0

    assert Counter(ids) == Counter({sample: 2 * times for sample, times in WHOLE.items()})
    assert warnings(caplog) == [
        f"no {lane.name} lane to {by_lane}, batches come by gRPC and cost several times the processor time: "
        f"port {port}: no way through"
    ]


def test_a_lane_that_ends_with_its_stream_before_it_stands_is_not_called_unreachable(
    lane: Lane, by_lane: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ticket is over with the stream: that nobody took it says nothing of the port."""

    def not_before_the_end(connection: socket.socket, nbytes: int) -> bytes:
        closed = select.poll()
        closed.register(connection, 0)  # which is told of its end alone
        return b"" if closed.poll(30_000) else bytes(nbytes)

    for module in (tcp, sealed):
        monkeypatch.setattr(module, "heard", not_before_the_end)
    with feedline.connect(by_lane, **lane.trainer) as connected:

        def want() -> None:  # what comes by the lane is never read, so this may end only with the connection
            with contextlib.suppress(FeedlineError):
                next(iter(connected.epoch(0, batch_size=10)))

        wanting = threading.Thread(target=want)
        wanting.start()
        until = time.monotonic() + 30
        while not lane_connections(lane.port(by_lane)):
            assert time.monotonic() < until
            time.sleep(0.01)
    wanting.join(30)

    assert not wanting.is_alive()
    assert warnings(caplog) == []


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"GREETING" + bytes(TICKET_NBYTES), b"GREETINGshort"])
def test_who_has_no_ticket_is_sent_away_without_a_word(lane: Lane, by_lane: str, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", lane.port(by_lane)), timeout=10) as stranger:
        stranger.sendall(said.replace(b"GREETING", lane.greeting))
        stranger.shutdown(socket.SHUT_WR)

        try:
            heard = stranger.recv(100)
        except ConnectionResetError:
            heard = b""

    assert heard == b""


def test_a_ticket_is_good_for_one_connection_and_only_while_its_stream_lives(lane: Lane, by_lane: str) -> None:
    port = lane.port(by_lane)
    accepted_nbytes = len(ACCEPTED) + (TAG_NBYTES if lane.name == SEALED else 0)
    say = threading.Event()
    with lane.channel(by_lane) as channel:

        def requests() -> Iterator[pb.FetchRequest]:
            yield pb.FetchRequest(protocol=PROTOCOL, lane=lane.name)
            say.wait(30)

        fetch = channel.stream_stream(
            rpc.FETCH, request_serializer=pb.FetchRequest.SerializeToString, response_deserializer=None
        )
        call = fetch(requests())
        ticket = frames.decode(next(call)).lane_ticket
        assert len(ticket) == TICKET_NBYTES + (KEY_NBYTES if lane.name == SEALED else 0)
        greeting = lane.greeting + ticket[:TICKET_NBYTES]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as first:
            first.sendall(greeting)
            assert len(first.recv(100)) == accepted_nbytes
            with socket.create_connection(("127.0.0.1", port), timeout=10) as second:
                second.sendall(greeting)
                assert second.recv(1) == b""
            say.set()
            call.cancel()
            assert first.recv(HEAD.size) == b""  # the lane ends with its stream
        with socket.create_connection(("127.0.0.1", port), timeout=10) as late:
            late.sendall(greeting)
            assert late.recv(1) == b""
