"""The trainer's end of a lane: connects, shows its ticket, and reads answers until the loader ends it.

A lane belongs to one Fetch stream and ends with it. What breaks it makes the stream a lost one, whose keys are wanted
again; nothing else is different. Bodies are received straight into the buffers that batches are handed out in.
"""

import contextlib
import importlib
import socket
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Protocol, TypeAlias

from feedline_wire.errors import FeedlineError, ProtocolMismatch
from feedline_wire.frames import Piece, decode_head
from feedline_wire.lane import HEAD, MAX_PIECE_NBYTES
from feedline_wire.tensors import Array

CONNECT_S = 1.0
"""A port that cannot be reached (a container publishes only the other) is given up after this; gRPC goes on."""

NOT_TAKEN = "the ticket was not taken: it is another loader, or none, or one too busy to hear it out"

JOIN_S = 2.0
"""How long what is still on its way may take when the loader has ended the stream in good order."""

CLOSED = "the loader closed it"

CUT: Final = "the lane ended in the middle of a batch"

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


class Incoming:
    """The bytes of a connection whose calls block, each handed out once, in order. One thread.

    Heads are read ahead, bodies go straight to their places. A body is waited for in one call (`MSG_WAITALL`): on
    loopback a receive brings some 120 KiB, and for each of those the interpreter would take its lock, run a few lines
    and wait again, which was a fifth of what a batch of 4 MiB cost the trainer. Raises OSError if the connection breaks
    and EOFError if it ends within what was asked for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._ahead = memoryview(bytearray(AHEAD_NBYTES))
        self._start = self._end = 0  # what lies in `_ahead` and was not handed out
        self._at_once = AHEAD_NBYTES

    def read(self, nbytes: int, *, may_end: bool = False) -> bytes:
        """The next bytes, all of them; none where the connection `may_end` here and does."""
        if nbytes > AHEAD_NBYTES:
            body = bytearray(nbytes)
            self.read_into(memoryview(body))
            return bytes(body)
        while self._end - self._start < nbytes:
            if not self._fill():
                if may_end and self._start == self._end:
                    return b""
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


class Body(Protocol):
    """What an answer's body is to be read from, once, or passed over."""

    def read_into(self, body: memoryview) -> None:
        """Fill it."""

    def skip(self, nbytes: int) -> None:
        """Pass over it."""


class Answers(Body, Protocol):
    """What answers are read from."""

    def read(self, nbytes: int, *, may_end: bool = False) -> bytes:
        """The next bytes of an answer's head, all of them; none where the connection `may_end` here and does."""
        ...


Take: TypeAlias = Callable[[Piece, Body, int, Array | None], None]
"""(piece, incoming, nbytes, placed): a body of so many bytes, which is to be read from there unless it is placed."""


class Lane(ABC):
    """Reads on a thread of its own, from `start` until the loader ends the lane or `close`.

    `take` gets every piece, with what to read its body from. `unreachable` is called if there was no lane to be had,
    and nothing was lost; `ended` if there was one and it broke.
    """

    name: ClassVar[str]
    is_encrypted: ClassVar[bool] = False
    """A trainer that speaks TLS has only lanes that are, one that does not only those that are not."""
    _head: ClassVar[struct.Struct] = HEAD
    """Of an answer: lengths of its piece and body, and where a lane has such things, what says its place."""

    @classmethod
    def is_reachable(cls, address: str) -> bool:
        """A lane that a loader has at this address is worth asking for. Does not wait."""
        return bool(address)

    def __init__(
        self,
        host: str,
        address: str,
        ticket: bytes,
        *,
        memory_nbytes: int,
        take: Take,
        unreachable: Callable[[str], None],
        ended: Callable[[Exception], None],
    ) -> None:
        """`address` is what the loader on `host` says of the lane, `memory_nbytes` what batches may take here."""
        self._host = host
        self._address = address
        self._ticket = ticket
        self._memory_nbytes = memory_nbytes
        self._take = take
        self._unreachable = unreachable
        self._ended = ended
        self._lock = threading.Lock()
        self._closing = False
        self._finishing = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"feedline {self.name} {host}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    @abstractmethod
    def _connect(self) -> socket.socket:
        """A connection. OSError if there is none to be had."""

    @abstractmethod
    def _greet(self, connection: socket.socket) -> None:
        """Show the ticket. OSError if it is not taken."""

    def _placed(self, nbytes: int, number: int, at: int) -> Array | None:
        """The body that lies where a head of this lane's form says; None if it follows."""
        raise NotImplementedError

    def _incoming(self, connection: socket.socket) -> Answers:
        """What comes, as it was before the loader made it ready for this lane."""
        return Incoming(connection)

    def _read_one(self, incoming: Answers) -> bool:
        """Take one answer; False if the lane ended before it. OSError, EOFError or FeedlineError if it breaks."""
        head = incoming.read(self._head.size, may_end=True)
        if not head:
            return False
        piece_nbytes, nbytes, *place = self._head.unpack(head)
        if piece_nbytes > MAX_PIECE_NBYTES:
            raise ProtocolMismatch(f"a header of {piece_nbytes} bytes was announced")
        piece = decode_head(incoming.read(piece_nbytes))
        self._take(piece, incoming, nbytes, self._placed(nbytes, *place) if place else None)
        return True

    def close(self, *, finish: bool) -> None:
        """End it; with `finish` what the loader has sent is read first. Idempotent."""
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
            self._end(self._read(connection))

    def _end(self, broken: Exception | None) -> None:
        """Say that it is over. Not in `_run`, to which frames of `broken` lead back.

        With a name for it there, they, the batch that was cut and the lane's memory would be a circle, and so be there
        until garbage is collected.
        """
        if broken is None:  # in good order: so will the stream be, and its last words should be heard
            self._finishing.wait(JOIN_S)
        if not self._finishing.is_set():
            self._ended(broken or EOFError(CLOSED))

    def _read(self, connection: socket.socket) -> Exception | None:
        """Take everything that comes, and say what went wrong; None if the loader ended it."""
        try:
            incoming = self._incoming(connection)
            while self._read_one(incoming):
                pass
        except (OSError, EOFError, ValueError, FeedlineError) as error:
            return error
        return None


def kind_of(name: str) -> type[Lane]:
    """The lane of a name in `feedline_wire.lane.LANES`, from its own module: it loads what others do not need."""
    kind: type[Lane] = importlib.import_module(f"feedline.connection.lanes.{name}").LANE
    return kind
