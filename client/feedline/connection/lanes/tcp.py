"""The trainer's end of the tcp lane: bodies are received straight into the buffers that batches are handed out in.

It belongs to one Fetch stream and ends with it. What breaks it makes the stream a lost one, whose keys are wanted
again; nothing else is different.
"""

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from feedline.connection.lanes.incoming import Incoming
from feedline_wire.errors import FeedlineError, ProtocolMismatch
from feedline_wire.frames import Piece, decode_head
from feedline_wire.lane import ACCEPTED, GREETING, HEAD, MAX_PIECE_NBYTES
from feedline_wire.tensors import Array

CONNECT_S = 1.0
"""A port that cannot be reached (a container publishes only the other) is given up after this; gRPC goes on."""

CLOSED = "the loader closed it"

JOIN_S = 2.0
"""How long what is still on its way may take when the loader has ended the stream in good order."""


Take: TypeAlias = Callable[[Piece, Incoming, int, Array | None], None]
"""(piece, incoming, nbytes, placed): a body of so many bytes, which is to be read from there unless it is placed."""


class Lane(ABC):
    """Connects and reads on a thread of its own, from `start` until the lane ends or `close`.

    `take` gets every piece, with what to read its body from. `unreachable` is called if there was no lane to be
    had, and nothing was lost; `ended` if there was one and it broke.
    """

    def __init__(
        self,
        name: str,
        *,
        take: Take,
        unreachable: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        self._take = take
        self._unreachable = unreachable
        self._ended = ended
        self._lock = threading.Lock()
        self._closing = False
        self._finishing = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"feedline {name}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    @abstractmethod
    def _connect(self) -> socket.socket:
        """A connection. OSError if there is none to be had."""

    @abstractmethod
    def _greet(self, connection: socket.socket) -> None:
        """Show the ticket. OSError if it is not taken."""

    @abstractmethod
    def _read_one(self, incoming: Incoming, take: Take) -> None:
        """Take one answer. OSError, EOFError or a FeedlineError if the lane breaks."""

    def close(self, *, finish: bool) -> None:
        """End it; with `finish` what the loader has sent is read first. Twice is fine."""
        self._finishing.set()
        if finish:
            self._thread.join(JOIN_S)
        with self._lock:
            self._closing = True
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except OSError as error:
            self._unreachable(str(error))
            return
        with connection:
            with self._lock:
                self._connection = connection
                if self._closing:
                    return
            try:
                self._greet(connection)
                # No deadline: a loader may have nothing to say for long. That it lives is watched over the stream.
                connection.settimeout(None)
            except OSError as error:
                self._unreachable(str(error))
                return
            reason = self._read(connection)
            if reason == CLOSED:  # in good order: so will the stream be, and its last words should be heard
                self._finishing.wait(JOIN_S)
            if not self._finishing.is_set():
                self._ended(reason)

    def _read(self, connection: socket.socket) -> str:
        """Take everything that comes, and say why no more does."""
        try:
            incoming = Incoming(connection)
            while not incoming.has_ended:
                self._read_one(incoming, self._take)
        except (OSError, EOFError, ValueError, FeedlineError) as error:
            return str(error)
        return CLOSED


class TcpLane(Lane):
    """The tcp lane to a host's port."""

    def __init__(
        self,
        host: str,
        port: int,
        ticket: bytes,
        *,
        take: Take,
        unreachable: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(f"tcp {host}:{port}", take=take, unreachable=unreachable, ended=ended)
        self._address = (host, port)
        self._ticket = ticket

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address, CONNECT_S)

    def _greet(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(GREETING + self._ticket)
        if connection.recv(len(ACCEPTED)) != ACCEPTED:
            raise ConnectionRefusedError("the ticket is not known there; it is another loader, or none")

    def _read_one(self, incoming: Incoming, take: Take) -> None:
        piece_nbytes, body_nbytes = HEAD.unpack(incoming.read(HEAD.size))
        take(read_piece(incoming, piece_nbytes), incoming, body_nbytes, None)


def read_piece(incoming: Incoming, nbytes: int) -> Piece:
    """The piece that a head announced. EOFError if the lane ends in it, ProtocolMismatch if it is none."""
    if nbytes > MAX_PIECE_NBYTES:
        raise ProtocolMismatch(f"a header of {nbytes} bytes was announced")
    return decode_head(incoming.read(nbytes))
