"""Lanes beside gRPC: who may have one, and the door where trainers come for it.

A stream that asks for a lane gets a ticket; who shows it at the door gets that stream's lane, once, while the stream
lives. Nobody else is answered. A lane never outlives its stream.
"""

import contextlib
import hmac
import secrets
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from feedline_server.lanes.iovec import Iovec, outgoing_of
from feedline_server.memory.arena import Slot
from feedline_wire.lane import HEAD, PROOF_NBYTES, TICKET_NBYTES

GREETING_S = 5.0
"""A trainer greets at once; who connects and says nothing is sent away after this."""

NO_PROGRESS_S = 30.0
"""A trainer reads whatever it wanted as fast as it comes, so one that takes nothing for so long is stopped or gone."""

MAX_GREETINGS = 256
"""Connections that have not shown a ticket yet, each with a thread that waits for it; one more is sent away at once. As
many as gRPC trainers that begin in the same moment, and no more threads than a machine can bear."""

BACKLOG = 64

if TYPE_CHECKING:
    from feedline_server.memory.trainer import TrainerMemory

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Message:
    """One answer on its way: the piece, and the body unless it is `placed`, in the trainer's own memory."""

    piece: bytes
    nbytes: int
    body: memoryview | Iovec
    placed: Slot | None = None


class Lane:
    """One trainer's connection. `send` and `close` are its stream's; `end` is anybody's."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    @property
    def memory(self) -> "TrainerMemory | None":
        """The trainer's, where batches may be placed."""
        return None

    def send(
        self,
        messages: Sequence[Message],
        *,
        unpin: Callable[[], None],
        pin: Callable[[], bool],
    ) -> None:
        """Send one after the other; returns when the kernel has all.

        Bodies are read only outside of `unpin` and `pin`, between which it waits for the trainer to read; when
        `pin` is false they are no longer there. OSError then, or if the trainer is gone: the lane is of no use.
        """
        outgoing = outgoing_of(self._laid_out(messages))
        while outgoing.is_left:
            try:
                outgoing.send(self._connection)
            except BlockingIOError:
                unpin()
                has_read = self._wait(NO_PROGRESS_S)
                if not pin():
                    raise ConnectionAbortedError("it did not read while others needed the memory") from None
                if not has_read:
                    raise TimeoutError(f"it read nothing for {NO_PROGRESS_S:g} s") from None

    def _laid_out(self, messages: Sequence[Message]) -> list[memoryview | Iovec]:
        """What goes over the connection."""
        buffers: list[memoryview | Iovec] = []
        for message in messages:
            buffers += (memoryview(HEAD.pack(len(message.piece), message.nbytes) + message.piece), message.body)
        return buffers

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
    """A stream's right to one lane: a ticket, and the lane once the trainer came, of which `taken` is told."""

    def __init__(self, taken: Callable[[Lane], None]) -> None:
        self._taken = taken
        self.ticket = secrets.token_bytes(TICKET_NBYTES)
        """What the trainer shows."""
        self.proof = secrets.token_bytes(PROOF_NBYTES)
        """What the loader shows, where the trainer cannot know otherwise whom it has reached."""
        self._lock = threading.Lock()
        self._lane: Lane | None = None
        self._closed = False

    @property
    def lane(self) -> Lane | None:
        """The lane, if the trainer has come."""
        return self._lane

    def claim(self, lane: Lane, accept: Callable[[], None]) -> bool:
        """The trainer came, and is told so by `accept`; False if it came too late or twice."""
        with self._lock:
            if self._closed or self._lane is not None:
                return False
            accept()
            self._lane = lane
            self._taken(lane)
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


class LaneListener(ABC):
    """All lanes of one kind. `offer` and `withdraw`; `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._offers: dict[bytes, Offer] = {}
        self._listener: socket.socket | None = None
        self._greetings = threading.BoundedSemaphore(MAX_GREETINGS)

    @property
    def is_open(self) -> bool:
        """Trainers can come."""
        return self._listener is not None

    def offer(self, taken: Callable[[Lane], None]) -> Offer:
        """A ticket for a new stream, which is told of its lane; `withdraw` it when the stream ends."""
        offer = Offer(taken)
        with self._lock:
            self._offers[offer.ticket] = offer
        return offer

    @abstractmethod
    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told."""

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

    @abstractmethod
    def _greet(self, connection: socket.socket) -> bool:
        """Hear the trainer out, and give it its lane; False if it has no ticket. OSError if it goes away."""

    def _listen(self, listener: socket.socket) -> None:
        self._listener = listener
        threading.Thread(
            target=self._accept, args=(listener,), name=f"feedline-{self.name}-accept", daemon=True
        ).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:  # closed
                return
            if not self._greetings.acquire(blocking=False):
                connection.close()
                log.warning("too many connections without a ticket", lane=self.name, most=MAX_GREETINGS)
                continue
            # On a thread of its own: one who says nothing must not keep the next one waiting.
            threading.Thread(
                target=self._receive, args=(connection, address), name=f"feedline-{self.name}-greeting", daemon=True
            ).start()

    def _receive(self, connection: socket.socket, address: object) -> None:
        try:
            connection.settimeout(GREETING_S)
            if self._greet(connection):
                return
            log.warning("a connection to a lane had no valid ticket", lane=self.name, peer=str(address))
        except OSError:
            pass  # it went away
        finally:
            self._greetings.release()
        connection.close()

    def _offer_of(self, ticket: bytes) -> Offer | None:
        with self._lock:
            offers = list(self._offers.values())
        return next((offer for offer in offers if hmac.compare_digest(offer.ticket, ticket)), None)
