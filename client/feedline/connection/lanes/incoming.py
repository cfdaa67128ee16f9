"""What arrives on a lane's connection: heads are read ahead, bodies go straight to their places.

The law: every byte is handed out once, in order. A body is waited for in one call (`MSG_WAITALL`): on loopback a
receive brings some 120 KiB, and for each of those the interpreter would take its lock, run a few lines and wait again,
which was a fifth of what a batch of 4 MiB cost the trainer.
"""

import socket
import sys
from typing import Final

AHEAD_NBYTES: Final = 256 << 10
"""Read at once where batches are small, so that many come with one call."""

HEAD_NBYTES: Final = 512
"""The same where they are large: a head and its piece have some 200 bytes, and what is read beyond them is copied."""

LARGE_NBYTES: Final = 64 << 10
"""From here on a body is large."""

WAKE_PART: Final = 4
WAKE_LEAST_NBYTES: Final = 128 << 10
WAKE_MOST_NBYTES: Final = 2 << 20
"""The reader is woken when a quarter of a body has come (SO_RCVLOWAT), not for every packet: with batches of 8 MiB the
trainer spends 0.10-0.12 CPU seconds a GB instead of 0.15, with 1 MiB 0.19 instead of 0.20. Only while at least as much
of the body follows what is waited for: the kernel counts what it has not handed over, and at the end would wait for
more than there is."""


CUT: Final = "the lane ended in the middle of a batch"


class Incoming:
    """Reads a connection whose calls block. One thread. OSError if the connection breaks, EOFError where it ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._ahead = memoryview(bytearray(AHEAD_NBYTES))
        self._start = self._end = 0  # what lies in `_ahead` and was not handed out
        self._at_once = AHEAD_NBYTES

    @property
    def has_ended(self) -> bool:
        """Nothing more will come. Waits until something does, or nothing."""
        return self._start == self._end and not self._fill()

    def read(self, nbytes: int) -> bytes:
        """The next bytes, all of them."""
        if nbytes > AHEAD_NBYTES:
            body = bytearray(nbytes)
            self.read_into(memoryview(body))
            return bytes(body)
        while self._end - self._start < nbytes:
            if not self._fill():
                raise EOFError(CUT)
        data = bytes(self._ahead[self._start : self._start + nbytes])
        self._start += nbytes
        return data

    def read_into(self, body: memoryview) -> None:
        """Fill the body with the next bytes."""
        self._at_once = HEAD_NBYTES if len(body) >= LARGE_NBYTES else AHEAD_NBYTES
        here = min(self._end - self._start, len(body))
        body[:here] = self._ahead[self._start : self._start + here]
        self._start += here
        body = body[here:]
        wake_nbytes = min(len(body) // WAKE_PART, WAKE_MOST_NBYTES)
        if sys.platform == "linux" and wake_nbytes >= WAKE_LEAST_NBYTES:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_nbytes)
            early = len(body) - wake_nbytes
            self._receive(body[:early])
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            body = body[early:]
        self._receive(body)

    def _receive(self, body: memoryview) -> None:
        while body:
            count = self._connection.recv_into(body, len(body), socket.MSG_WAITALL)
            if not count:
                raise EOFError(CUT)
            body = body[count:]

    def skip(self, nbytes: int) -> None:
        """Pass over the next bytes."""
        self._at_once = AHEAD_NBYTES
        while nbytes:
            if self._start == self._end and not self._fill():
                raise EOFError(CUT)
            passed = min(nbytes, self._end - self._start)
            self._start += passed
            nbytes -= passed

    def _fill(self) -> int:
        """Read ahead what has come, at least a byte; 0 at the end."""
        if self._start:
            left = self._end - self._start
            self._ahead[:left] = bytes(self._ahead[self._start : self._end])
            self._start, self._end = 0, left
        count = self._connection.recv_into(self._ahead[self._end : self._end + self._at_once])
        self._end += count
        return count
