"""One loader and the thread that talks to it: connect, Describe, Fetch, read frames until it is lost, and again.

Nothing is decided here: the `Owner` (the fleet) decides which keys this loader is asked for, and is told everything
that happens. Channels and calls are opened and closed on this thread; `close` only cancels.
"""

import logging
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import grpc

from feedline.connection.buffers import Buffers, Received, Receiver
from feedline.connection.channel import Dialer, error_of, failure_of, forget_locals, status_call
from feedline.connection.credentials import Credentials
from feedline.connection.description import Description, from_message
from feedline.connection.events import HEARD, Answer, Answered, ConnectionEvent, Draining, Joined, Lost, SameLoader
from feedline.connection.lanes.lane import Body, Lane, kind_of
from feedline.connection.outbox import Outbox
from feedline.connection.target import Address
from feedline_wire import checksum, frames, rpc, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.compression import may_be_compressed
from feedline_wire.errors import (
    Closed,
    Damaged,
    FeedlineError,
    LoaderBroken,
    LoaderStarting,
    LoaderUnavailable,
    NoLoaderHere,
    ProtocolMismatch,
    read_failure,
)
from feedline_wire.key import Key
from feedline_wire.lane import LANES, Compression
from feedline_wire.reach import host_of
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    from feedline_wire.status import LoaderStatus

DESCRIBE_TIMEOUT_S = 5.0
"""A loader describes itself in milliseconds; an address that swallows packets is tried anew after this."""

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 2.0
"""A loader that restarts is back within seconds; asking a dead address every two seconds costs nothing."""

SAME_AGAIN_S = 10.0
"""Behind one address that stands for several loaders a new connection may find another one."""

STARTING_AGAIN_S = 5.0
"""Loaders that have started are found by their names; this only says to an autoscaler that a trainer still waits."""

log = logging.getLogger("feedline")

NO_LANE = "no %s lane to %s, batches come by gRPC and cost several times the processor time: port %s: %s"


class HowToConnect(TypedDict, total=False):
    """The keyword arguments of `Connection`, for who passes them on."""

    is_checksummed: bool
    compression: Compression


class Owner(Protocol):
    """Whom a connection works for. Called on the connection's thread."""

    def happened(self, connection: "Connection", event: ConnectionEvent) -> LoaderUnavailable | None:
        """Why this connection is of no use now, so that it ends and is tried again later; None to go on."""

    def key_of(self, connection: "Connection", ticket: int) -> Key | None:
        """The key that a ticket stands for; None if it is no longer wanted."""

    def may_rest(self, connection: "Connection") -> bool:
        """Its stream, on which nothing was wanted for long, may end until something is wanted. On gRPC's thread."""
        ...


