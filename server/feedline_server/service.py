"""The loader on the network: Describe, Fetch, Status, and the standard health and reflection services.

The only module that knows gRPC. What is asked is checked by dispatch, what is answered is bytes out of slots; nothing
that arrives becomes a path, an import or a pickle.
"""

import functools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feedline_server.catalog import Catalog
from feedline_server.dispatch import MAX_WINDOW, Dispatch
from feedline_server.order import ORDERS
from feedline_server.pool import Pool
from feedline_server.session import Batch, Delivery, Session
from feedline_wire import PROTOCOL, frames, rpc, structure, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import (
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderUnavailable,
    ProtocolMismatch,
    to_failure,
)
from feedline_wire.key import from_message
from feedline_wire.tensors import Layout

SPARE_THREADS = 16
"""Threads beyond one a trainer: for Describe, Status and health, and to refuse a stream too many instead of
queueing it unseen."""

KEEPALIVE_MS = 10_000
"""A trainer that vanished without a word is noticed after this and as much again."""

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second loader on the port must be an error, not a silent share of the trainers
    ("grpc.max_receive_message_length", 4 << 20),  # requests are keys, about 100 bytes each
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),  # trainers may look often whether we are alive
]

_STATUS = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ProtocolMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    LoaderBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    LoaderUnavailable: grpc.StatusCode.UNAVAILABLE,
}

log = structlog.get_logger()


