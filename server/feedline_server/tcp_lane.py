"""The tcp lane: batches go from their slots straight into a socket of the trainer's own.

gRPC copies every byte four times on its way between two Python programs; here the kernel's two copies are all. What is
wanted, failures of the stream, draining and the end still go over the Fetch stream, and a lane never outlives its
stream. It is offered only where gRPC itself speaks without TLS, so nobody gets less protection than he asked for.
"""

import contextlib
import hmac
import secrets
import select
import socket
import threading
from collections.abc import Callable, Sequence

import structlog

from feedline_wire.errors import LoaderUnavailable
from feedline_wire.lane import ACCEPTED, GREETING, HEAD, TICKET_NBYTES

GREETING_S = 5.0
"""A trainer greets at once; who connects and says nothing is sent away after this."""

NO_PROGRESS_S = 30.0
"""A trainer reads whatever it wanted as fast as it comes, so one that takes nothing for so long is stopped or gone."""

MAX_BUFFERS = 512
"""Pieces of memory in one sendmsg; the kernel takes 1024 (IOV_MAX), and a delivery has two."""

BACKLOG = 64

log = structlog.get_logger()


class Lane:
    """One trainer's connection. `send` and `close` are its stream's; `end` is anybody's."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    def send(
        self,
        deliveries: Sequence[tuple[bytes, memoryview]],
        *,
        hand_over: Callable[[], None],
        take_up: Callable[[], bool],
    ) -> None:
        """Send (piece, body) after (piece, body); returns when the kernel has all.

        Bodies are read only outside of `hand_over` and `take_up`, between which it waits for the trainer to read; when
        `take_up` is false they are no longer there. OSError then, or if the trainer is gone: the lane is of no use.
        """
        buffers: list[memoryview] = []
        for piece, body in deliveries:
            buffers += (memoryview(HEAD.pack(len(piece), len(body)) + piece), body)
        while buffers:
            try:
                sent = self._connection.sendmsg(buffers[:MAX_BUFFERS])
            except BlockingIOError:
                hand_over()
                has_read = self._wait(NO_PROGRESS_S)
                if not take_up():
                    raise ConnectionAbortedError("it did not read while others needed the memory") from None
                if not has_read:
                    raise TimeoutError(f"it read nothing for {NO_PROGRESS_S:g} s") from None
                continue
            while buffers and sent >= len(buffers[0]):
                sent -= len(buffers.pop(0))
            if sent:
                buffers[0] = buffers[0][sent:]

    def _wait(self, timeout_s: float) -> bool:
        """Wait until the kernel takes more, or the lane ends; False after `timeout_s`."""
        room = select.poll()
        room.register(self._connection, select.POLLOUT)
        return bool(room.poll(timeout_s * 1000))

    def end(self) -> None:
        """Send no more, and wake a sender that waits in it. Twice is fine.

        Not closed here: the descriptor could be another connection's before the sender sees that it is closed.
        """
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        self.end()
        self._connection.close()


class Offer:
    """A stream's right to one lane: a ticket, and the lane once the trainer came."""

    def __init__(self) -> None:
        self.ticket = secrets.token_bytes(TICKET_NBYTES)
        self._lock = threading.Lock()
        self._lane: Lane | None = None
        self._closed = False

    @property
    def lane(self) -> Lane | None:
        """The lane, if the trainer has come."""
        return self._lane

    def take_up(self, connection: socket.socket) -> bool:
        """The trainer came; False if it came too late or twice."""
        with self._lock:
            if self._closed or self._lane is not None:
                return False
            connection.sendall(ACCEPTED)
            self._lane = Lane(connection)
            return True

    def end(self) -> None:
        """The trainer is gone, or the loader stops: no lane any more, and a sender that waits in it is woken."""
        with self._lock:
            self._closed = True
            if self._lane is not None:
                self._lane.end()

    def close(self) -> None:
        """The stream is over and its sender with it. Twice is fine."""
        self.end()
        if self._lane is not None:
            self._lane.close()


class TcpLanes:
    """Listens for trainers with tickets. `start`, `offer` and `withdraw`, `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offers: dict[bytes, Offer] = {}
        self._listener: socket.socket | None = None
        self.port = 0
        """Where it listens; 0 before `start`."""

    def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one. LoaderUnavailable if that is not possible."""
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise LoaderUnavailable(
                f"cannot listen on {host!r} port {port} for the tcp lane: {error}; choose another port with tcp_port, "
                f"or tcp_lane = false"
            ) from error
        self._listener = listener
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), name="feedline-tcp-accept", daemon=True).start()

    def offer(self) -> Offer:
        """A ticket for a new stream; `withdraw` it when the stream ends."""
        offer = Offer()
        with self._lock:
            self._offers[offer.ticket] = offer
        return offer

    def withdraw(self, offer: Offer) -> None:
        """The stream is over: its lane ends, or can no longer be had."""
        with self._lock:
            self._offers.pop(offer.ticket, None)
        offer.close()

    def close(self) -> None:
        """Listen no more, end every lane; their streams close them. Twice is fine."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._listener.close()
        with self._lock:
            offers = list(self._offers.values())
        for offer in offers:
            offer.end()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:  # closed
                return
            # On a thread of its own: one who says nothing must not keep the next one waiting.
            threading.Thread(
                target=self._receive, args=(connection, address), name="feedline-tcp-greeting", daemon=True
            ).start()

    def _receive(self, connection: socket.socket, address: object) -> None:
        try:
            connection.settimeout(GREETING_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            said = connection.recv(len(GREETING) + TICKET_NBYTES, socket.MSG_WAITALL)
            offer = self._offer_of(said)
            connection.settimeout(NO_PROGRESS_S)
            if offer is not None and offer.take_up(connection):
                return
            log.warning("a connection to the tcp lane had no valid ticket", peer=str(address))
        except OSError:
            pass  # it went away
        connection.close()

    def _offer_of(self, said: bytes) -> Offer | None:
        if not said.startswith(GREETING):
            return None
        ticket = said[len(GREETING) :]
        with self._lock:
            offers = list(self._offers.values())
        return next((offer for offer in offers if hmac.compare_digest(offer.ticket, ticket)), None)