class Connection:
    """One address, kept connected from `start` to `close`."""

    def __init__(
        self,
        address: Address,
        owner: Owner,
        buffers: Buffers,
        credentials: Credentials,
        *,
        is_checksummed: bool = False,
        compression: Compression = "off",
    ) -> None:
        self.address = address.at
        self._is_checksummed = is_checksummed  # every message, either way, ends with a checksum
        self._is_tls = credentials.is_tls
        self._may_be_compressed = may_be_compressed(compression, is_encrypted=self._is_tls)
        self._dialing = (address, credentials)
        self._dialer = Dialer(*self._dialing)
        self._owner = owner
        self._buffers = buffers
        self._closing = threading.Event()
        self._again = threading.Event()  # ends a pause between two connections
        self._calling = threading.Lock()
        self._call: Any = None  # Any: the stubs have no type for a call that is a future and cancellable
        self._outbox = Outbox()
        self._has_answered = False  # in this connection
        self._unreachable: set[str] = set()  # lanes that were tried in vain
        self._asked_lane = ""
        self.lane = "grpc"
        """How batches come now."""
        self._given_up: LoaderUnavailable | None = None  # why, if this side ended the stream
        self._channel: grpc.Channel | None = None
        self._thread = threading.Thread(target=self._run, name=f"feedline {address.at}", daemon=True)

    def __repr__(self) -> str:
        return f"<Connection {self.address}{' closed' if self._closing.is_set() else ''}>"

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def try_now(self) -> None:
        """Do not pause any longer before connecting again. Does not wait."""
        self._again.set()

    def renew(self, reason: str) -> None:
        """Give up the stream, on which nothing comes any more, and make a new one. Any thread; does not wait."""
        with self._calling:
            if self._call is not None:
                self._given_up = LoaderUnavailable(f"{self.address}: {reason}")
                self._call.cancel()

    def begin_close(self) -> None:
        """Tell the thread to end; does not wait."""
        self._closing.set()
        self._again.set()
        with self._calling:
            self._outbox.end()
            if self._call is not None:
                self._call.cancel()

    def finish_close(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def status(self, timeout_s: float) -> "LoaderStatus":
        """What the loader is doing now. Any thread."""
        channel = self._channel
        if channel is None:
            raise LoaderUnavailable(f"the loader at {self.address} is not connected")
        try:
            return _status(channel, timeout_s / 2, self._dialer.metadata)
        except grpc.RpcError as error:
            call: Any = error  # which it is, and the stubs do not say
            if call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise error_of(error, self.address) from error
        except ValueError as error:  # what gRPC raises where the channel was closed meanwhile
            raise LoaderUnavailable(f"the loader at {self.address} is not connected") from error
        # On a thin line the answer comes behind all batches that are on their way, but not on a connection of its own.
        dialer = Dialer(*self._dialing)
        try:
            with dialer.open() as own:
                return _status(own, timeout_s / 2, dialer.metadata)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error

    # ---- on the connection's thread ----

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closing.is_set():
            self._has_answered = False
            reason = self._serve_once()
            if isinstance(reason, ProtocolMismatch) and not self._closing.is_set():
                # It may end a training, and one bit that was changed on the way looks the same. On a connection of its
                # own, because HTTP/2 remembers headers for as long as a connection lasts.
                reason = self._serve_once()
            if self._closing.is_set():
                break
            self._owner.happened(self, Lost(reason))
            if self._has_answered:  # describing itself alone does not count: a loader that is full does that as well
                backoff_s = FIRST_BACKOFF_S
            self._again.wait(_again_s(reason) or backoff_s)
            self._again.clear()
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def _serve_once(self) -> FeedlineError:
        """One connection, from beginning to end, and why it ended."""
        try:
            with self._dialer.open() as channel:
                self._channel = channel
                return self._serve(channel)
        except Exception as error:
            forget_locals(error)
            return self._meaning(error)
        finally:
            self._channel = None

    def _meaning(self, error: Exception) -> FeedlineError:
        """What an error that ended a connection means."""
        match error:
            case grpc.RpcError():
                return self._dialer.meaning(error_of(error, self.address))
            case grpc.FutureCancelledError():
                return Closed(f"the connection to {self.address} was closed")
            case FeedlineError():
                return error
            case _:  # a fault of ours: without this the thread would be gone and the trainer would wait
                log.error("the connection to %s failed on an internal error", self.address, exc_info=error)
                return LoaderBroken(f"{self.address}: internal error in the trainer's connection: {error!r}")

    def _serve(self, channel: grpc.Channel) -> FeedlineError:
        while True:
            description = self._describe(channel)
            outbox = self._new_outbox(description)
            if useless := self._owner.happened(self, Joined(description, outbox)):
                return useless
            if not outbox.is_empty:
                ended = self._read(channel, description, outbox)
                if not outbox.rests:
                    return ended
            # The stream is opened by the first want, so that a client that only looks is no trainer. By then another
            # loader may have taken the address: it is asked to describe itself before it is asked for anything.
            elif not outbox.wait():
                return Closed(f"the connection to {self.address} was closed")

    def _describe(self, channel: grpc.Channel) -> Description:
        description = self._described(channel)
        # No checksum is on a description, so it is asked for twice.
        if self._is_checksummed and self._described(channel) != description:
            raise LoaderUnavailable(f"{self.address}: it describes itself in two ways; one was damaged on the way")
        self._dialer.answered()
        if self._is_checksummed and versions.CHECKSUM not in description.features:
            raise ProtocolMismatch(
                f"the loader at {self.address} (feedline {description.version}) has no checksums; update it, or "
                f"connect without checksum=True"
            )
        return description

    def _described(self, channel: grpc.Channel) -> Description:
        describe = channel.unary_unary(rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString)
        request = pb.DescribeRequest(**versions.here("trainer").fields())
        call: Any = describe.future(request, timeout=DESCRIBE_TIMEOUT_S, metadata=self._dialer.metadata)
        self._hold(call)
        try:
            return from_message(call.result(), self.address)
        except grpc.RpcError as error:
            # A loader of 0.1 refuses to describe itself; later ones leave it to the trainer to compare versions.
            if isinstance(failure_of(error), ProtocolMismatch):
                first = versions.first_release("loader", f"the loader at {self.address}")
                versions.agree(versions.here("trainer"), first)
            raise

    def _read(self, channel: grpc.Channel, description: Description, outbox: Outbox) -> FeedlineError:
        """Fetch, until the stream is lost."""
        fetch = channel.stream_stream(rpc.FETCH, request_serializer=outbox.serialized, response_deserializer=None)
        call: Any = fetch(outbox, metadata=self._dialer.metadata)
        receiver = Receiver(description, self._buffers, may_be_compressed=self._may_be_compressed)
        lane: Lane | None = None
        self.lane = "grpc"
        in_order = False
        self._given_up = None
        try:
            self._hold(call)
            for wire in call:
                self._owner.happened(self, HEARD)
                if self._is_checksummed:
                    checksum.check(wire)
                frame = frames.decode(wire)
                if frame.lane_ticket and lane is None:
                    lane = self._open_lane(description, frame.lane_ticket, call)
                if frame.draining:
                    self._owner.happened(self, Draining())
                self._answer(frame.pieces, receiver)
            in_order = True
        except grpc.RpcError as error:
            if self._given_up is not None:
                raise self._given_up from error
            raise
        except ProtocolMismatch as error:  # it described itself well, so this was damaged on the way: asked for again
            return LoaderUnavailable(f"{self.address}: what came makes no sense: {error}")
        finally:
            outbox.end()
            if lane is not None:
                lane.close(finish=in_order)
            call.cancel()
        return LoaderUnavailable(f"{self.address}: the loader ended the stream")

    def _open_lane(self, description: Description, ticket: bytes, call: Any) -> Lane:  # noqa: ANN401  # see _call
        """Have batches come by the lane that was asked for, once it stands; until then, or if it does not, by gRPC."""
        receiver = Receiver(description, self._buffers, may_be_compressed=self._may_be_compressed)
        name = self._asked_lane

        def take(piece: frames.Piece, incoming: Body, nbytes: int, placed: Array | None) -> None:
            self._owner.happened(self, HEARD)
            key = self._owner.key_of(self, piece.ticket)
            if key is None:
                if placed is None:
                    incoming.skip(nbytes)
                return
            into = incoming.read_into if placed is None else placed
            outcome: Received | FeedlineError = (
                receiver.whole(piece, nbytes, key, into) if piece.failure is None else read_failure(piece.failure)
            )
            self._has_answered = True
            self.lane = name
            self._owner.happened(self, Answered([(piece.ticket, outcome)]))

        def unreachable(reason: str) -> None:
            if not call.is_active():  # the stream is over, and its ticket with it
                return
            self._unreachable.add(name)
            log.warning(NO_LANE, name, self.address, description.lanes[name], reason)

        def ended(error: Exception) -> None:
            kind = Damaged if isinstance(error, Damaged) else LoaderUnavailable
            self._given_up = kind(f"{self.address}: the {name} lane ended: {error}")
            call.cancel()  # what was on it is lost: the stream is made anew and the keys are wanted again

        lane = kind_of(name)(
            host_of(self.address),
            description.lanes[name],
            ticket,
            memory_nbytes=self._buffers.kept_nbytes,
            take=take,
            unreachable=unreachable,
            ended=ended,
        )
        lane.start()
        return lane

    def _answer(self, pieces: Iterable[frames.Piece], receiver: Receiver) -> None:
        """Tell what these pieces answer, and keep nothing of it: where there is a lane no frame may come for hours."""
        answers: list[Answer] = []
        for piece in pieces:
            key = self._owner.key_of(self, piece.ticket)
            if key is None:
                receiver.forget(piece.ticket)
            elif piece.failure is not None:
                receiver.forget(piece.ticket)
                answers.append((piece.ticket, read_failure(piece.failure)))
            elif (received := receiver.take(piece, key)) is not None:
                answers.append((piece.ticket, received))
        if answers:
            self._has_answered = True
            self._owner.happened(self, Answered(answers))

    def _new_outbox(self, description: Description) -> Outbox:
        self._asked_lane = self._best_lane(description)
        may_rest = partial(self._owner.may_rest, self)
        features = (versions.COMPRESSION,) if self._may_be_compressed else ()
        outbox = Outbox(self._asked_lane, is_checksummed=self._is_checksummed, may_rest=may_rest, features=features)
        outbox.report_as(self._outbox)
        with self._calling:
            self._outbox = outbox
            if self._closing.is_set():
                outbox.end()
        return outbox

    def _best_lane(self, description: Description) -> str:
        """The lane to ask for; empty if batches should come by gRPC."""
        for name in LANES:
            if name in description.lanes and name not in self._unreachable:
                kind = kind_of(name)
                # Also where a proxy speaks TLS for a loader that does not: nothing goes past it in the clear.
                is_fit = kind.is_encrypted == self._is_tls and (kind.is_encrypted or not self._is_checksummed)
                if is_fit and kind.is_reachable(description.lanes[name]):
                    return name
        return ""

    def _hold(self, call: Any) -> None:  # noqa: ANN401  # the stubs have no type for it
        """Let `close` cancel this call; if it came before, cancel now."""
        with self._calling:
            self._call = call
            if self._closing.is_set():
                call.cancel()


def _again_s(reason: FeedlineError) -> float | None:
    """When to try again where it is known that it need not be sooner."""
    match reason:
        case SameLoader() | NoLoaderHere():
            return SAME_AGAIN_S
        case LoaderStarting():
            return STARTING_AGAIN_S
    return None


def _status(channel: grpc.Channel, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> "LoaderStatus":
    from feedline_wire.status import read_status  # 8 ms with what it brings, and few ask

    return read_status(status_call(channel)(pb.StatusRequest(), timeout=timeout_s, metadata=metadata))
