"""The loader on the network: Describe, Fetch, Status, and the standard health and reflection services.

The interceptor decides who may ask, the scheduler checks what is asked, bytes out of slots are the answer. Nothing
that arrives becomes a path, an import or a pickle.
"""

import functools
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import Tls
from feedline_server.access.tokens import Authorization
from feedline_server.lanes.lane import Lane, LaneListener
from feedline_server.rpc.interceptor import AccessInterceptor, refuse, server_credentials
from feedline_server.rpc.requests import FetchRequests, Unreadable, read_wants, reader_of
from feedline_server.rpc.sender import Sender
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.scheduler import MAX_WINDOW, Scheduler
from feedline_server.scheduling.stream import Stream
from feedline_server.workers.pool import Pool
from feedline_wire import elementwise, rpc, status, structure, tensors, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import (
    Damaged,
    FeedlineError,
    InvalidRequest,
    LoaderUnavailable,
    ProtocolMismatch,
)
from feedline_wire.key import from_message
from feedline_wire.status import LoaderCounters

SPARE_THREADS = 16
"""Threads beyond one a trainer: for Describe, Status and health, and to refuse a stream too many instead of
queueing it unseen."""

KEEPALIVE_MS = 10_000
"""A trainer that vanished without a word is noticed after this and as much again."""

MAX_REQUEST_NBYTES = 1 << 20
"""A whole window (MAX_WINDOW) of keys has 0.6 MB if all names have 255 letters. A request of this size that is full of
the smallest wants costs 24 MB until it is refused (measured)."""

HANDSHAKE_MS = 10_000
"""Who connects and says nothing is let go after this; gRPC's own 120 s are for networks that no trainer trains over."""

HEALTH_THREADS = 2
"""For health checks on an address of their own: each takes microseconds."""

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second loader on the port must be an error, not a silent share of the trainers
    ("grpc.max_receive_message_length", MAX_REQUEST_NBYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),  # 60 s by default, which wins over the line above (grpcio 1.85, seen)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # without limit; the default stops asking a trainer that says nothing
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),  # trainers may look often whether we are alive
]

log = structlog.get_logger()


