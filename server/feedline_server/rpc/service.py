"""The loader on the network: Describe, Fetch, Status, and the standard health and reflection services.

The interceptor decides who may ask, the scheduler checks what is asked, bytes out of slots are the answer. Nothing
that arrives becomes a path, an import or a pickle.
"""

import functools
import threading
from collections.abc import Iterator, Mapping

import grpc
import structlog
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import Tls
from feedline_server.access.tokens import Authorization
from feedline_server.host.threads import Threads
from feedline_server.lanes.compressor import Trials
from feedline_server.lanes.lane import Lane, LaneListener
from feedline_server.rpc.health import Health
from feedline_server.rpc.interceptor import AccessInterceptor, refuse, server_credentials
from feedline_server.rpc.requests import FetchRequests, Unreadable, read_wants, reader_of, take_in
from feedline_server.rpc.sender import Sender
from feedline_server.rpc.server import MOST_CONNECTIONS, SERVER_OPTIONS, listen_at, start_server
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.scheduler import MAX_WINDOW, Scheduler
from feedline_server.scheduling.stream import Stream
from feedline_server.watching.observer import Observer
from feedline_server.workers.pool import Pool
from feedline_wire import checksum, elementwise, rpc, structure, tensors, trace, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.compression import may_be_compressed
from feedline_wire.errors import FeedlineError, LoaderBusy, LoaderUnavailable, ProtocolMismatch
from feedline_wire.lane import ENCRYPTED, Compression

SPARE_THREADS = 16
"""Threads beyond one a trainer: for Describe, Status and health, and to refuse a stream too many instead of
queueing it unseen."""

log = structlog.get_logger()


class Service:
    """The gRPC server of one loader: `start`, `drain`, `stop`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        scheduler: Scheduler,
        pool: Pool,
        observer: Observer,
        replica: str,
        max_trainers: int,
        max_connections: int,
        tls: HotReloaded[Tls] | None,
        interceptor: AccessInterceptor,
        lanes: Mapping[str, LaneListener],
        compression: Compression,
    ) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._pool = pool
        self._replica = replica
        self._tls = tls
        self._interceptor = interceptor
        self._lanes = lanes
        self._trials = Trials() if may_be_compressed(compression, is_encrypted=tls is not None) else None
        self._observer = observer
        self._health = Health()
        self._server = grpc.server(
            Threads(max_trainers + SPARE_THREADS, thread_name_prefix="feedline-rpc"),
            interceptors=[interceptor],
            options=[*SERVER_OPTIONS, (MOST_CONNECTIONS, max_connections)],
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
        self._health.add_to(self._server)
        reflection.enable_server_reflection((rpc.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, listen: str, health_listen: str | None) -> int:
        """Listen and serve; the port. LoaderUnavailable if an address cannot be listened on."""
        port = listen_at(self._server, listen, None if self._tls is None else server_credentials(self._tls))
        if health_listen is not None:
            self._health_server = self._health.listen_at(health_listen)
        start_server(self._server)
        self.set_serving(True)
        return port

    def set_serving(self, serves: bool) -> None:
        """What health says until `drain`. Thread-safe."""
        self._health.set_serving(serves)

    def drain(self) -> None:
        """Say NOT_SERVING, take no new keys, tell every trainer."""
        self._health.drain()
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
            **versions.here("loader").having(() if self._trials is None else (versions.COMPRESSION,)).fields(),
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
                    nondeterministic=not served.dataset.is_deterministic,
                    skips_bad_samples=served.dataset.on_bad_sample == "skip",
                    categories=[
                        pb.Categories(column=column, names=names)
                        for column, names in served.dataset.sent_categories.items()
                    ],
                )
                for name, served in self._catalog.seen_by(caller.datasets).versions
            ],
            limits=pb.Limits(max_batch_bytes=self._catalog.max_batch_nbytes, max_window=MAX_WINDOW),
            lanes=[pb.Lane(name=name, address=lane.address) for name, lane in self._lanes.items() if lane.address],
        )

    def _fetch(self, requests: FetchRequests, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            authorization = self._interceptor.authorize(context)
            # Before its first word: a stream that says nothing is one of those that are counted.
            stream = self._scheduler.open_stream(context.peer(), authorization.caller)
            stream.trace = trace.fields(context.invocation_metadata() or ())
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
        try:
            caller = self._interceptor.authorize(context).caller
        except FeedlineError as error:
            refuse(context, error)
        return self._observer.status(caller.datasets)

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
        log.info("trainer connected", **stream.log_fields)
        reader = threading.Thread(
            target=self._read, args=(first, requests, stream, authorization), name="feedline-wants", daemon=True
        )
        try:
            reader.start()
        except RuntimeError as error:  # too many processes and threads, which passes
            refuse(context, LoaderBusy(f"this loader can start no thread for a stream now: {error}", elsewhere=True))
        lanes = self._lanes.get(first.lane)
        if lanes is not None and first.checksum and lanes.name not in ENCRYPTED:
            lanes = None  # nothing would show there that a bit turned
        offer = lanes.offer(functools.partial(self._lane_taken, stream, first.lane)) if lanes is not None else None
        try:
            if lanes is not None and offer is not None:
                context.add_callback(offer.end)  # wakes a sender that waits in the lane of a trainer that is gone
                wire = pb.Frame(lane_ticket=lanes.ticket(offer)).SerializeToString()
                yield wire + checksum.field((wire,)) if first.checksum else wire
            trials = self._trials if versions.COMPRESSION in first.features else None
            yield from Sender(self._scheduler, stream, offer, trials).frames()
        finally:
            if lanes is not None and offer is not None:
                lanes.withdraw(offer)
                if stream.memory is not None:
                    self._pool.unmap_memory(stream.memory.number)
            log.info("trainer left", **stream.log_fields, batches=stream.batches, nbytes=stream.nbytes)
        if stream.error is not None:
            refuse(context, stream.error)

    def _lane_taken(self, stream: Stream, name: str, lane: Lane) -> None:
        """Where the trainer brought memory, its batches are assembled there from now on."""
        if lane.memory is not None:
            self._pool.map_memory(lane.memory.number, lane.memory.fd)
        self._scheduler.set_lane(stream, name, lane.memory)

    def _read(
        self, first: pb.FetchRequest, requests: FetchRequests, stream: Stream, authorization: Authorization
    ) -> None:
        """Take in what the trainer wants, until it says no more or is gone."""
        try:
            take_in(first, stream, self._scheduler)
            for request in requests:
                if isinstance(request, Unreadable):
                    raise request.error
                if self._interceptor.has_tokens and not authorization.is_valid():
                    raise LoaderUnavailable(
                        "the loader's tokens have changed, and what was said of this stream's has; connect again"
                    )
                take_in(request, stream, self._scheduler)
        except grpc.RpcError:
            self._scheduler.close_stream(stream)  # the stream broke
        except FeedlineError as error:
            log.warning("a stream is ended", **stream.log_fields, reason=str(error))
            self._scheduler.close_stream(stream, error)
        except Exception:  # a fault of ours: the trainer must not wait on a stream that is not read
            log.exception("reading a trainer's wants failed", **stream.log_fields)
            self._scheduler.close_stream(stream)
        else:
            self._scheduler.end_wants(stream)
