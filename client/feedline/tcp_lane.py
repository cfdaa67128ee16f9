"""The trainer's end of the tcp lane: bodies are received straight into the buffers that batches are handed out in.

It belongs to one Fetch stream and ends with it. What breaks it makes the stream a lost one, whose keys are wanted
again; nothing else is different.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from io import BufferedReader
from typing import TypeAlias

from feedline_wire.errors import FeedlineError, ProtocolMismatch
from feedline_wire.frames import Piece, decode_head
from feedline_wire.lane import ACCEPTED, GREETING, HEAD, MAX_PIECE_NBYTES

Stream: TypeAlias = "BufferedReader[socket.SocketIO]"

CONNECT_S = 1.0
"""A port that cannot be reached (a container publishes only the other) is given up after this; gRPC goes on."""

BUFFER_NBYTES = 256 << 10
"""Small batches are read many at a time; what is larger goes straight to its place."""

CLOSED = "the loader closed it"

JOIN_S = 2.0
"""How long what is still on its way may take when the loader has ended the stream in good order."""


class TcpLane:
    """Connects and reads on a thread of its own, until the lane ends or `close`.

    `take` gets every piece, with the stream to read its body from. `unreachable` is called if there was no lane to be
    had, and nothing was lost; `ended` if there was one and it broke.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ticket: bytes,
        *,
        take: Callable[[Piece, Stream, int], None],
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
        self._thread = threading.Thread(
            target=self._run, args=(host, port, ticket), name=f"feedline tcp {host}:{port}", daemon=True
        )
        self._thread.start()

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

    def _run(self, host: str, port: int, ticket: bytes) -> None:
        try:
            connection = socket.create_connection((host, port), CONNECT_S)
        except OSError as error:
            self._unreachable(str(error))
            return
        with connection:
            with self._lock:
                self._connection = connection
                if self._closing:
                    return
            try:
                greet(connection, ticket)
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
            with BufferedReader(connection.makefile("rb", 0), BUFFER_NBYTES) as stream:
                while head := stream.read(HEAD.size):
                    piece_nbytes, body_nbytes = HEAD.unpack(_whole(head, HEAD.size))
                    if piece_nbytes > MAX_PIECE_NBYTES:
                        raise ProtocolMismatch(f"a header of {piece_nbytes} bytes was announced")
                    piece = decode_head(_whole(stream.read(piece_nbytes), piece_nbytes))
                    self._take(piece, stream, body_nbytes)
        except (OSError, EOFError, ValueError, FeedlineError) as error:
            return str(error)
        return CLOSED


def greet(connection: socket.socket, ticket: bytes) -> None:
    """Show the ticket. OSError if it is not taken."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(GREETING + ticket)
    if connection.recv(len(ACCEPTED)) != ACCEPTED:
        raise ConnectionRefusedError("the ticket is not known there; it is another loader, or none")
    # No deadline: a loader may have nothing to say for long. That it is alive is watched over the stream.
    connection.settimeout(None)


def read_body(stream: Stream, body: memoryview) -> None:
    """Fill the body from the lane. EOFError if the lane ends in it."""
    while body:
        count = stream.readinto(body)
        if not count:
            raise EOFError("the lane ended in the middle of a batch")
        body = body[count:]


def skip(stream: Stream, nbytes: int) -> None:
    """Read past a body that nobody wants any more. EOFError if the lane ends in it."""
    while nbytes:
        chunk = stream.read(min(nbytes, BUFFER_NBYTES))
        if not chunk:
            raise EOFError("the lane ended in the middle of a batch")
        nbytes -= len(chunk)


def _whole(data: bytes, wanted: int) -> bytes:
    if len(data) < wanted:
        raise EOFError("the lane ended in the middle of a header")
    return data
