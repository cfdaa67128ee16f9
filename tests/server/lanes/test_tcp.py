"""The loader's end of the tcp lane: who shows a ticket is given the lane, in however many pieces it arrives."""

import queue
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from feedline_server.lanes.lane import Lane
from feedline_server.lanes.tcp import TcpListener
from feedline_wire.lane import ACCEPTED, GREETING

WAIT_S = 30.0


@pytest.fixture
def listener() -> Iterator[TcpListener]:
    settings: Any = SimpleNamespace(listen="127.0.0.1:0", tcp_port=0)
    listener = TcpListener()
    listener.start(settings)
    yield listener
    listener.close()


def connected(listener: TcpListener) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(listener.address)), timeout=WAIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def test_a_greeting_that_arrives_byte_by_byte_is_heard_out(listener: TcpListener) -> None:
    """A part of it was taken for another ticket, and its trainer went by gRPC."""
    taken: queue.Queue[Lane] = queue.Queue()
    offer = listener.offer(taken.put)

    with connected(listener) as connection:
        for byte in GREETING + listener.ticket(offer):
            connection.send(bytes([byte]))

        assert connection.recv(len(ACCEPTED), socket.MSG_WAITALL) == ACCEPTED
        assert taken.get(timeout=WAIT_S) is offer.lane
    listener.withdraw(offer)


def test_a_greeting_that_ends_half_way_is_none(listener: TcpListener) -> None:
    offer = listener.offer(lambda _: None)

    with connected(listener) as connection:
        connection.sendall((GREETING + listener.ticket(offer))[:-1])
        connection.shutdown(socket.SHUT_WR)

        assert connection.recv(1) == b""
    assert offer.lane is None
    listener.withdraw(offer)


def test_who_drips_bytes_is_sent_away_in_time_and_keeps_no_one_waiting(
    listener: TcpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_wire.lane.GREETING_S", 0.5)
    offer = listener.offer(lambda _: None)
    greeting = GREETING + listener.ticket(offer)

    with connected(listener) as dripping, connected(listener) as quick:
        dripping.send(greeting[:1])
        quick.sendall(greeting)
        assert quick.recv(len(ACCEPTED), socket.MSG_WAITALL) == ACCEPTED
        dripping.settimeout(0.05)
        drops = 1
        while True:
            try:
                if dripping.recv(1) == b"":
                    break
            except TimeoutError:
                drops += 1
                dripping.send(greeting[drops : drops + 1])
            except ConnectionResetError:
                break
            assert drops < len(greeting) - 1, "it could say all of it"
    listener.withdraw(offer)
