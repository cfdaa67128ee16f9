"""What is answered over gRPC: KEDA's external scaler, trainers that knock, and the standard health service.

An answer is what was decided last: none of them looks at the fleet, so a caller delays no other. Who may ask is who
may call a loader with the same options.
"""

import re
from collections.abc import Iterator

import grpc
import structlog
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from feedline_autoscale.controller import Controller, Decided
from feedline_autoscale.knocks import Knocks
from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import Tls
from feedline_server.host.threads import Threads
from feedline_server.rpc.health import Health
from feedline_server.rpc.interceptor import AccessInterceptor, refuse, server_credentials
from feedline_server.rpc.requests import Request, Unreadable, reader_of
from feedline_server.rpc.server import MOST_CONNECTIONS, SERVER_OPTIONS, listen_at, start_server
from feedline_wire import externalscaler_pb2 as keda
from feedline_wire import loader_pb2 as pb
from feedline_wire import rpc, versions
from feedline_wire.errors import LoaderBusy, LoaderStarting, LoaderUnavailable, NoLoaderHere
from feedline_wire.reach import host_of

SCALER = "externalscaler.ExternalScaler"

METRIC = "feedline-replicas"
"""What the fleet should have, of which each loader is one: the autoscaler divides by 1 and takes it as it is."""

THREADS = 32
"""Answers take microseconds, but streams hold one each."""

MOST_STREAMS = THREADS // 2
"""KEDA has one for each ScaledObject, and one more while it restarts."""

MOST_CALLERS = 4096
"""Connections: trainers that knock hold one each while they wait."""

LOOK_AGAIN_S = 1.0
"""A stream notices within this that its caller is gone."""

_INDEX = re.compile(r"s\d+-")
"""KEDA's own prefix of a metric's name, in some of its versions."""

log = structlog.get_logger()


