"""How a trainer's lane begins and ends: an answer to its greeting in pieces, and a batch that is cut."""

import contextlib
import fcntl
import gc
import queue
import secrets
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from termios import FIONREAD

import numpy as np
import pytest

from feedline.connection.lanes import lane
from feedline.connection.lanes.lane import Body, Lane, Take, kind_of
from feedline_wire import frames
from feedline_wire.frames import Piece
from feedline_wire.lane import (
    ACCEPTED,
    FOLLOWS,
    GREETING,
    HEAD,
    LANES,
    PLACED_HEAD,
    PROOF_NBYTES,
    SEALED,
    SEALED_GREETING,
    SEALED_HEAD,
    SHM,
    SHM_GREETING,
    TCP,
    TICKET_NBYTES,
)
from feedline_wire.sealing import PIECE_NBYTES, TAG_NBYTES, Sealer

WAIT_S = 30.0

TICKET = bytes(range(TICKET_NBYTES))

GREETINGS = {SHM: SHM_GREETING, SEALED: SEALED_GREETING, TCP: GREETING}


@dataclass(frozen=True, slots=True)
class Door:
    """Where a trainer comes for a lane, and what it is to be answered."""

    name: str
    listener: socket.socket
    address: str
    ticket: bytes
    answer: bytes
    cut: bytes
    """An answer whose body of PIECE_NBYTES ends in its middle."""


PIECE = frames.encode_head(Piece(1, 0, b"", header=b"header"))

HALF = bytes(PIECE_NBYTES // 2)


def door(name: str) -> Door:
    if name == SHM:
        address = f"feedline-test-{secrets.token_hex(8)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("\0" + address)
        listener.listen()
        proof = secrets.token_bytes(PROOF_NBYTES)
        head = PLACED_HEAD.pack(len(PIECE), PIECE_NBYTES, 0, FOLLOWS)
        return Door(name, listener, address, TICKET + proof, ACCEPTED + proof, head + PIECE + HALF)
    listener = socket.create_server(("127.0.0.1", 0))
    address = str(listener.getsockname()[1])
    head = HEAD.pack(len(PIECE), PIECE_NBYTES) + PIECE
    if name == TCP:
        return Door(name, listener, address, TICKET, ACCEPTED, head + HALF)
    sealer = Sealer(TICKET)

    def sealed(text: bytes) -> bytes:
        into = bytearray(len(text) + TAG_NBYTES)
        sealer.seal(memoryview(text), memoryview(into))
        return bytes(into)

    answer = sealed(ACCEPTED)
    cut = SEALED_HEAD.pack(len(head)) + sealed(head) + HALF
    return Door(name, listener, address, TICKET + sealer.key, answer, cut)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Door]:
    opened = door(request.param)
    with opened.listener:
        yield opened


def come(to: Door, loader: Callable[[socket.socket, Lane], None], take: Take = lambda *_: None) -> str:
    """A trainer comes, and the loader deals with it; what became of it."""
    outcomes: queue.Queue[str] = queue.Queue()
    coming = kind_of(to.name)(
        "127.0.0.1", to.address, to.ticket, memory_nbytes=1 << 20,
        take=take, unreachable=outcomes.put, ended=lambda error: outcomes.put(f"lane: {error}"),
    )  # fmt: skip
    coming.start()
    connection, _ = to.listener.accept()
    with connection, connection.makefile("rb") as greeting:
        assert greeting.read(len(GREETINGS[to.name]) + TICKET_NBYTES) == GREETINGS[to.name] + TICKET
        loader(connection, coming)
    found = outcomes.get(timeout=WAIT_S)
    coming.close(finish=False)
    return found


def has_read(trainer: Lane) -> None:
    """Wait until the trainer has read all that came."""
    until = time.monotonic() + WAIT_S
    while trainer._connection is None or struct.unpack("i", fcntl.ioctl(trainer._connection, FIONREAD, bytes(4))) != (
        0,
    ):
        assert time.monotonic() < until
        time.sleep(0.001)  # the kernel has no event for it


@pytest.mark.parametrize("opened", LANES, indirect=True)
def test_an_answer_that_comes_byte_by_byte_is_heard_out(opened: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shm lane's, the first bytes were taken for all of it, and batches came by gRPC from then on."""
    monkeypatch.setattr(lane, "JOIN_S", 0.05)  # no stream ends with it

    def say(connection: socket.socket, trainer: Lane) -> None:
        for byte in opened.answer:
            connection.send(bytes([byte]))
            has_read(trainer)

    assert come(opened, say) == "lane: the loader closed it"


@pytest.mark.parametrize("opened", LANES, indirect=True)
def test_an_answer_that_stalls_is_not_waited_for_for_ever(opened: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedline_wire.lane.GREETING_S", 0.2)

    def say(connection: socket.socket, trainer: Lane) -> None:
        connection.send(opened.answer[:-1])
        trainer._thread.join(WAIT_S)

    assert come(opened, say) == "timed out"


@pytest.mark.parametrize("opened", [SHM, SEALED], indirect=True)
def test_an_answer_that_drips_has_no_more_time_than_one_that_does_not_come(
    opened: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_wire.lane.GREETING_S", 0.2)

    def say(connection: socket.socket, trainer: Lane) -> None:
        with contextlib.suppress(OSError):  # the trainer has gone
            for byte in opened.answer[:-1]:
                connection.send(bytes([byte]))
                trainer._thread.join(0.1)

    assert come(opened, say) == "timed out"


@pytest.mark.parametrize("opened", LANES, indirect=True)
def test_an_answer_that_ends_half_way_is_none(opened: Door) -> None:
    found = come(opened, lambda connection, _: connection.sendall(opened.answer[:-1]))

    assert "it is another loader, or none" in found


@pytest.mark.parametrize("opened", LANES, indirect=True)
def test_a_batch_that_is_cut_is_let_go_of_with_its_lane_although_nobody_collects_garbage(opened: Door) -> None:
    """Its error led to it and to the lane's memory, and the thread's last frame to its error."""
    gone: list[weakref.ref[object]] = []

    def take(_piece: Piece, incoming: Body, nbytes: int, _placed: object) -> None:
        body = np.empty(nbytes, np.uint8)
        gone.append(weakref.ref(body))
        incoming.read_into(body.data)

    def say(connection: socket.socket, trainer: Lane) -> None:
        gone.append(weakref.ref(trainer))
        connection.sendall(opened.answer + opened.cut)

    gc.collect()
    gc.disable()
    try:
        assert come(opened, say, take) == "lane: the lane ended in the middle of a batch"
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()
