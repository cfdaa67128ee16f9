"""Pieces of memory that are sent as one: whatever the kernel takes at a time, the bytes arrive whole and in order."""

import ctypes
import errno
import mmap
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feedline_server.lanes.iovec import MAX_PIECES, Iovec, Pieces, together
from feedline_wire.tensors import Array

Pair = tuple[socket.socket, socket.socket]


def pieces_of(*pieces: tuple[int, int]) -> Pieces:
    """Addresses and lengths."""
    return np.array(pieces, np.uint64)


def whole(*arrays: Array) -> Pieces:
    """A piece of each."""
    return pieces_of(*((array.ctypes.data, array.nbytes) for array in arrays))


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A sender whose socket takes little at once and never blocks, and who reads it."""
    sender, reader = socket.socketpair()
    with sender, reader:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sender.setblocking(False)
        yield sender, reader


def sent(pair: Pair, outgoing: Iovec, nbytes: int) -> bytes:
    """What arrives of it."""
    sender, reader = pair
    found = bytearray()

    def read() -> None:
        while len(found) < nbytes and (data := reader.recv(1000)):
            found.extend(data)

    reading = threading.Thread(target=read)
    reading.start()
    while outgoing:
        try:
            outgoing.send(sender)
        except BlockingIOError:
            continue
    reading.join(30)
    return bytes(found)


def test_more_pieces_than_the_kernel_takes_at_once_arrive_in_their_order(pair: Pair) -> None:
    rows = np.arange(3 * MAX_PIECES * 8, dtype=np.uint8).reshape(-1, 8)
    ids = np.random.default_rng(1).permutation(len(rows))
    iovec = Iovec(pieces_of(*((rows.ctypes.data + at * 8, 8) for at in ids.tolist())), [rows])

    assert sent(pair, iovec, rows.nbytes) == rows[ids].tobytes()


def test_a_piece_that_the_kernel_takes_in_parts_arrives_whole(pair: Pair) -> None:
    first, second = np.arange(300_001, dtype=np.uint32), np.arange(7, dtype=np.uint8)
    iovec = Iovec(whole(first, second), [first, second])

    assert iovec.nbytes == 1_200_011
    assert sent(pair, iovec, iovec.nbytes) == first.tobytes() + second.tobytes()


def test_heads_and_pieces_go_out_as_one_in_their_order(pair: Pair) -> None:
    rows = np.arange(64, dtype=np.uint8)
    bodies = [Iovec(whole(rows), [rows]), memoryview(b""), memoryview(b"body")]

    assert sent(pair, together([b"one", b"two", b"three"], bodies), 79) == b"one" + rows.tobytes() + b"twothreebody"


def test_memory_that_is_gone_is_an_error_and_the_process_lives_on(pair: Pair, tmp_path: Path) -> None:
    """A file that is cut while it is mapped: reading it here would end the process with SIGBUS."""
    path = tmp_path / "x"
    path.write_bytes(bytes(4 * mmap.PAGESIZE))
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        file.truncate(mmap.PAGESIZE)
        iovec = Iovec(pieces_of((address + 2 * mmap.PAGESIZE, mmap.PAGESIZE)), [mapping])

        with pytest.raises(OSError, match="Bad address") as caught:
            iovec.send(pair[0])

    assert caught.value.errno == errno.EFAULT


def test_a_reader_that_is_gone_is_an_error(pair: Pair) -> None:
    sender, reader = pair
    reader.close()
    rows = np.zeros(10, np.uint8)

    with pytest.raises(BrokenPipeError):
        Iovec(whole(rows), [rows]).send(sender)
