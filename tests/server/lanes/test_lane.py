"""A lane sends everything in its order, holds no memory while it waits, and says why it is of no use any more."""

import errno
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline_server.lanes import lane as lanes
from feedline_server.lanes.iovec import MAX_PIECES, Iovec
from feedline_server.lanes.lane import Lane, LaneListener, Message, listeners
from feedline_wire.lane import HEAD, LANES

Pair = tuple[Lane, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A lane that takes little at once, and its trainer."""
    sender, trainer = socket.socketpair()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    lane = Lane(sender)
    with trainer:
        yield lane, trainer
    lane.close()
    lane.close()


def message(number: int, body: bytes | Iovec) -> Message:
    if isinstance(body, Iovec):
        return Message(b"piece %d" % number, body.nbytes, body)
    return Message(b"piece %d" % number, len(body), memoryview(body))


def wire(number: int, body: bytes) -> bytes:
    return HEAD.pack(len(b"piece %d" % number), len(body)) + b"piece %d" % number + body


def sent(pair: Pair, *messages: Message) -> bytes:
    """What arrives of them at a trainer that reads as it comes."""
    lane, trainer = pair
    found = bytearray()

    def read() -> None:
        while data := trainer.recv(1000):
            found.extend(data)

    reading = threading.Thread(target=read)
    reading.start()
    lane.send(messages, unpin=lambda: None, pin=lambda: True)
    lane.close()
    reading.join(30)
    return bytes(found)


def test_more_messages_than_the_kernel_takes_at_once_arrive_in_their_order(pair: Pair) -> None:
    bodies = [bytes([number % 256]) * 700 for number in range(MAX_PIECES)]

    came = sent(pair, *(message(number, body) for number, body in enumerate(bodies)))

    assert came == b"".join(wire(number, body) for number, body in enumerate(bodies))


def test_what_lies_in_files_goes_between_what_lies_in_memory(pair: Pair) -> None:
    rows = np.arange(64, dtype=np.uint8)

    came = sent(
        pair,
        message(1, b"one"),
        message(2, Iovec(np.array([[rows.ctypes.data, rows.nbytes]], np.uint64), [rows])),
        message(3, b""),
    )

    assert came == wire(1, b"one") + wire(2, rows.tobytes()) + wire(3, b"")


def test_nothing_is_sent_of_nothing(pair: Pair) -> None:
    assert sent(pair) == b""


def test_memory_is_not_pinned_while_the_trainer_does_not_read(pair: Pair) -> None:
    lane, trainer = pair
    events: list[str] = []

    def pin() -> bool:
        events.append("pin")
        return True

    def unpin() -> None:
        events.append("unpin")
        threading.Thread(target=trainer.recv, args=(1 << 20,)).start()

    lane.send([message(1, bytes(100_000))], unpin=unpin, pin=pin)

    assert events[:4] == ["unpin", "pin", "unpin", "pin"]


def test_memory_that_was_taken_away_meanwhile_ends_the_lane(pair: Pair) -> None:
    lane, trainer = pair

    with pytest.raises(ConnectionAbortedError, match="did not read while others needed the memory"):
        lane.send(
            [message(1, bytes(100_000))], unpin=lambda: threading.Thread(target=trainer.recv, args=(1 << 20,)).start(),
            pin=lambda: False,
        )  # fmt: skip


def test_a_trainer_that_never_reads_ends_the_lane(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "NO_PROGRESS_S", 0.01)

    with pytest.raises(TimeoutError, match="read nothing"):
        pair[0].send([message(1, bytes(1_000_000))], unpin=lambda: None, pin=lambda: True)


def test_a_trainer_that_is_gone_is_an_error(pair: Pair) -> None:
    lane, trainer = pair
    trainer.close()

    with pytest.raises(BrokenPipeError):
        lane.send([message(1, b"one")], unpin=lambda: None, pin=lambda: True)


# ---- where trainers come ----


class Listener(LaneListener):
    name = "tcp"

    @classmethod
    def is_wanted(cls, _settings: Any) -> bool:
        return True

    def start(self, settings: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self._listen(ShortAtFirst(listener, settings), str(listener.getsockname()[1]))

    def _greet(self, connection: socket.socket) -> bool:
        connection.sendall(b"heard")
        connection.close()
        return True


class ShortAtFirst:
    """A listener in a process that has no descriptors at first."""

    def __init__(self, listener: socket.socket, times: int) -> None:
        self.listener, self.times = listener, times

    def accept(self) -> tuple[socket.socket, object]:
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listener, name)


def heard(address: str) -> bytes:
    with socket.create_connection(("127.0.0.1", int(address)), 30) as connection:
        return connection.recv(100)


def test_a_shortage_of_descriptors_is_not_taken_for_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    """The thread that accepts ended at EMFILE: every later trainer went by gRPC, without a word."""
    listener = Listener()
    listener.start(2)

    assert [heard(listener.address) for _ in range(3)] == [b"heard"] * 3
    assert capfd.readouterr().out.count("cannot accept a connection") == 2
    listener.close()


def test_a_connection_for_which_there_is_no_thread_is_closed_and_the_next_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = Listener()
    listener.most_greetings = 1
    listener.start(0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no more threads")))
        assert [heard(listener.address) for _ in range(2)] == [b"", b""]

    assert heard(listener.address) == b"heard"
    listener.close()


# ---- the table ----


def config(**changes: Any) -> Any:
    return SimpleNamespace(**{"tcp_lane": True, "shm_lane": True, "tls_certificate": None} | changes)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["shm", "tcp"]),
        ({"shm_lane": False}, ["tcp"]),
        ({"shm_lane": False, "tcp_lane": False}, []),
        ({"tls_certificate": "loader.pem"}, ["sealed"]),
        ({"tls_certificate": "loader.pem", "shm_lane": False, "tcp_lane": False}, []),
    ],
    ids=["all", "no shm", "none", "tls", "tls, none"],
)
def test_a_loader_has_the_lanes_that_its_operator_lets_it_have(changes: dict[str, Any], names: list[str]) -> None:
    assert list(listeners(config(**changes))) == names


@pytest.mark.parametrize("name", LANES)
def test_a_lane_of_the_table_is_in_the_module_of_its_name(name: str) -> None:
    listener = (listeners(config()) | listeners(config(tls_certificate="loader.pem")))[name]

    assert isinstance(listener, LaneListener)
    assert type(listener).__module__ == f"feedline_server.lanes.{name}"
    assert listener.name == name
    assert listener.address == ""
