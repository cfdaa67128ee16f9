"""What arrives on a lane's connection is handed out once and in order, however it was cut on its way."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from feedline.connection.lanes.lane import (
    AHEAD_NBYTES,
    HEAD_NBYTES,
    LARGE_NBYTES,
    WAKE_LEAST_NBYTES,
    WAKE_PART,
    Incoming,
)

WOKEN_NBYTES = WAKE_PART * WAKE_LEAST_NBYTES
"""From here on the reader of a body is not woken for every packet."""

MISSED_S = 0.2
"""What a reader takes at least that sleeps through a wake-up: it is woken by a timer of TCP's."""

PROMPT_S = 3.0
"""For a byte behind a body, on a busy machine."""


@contextmanager
def connected() -> Iterator[tuple[socket.socket, Incoming]]:
    """The sender's end of a real connection, and what reads the other one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        receiver, _ = listening.accept()
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sender, receiver:
        yield sender, Incoming(receiver)


def noise(nbytes: int) -> bytes:
    return random.Random(nbytes).randbytes(nbytes)


@pytest.mark.parametrize("seed", range(5))
def test_heads_and_bodies_of_any_size_come_in_order_whatever_pieces_they_are_sent_in(seed: int) -> None:
    draw = random.Random(seed)
    around = [1, 12, HEAD_NBYTES, LARGE_NBYTES, AHEAD_NBYTES, WOKEN_NBYTES, 2 * WOKEN_NBYTES, 5 * WOKEN_NBYTES]
    sizes = [max(1, draw.choice(around) + draw.randint(-2, 2)) for _ in range(60)]
    how = [draw.choice(("read", "read_into", "skip")) for _ in sizes]
    wire = noise(sum(sizes))

    def send(to: socket.socket) -> None:
        left = memoryview(wire)
        while left:
            count = min(len(left), draw.choice((1, 700, 70_000, 700_000)))
            to.sendall(left[:count])
            left = left[count:]

    with connected() as (sender, incoming):
        thread = threading.Thread(target=send, args=(sender,))
        thread.start()
        at = 0
        for size, way in zip(sizes, how, strict=True):
            wanted = wire[at : at + size]
            at += size
            if way == "read":
                assert incoming.read(size) == wanted
            elif way == "read_into":
                body = bytearray(size)
                incoming.read_into(memoryview(body))
                assert body == wanted
            else:
                incoming.skip(size)
        thread.join()
        sender.close()
        assert incoming.read(1, may_end=True) == b""


@pytest.mark.parametrize("nbytes", [LARGE_NBYTES, WOKEN_NBYTES - 1, WOKEN_NBYTES, 3 * WOKEN_NBYTES + 1, 20 << 20])
def test_a_body_is_there_as_soon_as_its_last_byte_is(nbytes: int) -> None:
    """The law of WAKE_PART: with nothing behind a body, its end must not be waited for."""
    wire = noise(nbytes)
    body = bytearray(nbytes)

    with connected() as (sender, incoming):
        took = []
        for _ in range(20):
            thread = threading.Thread(target=sender.sendall, args=(wire,))
            began = time.monotonic()
            thread.start()
            incoming.read_into(memoryview(body))
            took.append(time.monotonic() - began)
            assert body == wire
            thread.join()
        assert sorted(took)[5] < MISSED_S  # on a busy machine some may take long for another reason


def test_one_byte_after_a_large_body_is_there_at_once() -> None:
    wire = noise(8 * WOKEN_NBYTES)
    body = bytearray(len(wire))

    with connected() as (sender, incoming):
        thread = threading.Thread(target=sender.sendall, args=(wire,))
        thread.start()
        incoming.read_into(memoryview(body))
        thread.join()
        began = time.monotonic()
        threading.Timer(0.05, sender.sendall, (b"!",)).start()

        assert incoming.read(1) == b"!"
        assert time.monotonic() - began < PROMPT_S


WAYS: dict[str, Callable[[Incoming, int], object]] = {
    "read": Incoming.read,
    "read_into": lambda incoming, nbytes: incoming.read_into(memoryview(bytearray(nbytes))),
    "skip": Incoming.skip,
}


@pytest.mark.parametrize("sent", [0, 1, 6 * WOKEN_NBYTES])
@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_ends_in_the_middle_is_an_error_and_no_short_batch(sent: int, way: str) -> None:
    with connected() as (sender, incoming):
        thread = threading.Thread(target=lambda: (sender.sendall(noise(sent)), sender.close()))
        thread.start()

        with pytest.raises(EOFError, match="in the middle of a batch"):
            WAYS[way](incoming, 8 * WOKEN_NBYTES)
        thread.join()


def test_a_lane_may_end_before_a_head_and_not_within_one() -> None:
    with connected() as (sender, incoming):
        sender.sendall(b"head, h")
        sender.close()

        assert incoming.read(6, may_end=True) == b"head, "
        with pytest.raises(EOFError, match="in the middle of a batch"):
            incoming.read(6, may_end=True)