class Service:
    """The gRPC server of one autoscaler: `start`, `stop`."""

    def __init__(
        self, controller: Controller, knocks: Knocks, tls: HotReloaded[Tls] | None, interceptor: AccessInterceptor
    ) -> None:
        self._controller = controller
        self._knocks = knocks
        self._tls = tls
        self._streams = 0
        self._health = Health(("", SCALER))
        self._health_server: grpc.Server | None = None
        self._server = grpc.server(
            Threads(THREADS, thread_name_prefix="feedline-rpc"),
            interceptors=[interceptor],
            options=[*SERVER_OPTIONS, (MOST_CONNECTIONS, MOST_CALLERS)],
            maximum_concurrent_rpcs=4 * THREADS,
        )
        refs = reader_of(keda.ScaledObjectRef)
        spec, active = keda.GetMetricSpecResponse.SerializeToString, keda.IsActiveResponse.SerializeToString
        scaler = {
            "IsActive": grpc.unary_unary_rpc_method_handler(self._is_active, refs, active),
            "StreamIsActive": grpc.unary_stream_rpc_method_handler(self._stream_is_active, refs, active),
            "GetMetricSpec": grpc.unary_unary_rpc_method_handler(self._metric_spec, refs, spec),
            "StreamMetricSpec": grpc.unary_stream_rpc_method_handler(self._stream_metric_spec, refs, spec),
            "GetMetrics": grpc.unary_unary_rpc_method_handler(
                self._metrics, reader_of(keda.GetMetricsRequest), keda.GetMetricsResponse.SerializeToString
            ),
        }
        loader = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._knock, reader_of(pb.DescribeRequest), pb.Description.SerializeToString
            )
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SCALER, scaler),
                grpc.method_handlers_generic_handler(rpc.SERVICE, loader),
            )
        )
        self._health.add_to(self._server)
        reflection.enable_server_reflection((SCALER, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, listen: str, health_listen: str | None) -> int:
        """Listen and serve; the port. LoaderUnavailable if an address cannot be listened on."""
        port = listen_at(self._server, listen, None if self._tls is None else server_credentials(self._tls))
        if health_listen is not None:
            self._health_server = self._health.listen_at(health_listen)
        start_server(self._server)
        self._health.set_serving(True)
        return port

    def stop(self, grace_s: float) -> None:
        """End; streams are cut after `grace_s`."""
        self._health.drain()
        ending = [server.stop(grace_s) for server in (self._server, self._health_server) if server is not None]
        for ended in ending:
            ended.wait(grace_s + 1)

    # ---- what KEDA calls ----

    def _is_active(
        self, request: keda.ScaledObjectRef | Unreadable, context: grpc.ServicerContext
    ) -> keda.IsActiveResponse:
        _readable(request, context)
        return keda.IsActiveResponse(result=self._decided(context).is_active)

    def _stream_is_active(
        self, request: keda.ScaledObjectRef | Unreadable, context: grpc.ServicerContext
    ) -> Iterator[keda.IsActiveResponse]:
        """At once, if anything is known, and whenever it changes."""
        _readable(request, context)
        said: bool | None = None
        for decided in self._changes(context):
            if decided is not None and decided.is_active != said:
                said = decided.is_active
                yield keda.IsActiveResponse(result=said)

    def _metric_spec(
        self, request: keda.ScaledObjectRef | Unreadable, context: grpc.ServicerContext
    ) -> keda.GetMetricSpecResponse:
        _readable(request, context)
        return SPEC

    def _stream_metric_spec(
        self, request: keda.ScaledObjectRef | Unreadable, context: grpc.ServicerContext
    ) -> Iterator[keda.GetMetricSpecResponse]:
        """At once; it never changes."""
        _readable(request, context)
        yield SPEC
        for _ in self._changes(context):
            pass

    def _metrics(
        self, request: keda.GetMetricsRequest | Unreadable, context: grpc.ServicerContext
    ) -> keda.GetMetricsResponse:
        request = _readable(request, context)
        if request.metricName and _INDEX.sub("", request.metricName, 1) != METRIC:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"there is no {request.metricName!r} here; wanted {METRIC}")
        replicas = self._decided(context).recommendation.replicas
        name = request.metricName or METRIC
        value = keda.MetricValue(metricName=name, metricValue=replicas, metricValueFloat=replicas)
        return keda.GetMetricsResponse(metricValues=[value])

    # ---- what trainers call ----

    def _knock(self, request: pb.DescribeRequest | Unreadable, context: grpc.ServicerContext) -> pb.Description:
        """A trainer looks for loaders: where none is, it is told that one was asked for."""
        request = _readable(request, context)
        knows = versions.STARTING in request.features
        decided = self._controller.decided
        if decided is not None and decided.seen.look.replicas:
            there = decided.seen.look.replicas
            wrong: type[LoaderUnavailable] = NoLoaderHere if knows else LoaderBusy
            refuse(context, wrong(f"here is the autoscaler of {there} loaders, and no loader", elsewhere=True))
        asked_s = self._knocks.knock(host_of(context.peer()))
        if not asked_s:
            self._controller.hurry()
        kind: type[LoaderUnavailable] = LoaderStarting if knows else LoaderBusy
        refuse(context, kind(f"no loader is there yet; one was asked for {asked_s:.0f} s ago", elsewhere=True))

    # ---- inside ----

    def _decided(self, context: grpc.ServicerContext) -> Decided:
        decided = self._controller.decided
        if decided is None:
            # KEDA keeps what there is while a scaler cannot say.
            context.abort(grpc.StatusCode.UNAVAILABLE, "nothing is known of the fleet yet: no loader answers")
            raise AssertionError("unreachable: abort raises")
        return decided

    def _changes(self, context: grpc.ServicerContext) -> Iterator[Decided | None]:
        """What was decided last, again after each look, while the caller is there."""
        if self._streams >= MOST_STREAMS:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams are open, which is all there are"
            )
        self._streams += 1
        try:
            decided = self._controller.decided
            while True:
                yield decided
                while context.is_active() and not self._controller.is_closed:
                    known, decided = decided, self._controller.wait(decided, LOOK_AGAIN_S)
                    if decided is not known:
                        break
                else:
                    return
        finally:
            self._streams -= 1


SPEC = keda.GetMetricSpecResponse(metricSpecs=[keda.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)])


def _readable(request: Request | Unreadable, context: grpc.ServicerContext) -> Request:
    """The request; what is none ends the call."""
    if isinstance(request, Unreadable):
        refuse(context, request.error)
    return request