class Service:
    """The gRPC server of one loader: `start`, `drain`, `stop`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        scheduler: Scheduler,
        pool: Pool,
        replica: str,
        version: str,
        max_trainers: int,
        tls: HotReloaded[Tls] | None,
        interceptor: AccessInterceptor,
        lanes: Mapping[str, LaneListener],
    ) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._pool = pool
        self._replica = replica
        self._version = version
        self._tls = tls
        self._interceptor = interceptor
        self._lanes = lanes
        self._started = time.monotonic()
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(max_trainers + SPARE_THREADS, thread_name_prefix="feedline-rpc"),
            interceptors=[interceptor],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=max_trainers + SPARE_THREADS,
        )
        self._health_server: grpc.Server | None = None
        methods = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe, reader_of(pb.DescribeRequest), pb.Description.SerializeToString
            ),
            "Fetch": grpc.stream_stream_rpc_method_handler(self._fetch, read_wants, None),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._status, reader_of(pb.StatusRequest), pb.StatusReply.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((rpc.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, listen: str, health_listen: str | None) -> int:
        """Listen and serve; the port. LoaderUnavailable if an address cannot be listened on."""
        port = _listen(self._server, listen, None if self._tls is None else server_credentials(self._tls))
        if health_listen is not None:
            self._health_server = grpc.server(
                ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="feedline-health"),
                options=SERVER_OPTIONS,
                maximum_concurrent_rpcs=SPARE_THREADS,
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            _listen(self._health_server, health_listen, None)
            self._health_server.start()
        self._server.start()
        for name in ("", rpc.SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    def drain(self) -> None:
        """Say NOT_SERVING, take no new keys, tell every trainer."""
        self._health.enter_graceful_shutdown()
        self._scheduler.drain()

    def stop(self, grace_s: float) -> None:
        """End what is left; streams that run on are cut after `grace_s`."""
        stopped = self._server.stop(grace_s)
        if self._health_server is not None:
            self._health_server.stop(None).wait(grace_s + 1)
        stopped.wait(grace_s + 1)

    # ---- what trainers call ----

    def _describe(self, request: pb.DescribeRequest | Unreadable, context: grpc.ServicerContext) -> pb.Description:
        try:
            caller = self._interceptor.authorize(context).caller
        except FeedlineError as error:
            refuse(context, error)
        if isinstance(request, Unreadable):
            refuse(context, request.error)
        trainer = versions.read(request, "trainer", f"the trainer at {context.peer()}")
        try:
            versions.agree(versions.here("loader"), trainer)
        except ProtocolMismatch as error:  # the trainer raises it, and its user reads it
            log.warning("a trainer speaks another protocol", peer=context.peer(), reason=str(error))
        return pb.Description(
            **versions.here("loader").fields(),
            replica=self._replica,
            datasets=[
                pb.Dataset(
                    name=name,
                    fingerprint=served.fingerprint,
                    samples=served.dataset.source.samples,
                    columns=tensors.from_columns(served.dataset.columns),
                    structure=structure.to_message(served.dataset.structure),
                    views=[pb.View(name=view.name, samples=view.samples) for view in served.dataset.views.values()],
                    orders=served.dataset.orders,
                    deferred=elementwise.to_messages(served.dataset.deferred),
                    batched=served.dataset.is_batched,
                    stream=served.dataset.is_stream,
                )
                for name, served in self._catalog.seen_by(caller.datasets).served.items()
            ],
            limits=pb.Limits(max_batch_bytes=self._catalog.max_batch_nbytes, max_window=MAX_WINDOW),
            lanes=[pb.Lane(name=name, address=lane.address) for name, lane in self._lanes.items() if lane.address],
        )

    def _fetch(self, requests: FetchRequests, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            authorization = self._interceptor.authorize(context)
            # Before its first word: a stream that says nothing is one of those that are counted.
            stream = self._scheduler.open_stream(context.peer(), authorization.caller)
        except FeedlineError as error:
            refuse(context, error)
        try:
            if context.add_callback(functools.partial(self._scheduler.close_stream, stream)):  # else it ended already
                yield from self._stream(requests, stream, authorization, context)
        finally:
            self._scheduler.close_stream(stream)

    def _status(self, request: pb.StatusRequest | Unreadable, context: grpc.ServicerContext) -> pb.StatusReply:
        if isinstance(request, Unreadable):
            refuse(context, request.error)
        state = self._scheduler.status()
        return pb.StatusReply(
            replica=self._replica,
            version=self._version,
            draining=state.draining,
            short_of=state.short_of or "",
            counters=status.to_messages(self._completed(state.counters)),
            trainers=[pb.Trainer(peer=one.peer, counters=status.to_messages(one.counters)) for one in state.streams],
        )

    def counters(self) -> LoaderCounters:
        """What this loader counts. Thread-safe."""
        return self._completed(self._scheduler.status().counters)

    def _completed(self, counters: LoaderCounters) -> LoaderCounters:
        """The scheduler's counters, with the pool's and the loader's own."""
        return replace(self._pool.count(counters), uptime_s=time.monotonic() - self._started)

    # ---- one stream ----

    def _stream(
        self, requests: FetchRequests, stream: Stream, authorization: Authorization, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """The frames of one stream, from its first word to its end."""
        try:
            first = next(requests, None)
        except grpc.RpcError:  # the trainer went away before its first word
            return
        if first is None:
            return
        if isinstance(first, Unreadable):
            refuse(context, first.error)
        try:
            versions.agree(versions.here("loader"), versions.read(first, "trainer", "the trainer"))
        except ProtocolMismatch as error:
            refuse(context, error)
        stream.is_checksummed = first.checksum
        log.info("trainer connected", peer=stream.peer, client=stream.caller.name)
        reader = threading.Thread(
            target=self._read, args=(first, requests, stream, authorization), name="feedline-wants", daemon=True
        )
        reader.start()
        lanes = self._lanes.get(first.lane) if not first.checksum else None  # what is sealed is sealed as frames
        offer = lanes.offer(functools.partial(self._lane_taken, stream)) if lanes is not None else None
        try:
            if lanes is not None and offer is not None:
                context.add_callback(offer.end)  # wakes a sender that waits in the lane of a trainer that is gone
                yield pb.Frame(lane_ticket=lanes.ticket(offer)).SerializeToString()
            yield from Sender(self._scheduler, stream, offer).frames()
        finally:
            if lanes is not None and offer is not None:
                lanes.withdraw(offer)
                if stream.memory is not None:
                    self._pool.unmap_memory(stream.memory.number)
            log.info("trainer left", peer=stream.peer, batches=stream.batches, nbytes=stream.nbytes)
        if stream.error is not None:
            refuse(context, stream.error)

    def _lane_taken(self, stream: Stream, lane: Lane) -> None:
        """Where the trainer brought memory, its batches are assembled there from now on."""
        if lane.memory is not None:
            self._pool.map_memory(lane.memory.number, lane.memory.fd)
        self._scheduler.set_lane(stream, lane.memory)

    def _read(
        self, first: pb.FetchRequest, requests: FetchRequests, stream: Stream, authorization: Authorization
    ) -> None:
        """Take in what the trainer wants, until it says no more or is gone."""
        try:
            self._take_in(first, stream)
            for request in requests:
                if isinstance(request, Unreadable):
                    raise request.error
                if self._interceptor.has_tokens and not authorization.is_valid():
                    raise LoaderUnavailable(
                        "the loader's tokens have changed, and what was said of this stream's has; connect again"
                    )
                self._take_in(request, stream)
        except grpc.RpcError:
            self._scheduler.close_stream(stream)  # the stream broke
        except FeedlineError as error:
            log.warning("a stream is ended", peer=stream.peer, client=stream.caller.name, reason=str(error))
            self._scheduler.close_stream(stream, error)
        except Exception:  # a fault of ours: the trainer must not wait on a stream that is not read
            log.exception("reading a trainer's wants failed", peer=stream.peer)
            self._scheduler.close_stream(stream)
        else:
            self._scheduler.end_wants(stream)

    def _take_in(self, request: pb.FetchRequest, stream: Stream) -> None:
        if stream.is_checksummed and not request.HasField("crc"):
            raise Damaged("a request came without the checksum that its stream announced; connect again")
        if len(request.wants) > MAX_WINDOW:
            raise InvalidRequest(
                f"{len(request.wants)} keys wanted in one message; a stream may have {MAX_WINDOW} unanswered"
            )
        if request.cancelled:
            self._scheduler.cancel(stream, request.cancelled)
        self._scheduler.want(stream, [(want.ticket, from_message(want.key)) for want in request.wants])


def _listen(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """The port; LoaderUnavailable if the address cannot be listened on."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise LoaderUnavailable(
            f"cannot listen on {address!r}: the address is in use or not of this host; choose another with --listen"
        ) from error
