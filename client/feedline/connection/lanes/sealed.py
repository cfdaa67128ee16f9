"""The sealed lane: batches over a TCP connection of their own, opened piece by piece into the place they are used in.

The key came over the stream, which TLS protects. Nothing is taken for a batch before all of its pieces are opened; a
piece that is not the next one of this lane, as the loader sealed it, ends the lane.
"""

import contextlib
import functools
import logging
import socket
from typing import Final

from feedline.connection.lanes.lane import NOT_TAKEN, Incoming
from feedline.connection.lanes.tcp import TcpLane
from feedline_wire import sealing
from feedline_wire.errors import Damaged, ProtocolMismatch
from feedline_wire.lane import (
    ACCEPTED,
    HEAD,
    MAX_PIECE_NBYTES,
    SEALED,
    SEALED_GREETING,
    SEALED_HEAD,
    TICKET_NBYTES,
    heard,
)
from feedline_wire.sealing import KEY_NBYTES, PIECE_NBYTES, TAG_NBYTES, Opener

log = logging.getLogger("feedline")


class SealedIncoming:
    """What was sealed, each byte handed out once, in order. Raises as Incoming does, and Damaged. One thread."""

    def __init__(self, incoming: Incoming, opener: Opener) -> None:
        self._incoming = incoming
        self._opener = opener
        self._sealed = memoryview(bytearray(PIECE_NBYTES + TAG_NBYTES))
        self._head = b""  # what was opened of an answer's head and not handed out

    def read(self, nbytes: int, *, may_end: bool = False) -> bytes:
        """The next bytes of an answer's head, all of them; none where the connection `may_end` here and does."""
        if not self._head:
            announced = self._incoming.read(SEALED_HEAD.size, may_end=may_end)
            if not announced:
                return b""
            [length] = SEALED_HEAD.unpack(announced)
            if not HEAD.size <= length <= HEAD.size + MAX_PIECE_NBYTES:
                raise Damaged(f"a head of {length} bytes was announced")
            opened = bytearray(length)
            self._opener.open(memoryview(self._incoming.read(length + TAG_NBYTES)), memoryview(opened))
            self._head = bytes(opened)
        if nbytes > len(self._head):
            raise ProtocolMismatch(f"a head has {len(self._head)} bytes where {nbytes} were announced")
        found, self._head = self._head[:nbytes], self._head[nbytes:]
        return found

    def read_into(self, body: memoryview) -> None:
        """Fill the body with the next bytes; if this raises, what is in it means nothing."""
        for at in range(0, len(body), PIECE_NBYTES):
            piece = body[at : at + PIECE_NBYTES]
            sealed = self._sealed[: len(piece) + TAG_NBYTES]
            self._incoming.read_into(sealed)
            self._opener.open(sealed, piece)

    def skip(self, nbytes: int) -> None:
        """Pass over a body, of which every piece has to be right all the same."""
        unused = memoryview(bytearray(min(nbytes, PIECE_NBYTES)))
        for at in range(0, nbytes, PIECE_NBYTES):
            self.read_into(unused[: nbytes - at])


class SealedLane(TcpLane):
    """The lane to a port of the loader's host."""

    name = SEALED
    is_encrypted = True
    _opener: Opener

    @classmethod
    def is_reachable(cls, address: str) -> bool:
        """It is a port, and pieces can be opened here."""
        return super().is_reachable(address) and _can_open()

    def _greet(self, connection: socket.socket) -> None:
        secret, key = self._ticket[:TICKET_NBYTES], self._ticket[TICKET_NBYTES:]
        if len(key) != KEY_NBYTES:
            raise ConnectionRefusedError(f"the loader gave a key of {len(key)} bytes; {KEY_NBYTES} were wanted")
        self._opener = Opener(secret, key)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(SEALED_GREETING + secret)
        answer = bytearray(len(ACCEPTED))
        with contextlib.suppress(Damaged):
            self._opener.open(memoryview(heard(connection, len(ACCEPTED) + TAG_NBYTES)), memoryview(answer))
            if answer == ACCEPTED:
                return
        raise ConnectionRefusedError(f"{NOT_TAKEN}; what came was not sealed with its key")

    def _incoming(self, connection: socket.socket) -> SealedIncoming:
        return SealedIncoming(Incoming(connection), self._opener)


@functools.cache
def _can_open() -> bool:
    """Pieces can be opened here. If not, the log says why, once."""
    if reason := sealing.missing():
        log.warning("no sealed lane, batches come by gRPC and cost several times the processor time: %s", reason)
    return not reason


LANE: Final = SealedLane
