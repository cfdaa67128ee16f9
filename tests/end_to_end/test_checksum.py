"""A network that turns bits, between a real loader and a trainer: nothing of it is ever delivered, with `checksum`."""

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import feedline
from feedline.fleet.statistics import Statistics
from feedline_wire import PROTOCOL, checksum, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged, read_failure

ROWS = 4096
FILL = 0xA5
"""What a row is full of, behind its number: bytes that are surely of a batch, not of HTTP/2 or of a header."""

StartLoader = Callable[..., Any]


class BrokenWire:
    """A way to a loader on which a bit of a batch is turned here and there."""

    def __init__(self, address: str, *, every_nbytes: int) -> None:
        self._to = address
        self._every_nbytes = every_nbytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.turned = 0
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        host, _, port = self._to.rpartition(":")
        draw = random.Random(1)
        with contextlib.suppress(OSError):
            while True:
                trainer, _ = self._listener.accept()
                loader = socket.create_connection((host, int(port)))
                self._open += [trainer, loader]
                threading.Thread(target=self._carry, args=(trainer, loader, None), daemon=True).start()
                threading.Thread(target=self._carry, args=(loader, trainer, draw), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, draw: random.Random | None) -> None:
        left = draw.randrange(self._every_nbytes) if draw else 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                left -= len(data)
                at = data.find(bytes([FILL] * 64), draw.randrange(len(data))) if draw and left < 0 else -1
                if draw and at >= 0:
                    data[at + 32] ^= 1 << draw.randrange(8)
                    self.turned += 1
                    left = draw.randrange(self._every_nbytes)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def rows_of_4k(tmp_path: Path) -> Path:
    """16 MiB: sample i is 4 KiB of FILL behind its number."""
    x = np.full((ROWS, 4096), FILL, np.uint8)
    x[:, :8] = np.arange(ROWS).view(np.uint8).reshape(ROWS, 8)
    np.save(tmp_path / "x.npy", x)
    return tmp_path


@pytest.fixture
def broken_wire(rows_of_4k: Path, start_loader: StartLoader) -> Iterator[BrokenWire]:
    """To a loader that sends by gRPC alone."""
    loader = start_loader(rows_of_4k, "--workers", "1", "--no-tcp-lane", "--no-shm-lane")
    wire = BrokenWire(loader.address, every_nbytes=6 << 20)
    yield wire
    wire.close()


def wrong_rows(wire: BrokenWire, epochs: int, *, checksum: bool) -> tuple[int, list[int], Statistics]:
    """Rows that arrived other than they are, the ids of all that did, and what happened on the way."""
    with feedline.connect(wire.address, checksum=checksum) as connected:
        wrong = 0
        ids: list[int] = []
        for epoch in range(epochs):
            for batch in connected.epoch(epoch, batch_size=64, prefetch=8):
                right = (batch["x"][:, 8:] == FILL).all(axis=1) & (batch["x"][:, :8].view(np.int64)[:, 0] == batch.ids)
                wrong += int(np.count_nonzero(~right))
                ids += batch.ids.tolist()
        return wrong, ids, connected.stats


def test_without_a_checksum_the_broken_wire_is_believed(broken_wire: BrokenWire) -> None:
    """That the next one could fail."""
    wrong, _, _ = wrong_rows(broken_wire, 2, checksum=False)

    assert 0 < wrong <= broken_wire.turned


def test_with_a_checksum_every_epoch_is_whole_and_every_row_is_right(broken_wire: BrokenWire) -> None:
    wrong, ids, stats = wrong_rows(broken_wire, 2, checksum=True)

    assert wrong == 0
    assert Counter(ids) == Counter(dict.fromkeys(range(ROWS), 2))
    assert 0 < stats.damaged <= broken_wire.turned


def test_a_request_that_was_changed_on_its_way_is_not_believed(rows_of_4k: Path, start_loader: StartLoader) -> None:
    """Another offset would be another valid batch, under the ticket of the one that was wanted."""
    loader = start_loader(rows_of_4k, "--workers", "1")
    with grpc.insecure_channel(loader.address) as channel:
        describe = channel.unary_unary(rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString)
        [dataset] = describe(pb.DescribeRequest(protocol=PROTOCOL), timeout=30).datasets
        key = pb.Key(dataset=dataset.name, fingerprint=dataset.fingerprint, view="train", order="shuffle", rows=8)
        sent = pb.FetchRequest(protocol=PROTOCOL, checksum=True, wants=[pb.Want(ticket=1, key=key)]).SerializeToString()
        crc = checksum.field((sent,))
        key.offset = 64
        arrived = pb.FetchRequest(protocol=PROTOCOL, checksum=True, wants=[pb.Want(ticket=1, key=key)])

        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(rpc.FETCH, None, None)(iter([arrived.SerializeToString() + crc]), timeout=30))

    call: Any = caught.value
    assert call.code() is grpc.StatusCode.UNAVAILABLE  # so that any client asks again
    [failure] = [value for name, value in call.trailing_metadata() if name == rpc.FAILURE_METADATA]
    assert isinstance(read_failure(failure), Damaged)
