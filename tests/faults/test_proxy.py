"""The line itself: what it was not told to spoil passes unchanged, and what it was told happens."""

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proxy import Proxy

Line = Callable[..., Any]

WAIT_S = 10.0


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=send_back, args=(connection,), daemon=True).start()

    def send_back(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(WAIT_S)


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), WAIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send and get back as much."""
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    got = bytearray()
    while len(got) < len(data) and (part := connection.recv(1 << 16)):
        got += part
    sender.join(WAIT_S)
    return bytes(got)


def test_everything_passes_unchanged(echo: str, line: Line) -> None:
    data = bytes(range(256)) * 20_000
    proxy = line(echo)
    with connect(proxy.address) as connection:
        assert exchange(connection, data) == data
        assert (proxy.connections, proxy.damaged) == (1, 0)

    proxy.wait_until(lambda seen: seen.connections == 0)


def test_a_delay_is_waited_for_each_way_and_holds_up_nothing_else(echo: str, line: Line) -> None:
    data = bytes(3 << 20)
    with connect(line(echo, delay_s=0.1).address) as connection:
        began = time.monotonic()
        assert exchange(connection, b"x") == b"x"
        there_and_back_s = time.monotonic() - began

        assert exchange(connection, data) == data

    assert there_and_back_s >= 0.2


def test_one_bit_is_changed_where_it_was_asked_for(echo: str, line: Line) -> None:
    proxy = line(echo)
    with connect(proxy.address) as connection:
        proxy.damage(after=2)

        assert exchange(connection, b"abcdef") == b"absdef"
        assert exchange(connection, b"abcdef") == b"abcdef"
        assert proxy.damaged == 1


def test_a_held_line_ends_nothing_and_delivers_everything_when_it_goes_on(echo: str, line: Line) -> None:
    proxy = line(echo)
    with connect(proxy.address) as connection:
        assert exchange(connection, b"before") == b"before"
        proxy.hold()
        connection.sendall(b"while it held")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)

        proxy.go_on()
        connection.settimeout(WAIT_S)
        assert connection.recv(100) == b"while it held"


def test_a_cut_line_is_noticed_at_once_and_can_be_connected_to_again(echo: str, line: Line) -> None:
    proxy = line(echo)
    with connect(proxy.address) as connection:
        assert exchange(connection, b"x") == b"x"
        proxy.cut()
        with pytest.raises(ConnectionError):
            connection.sendall(connection.recv(1) or bytes(1 << 24))

    with connect(proxy.address) as connection:
        assert exchange(connection, b"x") == b"x"


def test_a_line_that_refuses_says_so_and_accepts_again_at_the_same_address(echo: str, line: Line) -> None:
    proxy = line(echo)
    with connect(proxy.address) as connection:
        assert exchange(connection, b"x") == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.address)
        assert exchange(connection, b"x") == b"x"

    proxy.accept()
    with connect(proxy.address) as connection:
        assert exchange(connection, b"x") == b"x"


def test_connections_go_to_the_targets_in_turn(echo: str, line: Line) -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    dead = f"127.0.0.1:{nobody.getsockname()[1]}"
    nobody.close()
    proxy = line(echo, dead)

    with connect(proxy.address) as first, connect(proxy.address) as second:
        assert exchange(first, b"x") == b"x"
        with pytest.raises(ConnectionError):
            second.sendall(second.recv(1) or bytes(1 << 24))


def test_a_line_that_ends_while_it_connects_leaves_nothing_pending(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connects = threading.Event()

    async def for_ever(*_: object, **__: object) -> None:
        connects.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", for_ever)
    with Proxy(echo) as proxy, connect(proxy.address):
        assert connects.wait(WAIT_S)

    assert not asyncio.all_tasks(proxy._loop)


def test_a_line_that_ends_with_connections_that_it_has_just_accepted_leaves_none(
    echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had no task yet that could be ended, and their sockets were garbage that another test was blamed for."""
    unclosed: list[object] = []
    with Proxy(echo) as proxy:
        proxy._loop.call_soon_threadsafe(time.sleep, 0.3)  # its thread is late, as on a busy machine
        for _ in range(3):
            connect(proxy.address).close()
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: unclosed.append(unraisable.exc_value))

    loop = proxy._loop
    del proxy
    gc.collect()

    assert unclosed == []
    assert not asyncio.all_tasks(loop)
