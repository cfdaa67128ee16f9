"""The sealed lane: the tcp lane where gRPC speaks TLS, its bytes under AES-256-GCM.

TLS as gRPC does it costs a trainer four times as many processor seconds as opening large pieces. The key comes to the
trainer over the stream: who could not read the stream cannot read the lane. A piece is sealed straight from its slot
into what is sent, or, of a batch out of files, from where the kernel copied it together.
"""

import mmap
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from feedline_server.lanes.iovec import Iovec
from feedline_server.lanes.lane import Lane, Message, Offer
from feedline_server.lanes.tcp import TcpListener
from feedline_server.settings.settings import Settings
from feedline_wire import sealing
from feedline_wire.lane import ACCEPTED, HEAD, MAX_PIECE_NBYTES, SEALED, SEALED_GREETING, SEALED_HEAD
from feedline_wire.sealing import PIECE_NBYTES, TAG_NBYTES, Sealer

BUFFER_NBYTES = PIECE_NBYTES + SEALED_HEAD.size + HEAD.size + MAX_PIECE_NBYTES + TAG_NBYTES
"""Pieces are put there until they have PIECE_NBYTES together, so that small ones go with one call."""

log = structlog.get_logger()


class _Sealed:
    """Messages, of which as much lies sealed in `buffer` as is sent at once."""

    def __init__(self, messages: Sequence[Message], sealer: Sealer, buffer: memoryview, copied: "_Copied") -> None:
        self._sealer = sealer
        self._buffer = buffer
        self._start = self._end = 0  # what was not sent of what lies there
        self._pieces = _pieces(messages, copied)
        self._has_more = bool(messages)

    def __bool__(self) -> bool:
        return self._start < self._end or self._has_more

    def send(self, connection: socket.socket) -> None:
        """See Outgoing."""
        if self._start == self._end:
            self._fill()
        self._start += connection.send(self._buffer[self._start : self._end])

    def _fill(self) -> None:
        self._start = self._end = 0
        while self._end < PIECE_NBYTES:
            found = next(self._pieces, None)
            if found is None:
                self._has_more = False
                return
            before, piece = found
            self._buffer[self._end : self._end + len(before)] = before
            self._end += len(before)
            self._end += self._sealer.seal(piece, self._buffer[self._end :])


def _pieces(messages: Sequence[Message], copied: "_Copied") -> Iterator[tuple[bytes, memoryview]]:
    """What is to be sealed, and what goes before it as it is."""
    for message in messages:
        head = HEAD.pack(len(message.piece), message.nbytes) + message.piece
        yield SEALED_HEAD.pack(len(head)), memoryview(head)
        for at in range(0, message.nbytes, PIECE_NBYTES):
            if isinstance(message.body, memoryview):
                yield b"", message.body[at : at + PIECE_NBYTES]
            else:
                yield b"", copied.next(message.body, min(PIECE_NBYTES, message.nbytes - at))


class _Copied:
    """A piece of a batch out of files, copied together by the kernel.

    Where a file was cut that is an error (EFAULT); a process that reads there itself is ended.
    """

    def __init__(self) -> None:
        self._fd = -1

    def next(self, rows: Iovec, nbytes: int) -> memoryview:
        """The next bytes of these rows, until the next are asked for. OSError as of `Iovec.write`."""
        if self._fd < 0:
            self._fd = os.memfd_create("feedline-sealed", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, PIECE_NBYTES)
            self._memory = memoryview(mmap.mmap(self._fd, PIECE_NBYTES))
        rows.write(self._fd, nbytes)
        return self._memory[:nbytes]

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SealedLane(Lane):
    """One trainer's connection, and what it is sealed with."""

    def __init__(self, connection: socket.socket, sealer: Sealer) -> None:
        super().__init__(connection)
        self._sealer = sealer
        self._buffer = memoryview(bytearray(BUFFER_NBYTES))
        self._copied = _Copied()

    def _laid_out(self, messages: Sequence[Message]) -> _Sealed:
        return _Sealed(messages, self._sealer, self._buffer, self._copied)

    def close(self) -> None:
        """See Lane."""
        super().close()
        self._copied.close()


class SealedOffer(Offer):
    """A stream's right to a lane that only its trainer can read."""

    def __init__(self, taken: Callable[[Lane], None]) -> None:
        super().__init__(taken)
        self.sealer = Sealer(self.secret)
        """Of all that is ever sent on it, whoever comes for it."""


class SealedListener(TcpListener):
    """Listens where the tcp lane would, and is wanted where that is."""

    name = SEALED
    kind_of_offer = SealedOffer
    _greeting = SEALED_GREETING

    def start(self, settings: Settings) -> None:
        """See LaneListener. Where nothing can be sealed the log says so."""
        if reason := sealing.missing():
            log.warning("no sealed lane, batches go by gRPC", reason=reason)
        else:
            super().start(settings)

    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told: what it shows, and what it opens batches with."""
        assert isinstance(offer, SealedOffer), "the kind of offer that this listener makes"
        return offer.secret + offer.sealer.key

    def _claim(self, offer: Offer, connection: socket.socket) -> bool:
        assert isinstance(offer, SealedOffer), "the kind of offer that this listener makes"
        sealer = offer.sealer

        def accept() -> None:
            answer = bytearray(len(ACCEPTED) + TAG_NBYTES)
            sealer.seal(memoryview(ACCEPTED), memoryview(answer))
            connection.sendall(answer)

        return offer.claim(SealedLane(connection, sealer), accept)


LISTENER: Final = SealedListener