class Service:
    """The gRPC server of one loader: `start`, `drain`, `stop`."""

    def __init__(
        self, *, catalog: Catalog, dispatch: Dispatch, pool: Pool, replica: str, version: str, max_trainers: int
    ) -> None:
        self._catalog = catalog
        self._dispatch = dispatch
        self._pool = pool
        self._replica = replica
        self._version = version
        self._started = time.monotonic()
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(max_trainers + SPARE_THREADS, thread_name_prefix="feedline-rpc"),
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=max_trainers + SPARE_THREADS,
        )
        methods = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe, pb.DescribeRequest.FromString, pb.Description.SerializeToString
            ),
            "Fetch": grpc.stream_stream_rpc_method_handler(self._fetch, pb.FetchRequest.FromString, None),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((rpc.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, listen: str) -> int:
        """Listen and serve; the port. LoaderUnavailable if the address cannot be listened on."""
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise LoaderUnavailable(
                f"cannot listen on {listen!r}: the address is in use or not of this host; choose another with --listen"
            ) from error
        self._server.start()
        for name in ("", rpc.SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    def drain(self) -> None:
        """Say NOT_SERVING, take no new keys, tell every trainer."""
        self._health.enter_graceful_shutdown()
        self._dispatch.drain()

    def stop(self, grace_s: float) -> None:
        """End what is left; streams that run on are cut after `grace_s`."""
        self._server.stop(grace_s).wait(grace_s + 1)

    # ---- what trainers call ----

    def _describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Description:
        if request.protocol != PROTOCOL:
            _abort(context, _other_protocol(request.protocol, self._version))
        return pb.Description(
            protocol=PROTOCOL,
            version=self._version,
            replica=self._replica,
            datasets=[
                pb.Dataset(
                    name=name,
                    fingerprint=served.fingerprint,
                    samples=served.dataset.source.samples,
                    columns=tensors.from_columns(served.dataset.columns),
                    structure=structure.to_message(served.dataset.structure),
                    views=[pb.View(name=view.name, samples=view.samples) for view in served.dataset.views.values()],
                    orders=ORDERS,
                )
                for name, served in self._catalog.served.items()
            ],
            limits=pb.Limits(max_batch_bytes=self._catalog.max_batch_nbytes, max_window=MAX_WINDOW),
            lanes=["grpc"],
        )

    def _fetch(self, requests: Iterator[pb.FetchRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            first = next(requests, None)
            if first is None:
                return
            if first.protocol != PROTOCOL:
                raise _other_protocol(first.protocol, self._version)
            session = self._dispatch.open_session(context.peer())
        except FeedlineError as error:
            _abort(context, error)
        except grpc.RpcError:  # the trainer went away before its first word
            return
        if not context.add_callback(functools.partial(self._dispatch.close_session, session)):
            self._dispatch.close_session(session)  # it ended in between
            return
        log.info("trainer connected", peer=session.peer)
        reader = threading.Thread(
            target=self._read, args=(first, requests, session), name="feedline-wants", daemon=True
        )
        reader.start()
        try:
            yield from self._frames(session)
        finally:
            self._dispatch.close_session(session)
            log.info("trainer left", peer=session.peer, batches=session.batches, nbytes=session.nbytes)

    def _status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        del request, context
        state, pool = self._dispatch.state(), self._pool.state()
        return pb.StatusReply(
            replica=self._replica,
            version=self._version,
            uptime_s=time.monotonic() - self._started,
            draining=state.draining,
            workers=pool.workers,
            workers_busy=pool.busy,
            workers_restarted=pool.restarted,
            batches=state.batches,
            bytes=state.nbytes,
            failures=state.failures,
            arena_bytes=state.arena_nbytes,
            arena_lent=state.arena_lent,
            assembling_s=pool.assembling_s,
            trainers=[
                pb.Trainer(
                    peer=peer, waiting=waiting, assembling=assembling, ready=ready, batches=batches, bytes=nbytes
                )
                for peer, waiting, assembling, ready, batches, nbytes in state.sessions
            ],
        )

    # ---- one stream ----

    def _read(self, first: pb.FetchRequest, requests: Iterator[pb.FetchRequest], session: Session) -> None:
        """Take in what the trainer wants, until it says no more or is gone."""
        try:
            self._take_in(first, session)
            for request in requests:
                self._take_in(request, session)
        except grpc.RpcError:
            self._dispatch.close_session(session)  # the stream broke
        except Exception:  # a fault of ours: the trainer must not wait on a stream that nobody reads
            log.exception("reading a trainer's wants failed", peer=session.peer)
            self._dispatch.close_session(session)
        else:
            self._dispatch.end_wants(session)

    def _take_in(self, request: pb.FetchRequest, session: Session) -> None:
        if request.cancelled:
            self._dispatch.cancel(session, request.cancelled)
        for want in request.wants:
            self._dispatch.want(session, want.ticket, from_message(want.key))

    def _frames(self, session: Session) -> Iterator[bytes]:
        told = False
        while deliveries := self._dispatch.next_deliveries(session, frames.FRAME_BYTES):
            if self._dispatch.is_draining and not told:
                told = True
                yield frames.encode((), draining=True)
            if len(deliveries) == 1:
                yield from self._one(session, deliveries[0])
            else:
                yield self._several(session, deliveries)
        if self._dispatch.is_draining and not told:
            yield frames.encode((), draining=True)

    def _one(self, session: Session, delivery: Delivery) -> Iterator[bytes]:
        """One delivery, in as many frames as it takes; the slot is given back before the last of them is sent."""
        if not isinstance(delivery, Batch):
            yield frames.encode((frames.failure_piece(delivery.ticket, to_failure(delivery.error)),))
            return
        wire = b""
        copied = False
        try:
            with self._dispatch.memory(delivery) as body:
                for piece in frames.cut(delivery.ticket, _header(delivery.layout), body):
                    if wire:
                        yield wire
                    wire = frames.encode((piece,))
            copied = True
        finally:
            self._dispatch.give_back(session, delivery, sent=copied)
        yield wire

    def _several(self, session: Session, deliveries: list[Delivery]) -> bytes:
        """Small batches and refusals in one frame."""
        pieces: list[frames.Piece] = []
        for delivery in deliveries:
            if isinstance(delivery, Batch):
                pieces += frames.cut(delivery.ticket, _header(delivery.layout), self._dispatch.memory(delivery))
            else:
                pieces.append(frames.failure_piece(delivery.ticket, to_failure(delivery.error)))
        wire = frames.encode(tuple(pieces))
        del pieces
        for delivery in deliveries:
            if isinstance(delivery, Batch):
                self._dispatch.give_back(session, delivery, sent=True)
        return wire


@functools.lru_cache(maxsize=64)
def _header(layout: Layout) -> bytes:
    return tensors.to_header(layout).SerializeToString()


def _other_protocol(theirs: int, version: str) -> ProtocolMismatch:
    return ProtocolMismatch(
        f"the trainer speaks version {theirs} of feedline's protocol, this loader (feedline "
        f"{version}) version {PROTOCOL}; "
        f"install the same feedline on both sides"
    )


def _abort(context: grpc.ServicerContext, error: FeedlineError) -> NoReturn:
    """End the call so that the error arrives as itself: code and text for any client, the Failure beside them."""
    code = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), grpc.StatusCode.INTERNAL)
    context.set_trailing_metadata(((rpc.FAILURE_METADATA, to_failure(error).SerializeToString()),))
    context.abort(code, str(error))
    raise AssertionError("unreachable: abort raises")
