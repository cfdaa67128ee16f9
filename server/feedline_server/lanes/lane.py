"""Lanes beside gRPC: how batches are sent on one, which stream has one, and where trainers come for it.

A stream that asks for a lane gets a ticket. The connection that shows it becomes that stream's lane, once, while the
stream lives; any other is closed without an answer. A lane never outlives its stream.
"""

import contextlib
import hmac
import importlib
import secrets
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import structlog

from feedline_server.host.descriptors import is_shortage
from feedline_server.host.threads import vital
from feedline_server.lanes.iovec import MAX_PIECES, Iovec, together
from feedline_server.lanes.line import TcpLine
from feedline_server.memory.arena import Slot
from feedline_server.memory.trainer import TrainerMemory
from feedline_server.settings.settings import Settings
from feedline_wire.lane import ENCRYPTED, GREETING_S, HEAD, LANES, PROOF_NBYTES, TICKET_NBYTES

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0
"""Pauses before a connection is accepted again where descriptors or memory are short: those that say nothing are closed
within GREETING_S."""

NO_PROGRESS_S = 30.0
"""A trainer reads what it wanted as fast as it comes, so one that takes nothing for so long is stopped or gone."""

MAX_GREETINGS = 256
"""Connections that have not shown a ticket yet, each with a thread that waits for it; one more is closed at once. As
many as gRPC trainers that begin in the same moment, and no more threads than a machine can bear."""

BACKLOG = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Message:
    """One answer on its way: the piece, and the body unless it is `placed`, in the trainer's own memory."""

    piece: bytes
    nbytes: int
    body: memoryview | Iovec
    placed: Slot | None = None


class Outgoing(Protocol):
    """What a lane sends; true while something of it was not sent."""

    def __bool__(self) -> bool: ...

    def send(self, connection: socket.socket) -> None:
        """Send what the kernel takes now. BlockingIOError where it takes nothing."""


class Lane:
    """One trainer's connection. `send` and `close` are its stream's; `end` may be called on any thread."""

    memory: TrainerMemory | None = None
    """The trainer's, where batches may be placed."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    def send(
        self,
        messages: Sequence[Message],
        *,
        unpin: Callable[[], None],
        pin: Callable[[], bool],
    ) -> None:
        """Send one after the other. Blocks until the kernel has all.

        Bodies are read only outside of `unpin` and `pin`, between which it waits for the trainer to read; when `pin` is
        false they are no longer there. Raises OSError then, or if the trainer is gone: the lane is of no use.
        """
        outgoing = self._laid_out(messages)
        while outgoing:
            try:
                self._send_some(outgoing)
            except BlockingIOError:
                unpin()
                has_read = self._wait(NO_PROGRESS_S)
                if not pin():
                    raise ConnectionAbortedError("it did not read while others needed the memory") from None
                if not has_read:
                    raise TimeoutError(f"it read nothing for {NO_PROGRESS_S:g} s") from None

    def _laid_out(self, messages: Sequence[Message]) -> list[memoryview] | Outgoing:
        """What goes over the connection: in the form of the tcp lane, unless a lane has its own."""
        heads = [HEAD.pack(len(message.piece), message.nbytes) + message.piece for message in messages]
        views: list[memoryview] = []
        for head, message in zip(heads, messages, strict=True):
            if isinstance(message.body, Iovec):
                return together(heads, [message.body for message in messages])
            views += (memoryview(head), message.body)
        return views

    def _send_some(self, outgoing: list[memoryview] | Outgoing) -> None:
        """Send what the kernel takes now, and take it from `outgoing`. BlockingIOError where it takes nothing."""
        if not isinstance(outgoing, list):
            outgoing.send(self._connection)
            return
        sent = self._connection.sendmsg(outgoing[:MAX_PIECES])
        while outgoing and sent >= len(outgoing[0]):
            sent -= len(outgoing.pop(0))
        if sent:
            outgoing[0] = outgoing[0][sent:]

    def _wait(self, timeout_s: float) -> bool:
        """Wait until the kernel takes more, or the lane ends; False after `timeout_s`."""
        room = select.poll()
        room.register(self._connection, select.POLLOUT)
        return bool(room.poll(timeout_s * 1000))

    @property
    def line(self) -> TcpLine:
        """What carries it, of a lane by TCP."""
        return TcpLine(self._connection)

    def end(self) -> None:
        """Send no more, and wake a sender that waits in it. Idempotent.

        Not closed here: the descriptor could be another connection's before the sender sees that it is closed.
        """
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self.end()
        self._connection.close()


class Offer:
    """A stream's right to one lane: a ticket, and the lane once the trainer came, which `taken` is called with."""

    def __init__(self, taken: Callable[[Lane], None]) -> None:
        self._taken = taken
        self.secret = secrets.token_bytes(TICKET_NBYTES)
        """What the trainer shows."""
        self.proof = secrets.token_bytes(PROOF_NBYTES)
        """What the loader shows, where the trainer cannot know otherwise whom it has reached."""
        self.lane: Lane | None = None
        """The lane, if the trainer has come."""
        self._lock = threading.Lock()
        self._closed = False

    def claim(self, lane: Lane, accept: Callable[[], None]) -> bool:
        """Give the trainer its lane, and tell it so by `accept`; False if it came too late or twice."""
        with self._lock:
            if self._closed or self.lane is not None:
                return False
            accept()
            self.lane = lane
            self._taken(lane)
            return True

    def end(self) -> None:
        """End the lane, or give none any more; a sender that waits in it is woken. Idempotent, thread-safe."""
        with self._lock:
            self._closed = True
            if self.lane is not None:
                self.lane.end()

    def close(self) -> None:
        """Let go of the lane, when the stream and its sender have ended. Idempotent."""
        self.end()
        if self.lane is not None:
            self.lane.close()


class LaneListener(ABC):
    """Where trainers come for the lanes of one kind: `start`, `offer` and `withdraw` for each stream, `close`."""

    name: ClassVar[str]
    kind_of_offer: ClassVar[type[Offer]] = Offer

    def __init__(self) -> None:
        self.address = ""
        """What trainers are told; empty while it does not listen."""
        self._lock = threading.Lock()
        self._offers: dict[bytes, Offer] = {}
        self._listener: socket.socket | None = None
        self._closing = threading.Event()
        self.most_greetings = MAX_GREETINGS
        """Connections without a ticket at once; less where descriptors are few. To be set before it starts."""
        self._greetings = 0

    @classmethod
    @abstractmethod
    def is_wanted(cls, settings: Settings) -> bool:
        """The operator lets trainers have such lanes."""

    @abstractmethod
    def start(self, settings: Settings) -> None:
        """Listen, if that is possible. LoaderUnavailable if the operator has to change something first."""

    def offer(self, taken: Callable[[Lane], None]) -> Offer:
        """A lane for a new stream, with which `taken` is called; `withdraw` it when the stream ends."""
        offer = self.kind_of_offer(taken)
        with self._lock:
            self._offers[offer.secret] = offer
        return offer

    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told."""
        return offer.secret

    def withdraw(self, offer: Offer) -> None:
        """End the lane of a stream that is over. Idempotent."""
        with self._lock:
            self._offers.pop(offer.secret, None)
        offer.close()

    def close(self) -> None:
        """Listen no more and end every lane; their streams close them. Idempotent."""
        self._closing.set()
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

    def _listen(self, listener: socket.socket, address: str) -> None:
        listener.listen(BACKLOG)
        self._listener = listener
        self.address = address
        name = f"feedline-{self.name}-accept"
        vital(threading.Thread(target=self._accept, args=(listener,), name=name, daemon=True)).start()

    def _accept(self, listener: socket.socket) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closing.is_set():
            try:
                connection, address = listener.accept()
            except OSError as error:
                if self._closing.wait(backoff_s if is_shortage(error) else 0):
                    return
                log.warning("cannot accept a connection, trying again", lane=self.name, reason=str(error))
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                continue
            backoff_s = FIRST_BACKOFF_S
            self._begin_greeting(connection, address)

    def _begin_greeting(self, connection: socket.socket, address: object) -> None:
        with self._lock:
            is_one_more = self._greetings < self.most_greetings
            self._greetings += is_one_more
        if not is_one_more:
            connection.close()
            log.warning("too many connections without a ticket", lane=self.name, most=self.most_greetings)
            return
        # On a thread of its own: one that says nothing must not keep the next one waiting.
        name = f"feedline-{self.name}-greeting"
        try:
            threading.Thread(target=self._receive, args=(connection, address), name=name, daemon=True).start()
        except RuntimeError as error:  # too many processes and threads; the trainer goes on without this lane
            self._end_greeting()
            connection.close()
            log.warning("no thread for a connection, which is closed", lane=self.name, reason=str(error))

    def _end_greeting(self) -> None:
        with self._lock:
            self._greetings -= 1

    def _receive(self, connection: socket.socket, address: object) -> None:
        try:
            connection.settimeout(GREETING_S)
            if self._greet(connection):
                return
            log.warning("a connection to a lane had no valid ticket", lane=self.name, peer=str(address))
        except OSError:
            pass  # it went away
        finally:
            self._end_greeting()
        connection.close()

    def _offer_of(self, secret: bytes) -> Offer | None:
        with self._lock:
            offers = list(self._offers.values())
        return next((offer for offer in offers if hmac.compare_digest(offer.secret, secret)), None)


def listeners(settings: Settings) -> dict[str, LaneListener]:
    """A listener for each kind of lane that this loader has, by its name in `feedline_wire.lane.LANES`; not started.

    A loader that speaks TLS has only lanes that are encrypted, one that does not only those that are not. Each kind is
    in the module of its name, which loads what others do not need.
    """
    is_encrypted = settings.tls_certificate is not None
    kinds: dict[str, type[LaneListener]] = {
        name: importlib.import_module(f"feedline_server.lanes.{name}").LISTENER
        for name in LANES
        if (name in ENCRYPTED) == is_encrypted
    }
    return {name: kind() for name, kind in kinds.items() if kind.is_wanted(settings)}
