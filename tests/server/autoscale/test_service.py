"""What KEDA and trainers are answered, by a real client over loopback, of a fleet that the test makes up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedline.connection.credentials import Credentials
from feedline.connection.target import Address
from feedline.fleet.fleet import Fleet
from feedline.watching.fleet_watch import Seen
from feedline.watching.scaling import Look, Policy
from feedline_autoscale.controller import Controller
from feedline_autoscale.knocks import LASTING_S, Knocks
from feedline_autoscale.service import METRIC, MOST_STREAMS, SCALER, Service
from feedline_autoscale.shown import metrics, values
from feedline_server.rpc.health import LIVE
from feedline_server.rpc.interceptor import AccessInterceptor
from feedline_wire import externalscaler_pb2 as keda
from feedline_wire import loader_pb2 as pb
from feedline_wire import prometheus, rpc, versions
from feedline_wire.errors import LoaderBusy, LoaderStarting, LoaderUnavailable, NoLoaderHere, read_failure

NOBODY = Look(0.0, replicas=0, workers=0, demand=0.0)
FED = Look(0.0, replicas=2, workers=8, demand=16.0, waiting_share=0.4, trainers=3)
"""16 workers at 70 % are 22.9: six loaders of 4."""

ANSWERS = {
    "IsActive": keda.IsActiveResponse,
    "StreamIsActive": keda.IsActiveResponse,
    "GetMetricSpec": keda.GetMetricSpecResponse,
    "StreamMetricSpec": keda.GetMetricSpecResponse,
    "GetMetrics": keda.GetMetricsResponse,
}


@dataclass
class Scene:
    """An autoscaler whose fleet is what the test says."""

    look: Look = FED
    now: float = 1000.0
    problems: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def __post_init__(self) -> None:
        self.knocks = Knocks(lambda: self.now)
        self.controller = Controller(self.see, Policy(0, 8, window_s=60.0), every_s=3600.0)

    def see(self) -> Seen:
        look = replace(self.look, at=self.now, knocking=self.knocks.count)
        return Seen(look, {}, self.problems, 0.01)

    def after(self, seconds: float, look: Look | None = None) -> None:
        """The controller looks again, so much later."""
        self.now += seconds
        self.look = look or self.look
        self.controller.look()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    service = Service(scene.controller, scene.knocks, None, AccessInterceptor(None))
    scene.port = service.start("127.0.0.1:0", None)
    yield scene
    scene.controller.close()
    service.stop(0.0)


@pytest.fixture
def ask(scene: Scene) -> Iterator[Callable[..., Any]]:
    """Call a method as KEDA does."""
    with grpc.insecure_channel(f"127.0.0.1:{scene.port}") as channel:

        def call(method: str, request: Any = None) -> Any:
            kind = channel.unary_stream if method.startswith("Stream") else channel.unary_unary
            request = request or keda.ScaledObjectRef(name="loaders", namespace="data", scalerMetadata={"a": "b"})
            write = type(request).SerializeToString
            return kind(f"/{SCALER}/{method}", write, ANSWERS[method].FromString)(request, timeout=30)

        yield call


def test_keda_is_told_how_many_loaders_there_should_be(scene: Scene, ask: Callable[..., Any]) -> None:
    scene.controller.look()

    [spec] = ask("GetMetricSpec").metricSpecs
    [value] = ask("GetMetrics", keda.GetMetricsRequest(metricName=spec.metricName)).metricValues

    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (METRIC, 1, 1.0)
    assert (value.metricName, value.metricValue, value.metricValueFloat) == (METRIC, 6, 6.0)
    assert ask("IsActive").result is True
    assert next(ask("StreamMetricSpec")).metricSpecs == [spec]


def test_a_metric_of_another_name_is_refused_and_kedas_own_prefix_is_none(
    scene: Scene, ask: Callable[..., Any]
) -> None:
    scene.controller.look()

    [value] = ask("GetMetrics", keda.GetMetricsRequest(metricName=f"s0-{METRIC}")).metricValues
    with pytest.raises(grpc.RpcError) as refused:
        ask("GetMetrics", keda.GetMetricsRequest(metricName="cpu"))

    assert value.metricValue == 6
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_while_nothing_is_known_there_is_no_number_so_that_keda_keeps_what_there_is(
    scene: Scene, ask: Callable[..., Any]
) -> None:
    scene.after(0, replace(NOBODY, unanswered=3, is_known=False))

    for method in ("IsActive", "GetMetrics"):
        with pytest.raises(grpc.RpcError) as refused:
            ask(method, keda.GetMetricsRequest() if method == "GetMetrics" else None)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert prometheus.text(metrics(scene.controller.decided)).decode().splitlines()[-1] == "feedline_fleet_known 0"


def test_a_stream_says_at_once_whether_there_should_be_loaders_and_again_when_that_changes(
    scene: Scene, ask: Callable[..., Any]
) -> None:
    scene.after(0, NOBODY)
    answers = ask("StreamIsActive")

    assert next(answers).result is False
    scene.knocks.knock("10.0.0.1")
    scene.after(1)
    assert next(answers).result is True
    scene.after(20, replace(FED, replicas=1, workers=4, demand=1.0, waiting_share=0.0))  # nothing changes: no answer
    for _ in range(8):
        scene.after(20, replace(NOBODY, replicas=1, workers=4))
    assert next(answers).result is False
    answers.cancel()


def test_streams_are_bounded_and_one_whose_caller_is_gone_makes_room(scene: Scene, ask: Callable[..., Any]) -> None:
    scene.controller.look()
    streams = [ask("StreamIsActive") for _ in range(MOST_STREAMS)]
    assert all(next(stream).result for stream in streams)

    assert _opened(ask) is grpc.StatusCode.RESOURCE_EXHAUSTED
    for stream in streams:
        stream.cancel()

    for _ in range(600):
        if (opened := _opened(ask)) is grpc.StatusCode.OK:
            break
        scene.controller.wait(scene.controller.decided, 0.05)
    assert opened is grpc.StatusCode.OK


def _opened(ask: Callable[..., Any]) -> grpc.StatusCode:
    """How it goes to open one more stream, which is closed again."""
    stream = ask("StreamIsActive")
    try:
        next(stream)
    except grpc.RpcError as error:
        return error.code()
    stream.cancel()
    return grpc.StatusCode.OK


# ---- trainers that knock ----


def knock(scene: Scene, *features: str) -> LoaderUnavailable:
    """What a trainer with these features is told."""
    with grpc.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        describe = channel.unary_unary(rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString)
        with pytest.raises(grpc.RpcError) as refused:
            describe(pb.DescribeRequest(protocol=3, features=features), timeout=30)
    failure = dict(refused.value.trailing_metadata())[rpc.FAILURE_METADATA]
    found = read_failure(failure)
    assert isinstance(found, LoaderUnavailable)
    return found


def test_a_trainer_that_knocks_is_demand_and_is_told_that_a_loader_starts(scene: Scene) -> None:
    scene.after(0, NOBODY)
    assert scene.controller.decided is not None
    assert not scene.controller.decided.is_active

    told = knock(scene, versions.STARTING)
    scene.after(1)

    assert type(told) is LoaderStarting
    assert "no loader is there yet" in str(told)
    assert scene.controller.decided.is_active
    assert values(scene.controller.decided)["knocking"] == 1


def test_a_trainer_that_knocks_no_more_is_forgotten(scene: Scene) -> None:
    scene.after(0, NOBODY)
    knock(scene, versions.STARTING)
    scene.after(LASTING_S + 1)

    assert scene.controller.decided is not None
    assert values(scene.controller.decided)["knocking"] == 0


def test_a_trainer_of_an_older_release_is_told_what_it_knows(scene: Scene) -> None:
    scene.after(0, NOBODY)
    assert type(knock(scene)) is LoaderBusy
    scene.after(1, FED)
    assert type(knock(scene)) is LoaderBusy


def test_where_loaders_are_the_autoscaler_says_that_it_is_none(scene: Scene) -> None:
    scene.controller.look()

    told = knock(scene, versions.STARTING)

    assert type(told) is NoLoaderHere
    assert str(told) == "here is the autoscaler of 2 loaders, and no loader"
    assert scene.knocks.count == 0


def test_connecting_ends_with_the_autoscalers_own_word_where_it_is_not_to_wait(scene: Scene) -> None:
    """With timeout_s 0, which tries once."""
    scene.after(0, NOBODY)
    fleet = Fleet((Address(f"127.0.0.1:{scene.port}"),), Credentials())

    with pytest.raises(LoaderStarting, match="no loader is there yet"):
        fleet.join(0)
    fleet.close()


# ---- what is shown ----


def test_metrics_and_the_decision_say_what_it_was_made_of(scene: Scene) -> None:
    scene.problems = {"10.0.0.9:50051": "refused by 10.0.0.9:50051, where nothing listens"}
    scene.after(0, replace(FED, unanswered=1))

    decided = scene.controller.decided
    assert decided is not None
    lines = prometheus.text(metrics(decided)).decode().splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        "feedline_fleet_known 1",
        "feedline_fleet_recommended_replicas 6",
        "feedline_fleet_replicas 2",
        "feedline_fleet_workers 8",
        "feedline_fleet_demand_workers 16.0",
        "feedline_fleet_waiting_ratio 0.4",
        "feedline_fleet_trainers 3",
        "feedline_fleet_knocking 0",
        "feedline_fleet_unanswered_addresses 1",
        "feedline_fleet_look_seconds 0.01",
        "feedline_fleet_looks_total 1",
    ]
    assert values(decided) == {
        "replicas": 6,
        "reason": "trainers want 16 workers, 66.7 % of those of 6 x 4",
        "there": 2,
        "workers": 8,
        "demand_workers": 16.0,
        "waiting_share": 0.4,
        "trainers": 3,
        "knocking": 0,
        "unanswered": 1,
        "is_known": True,
        "problems": {"10.0.0.9:50051": "refused by 10.0.0.9:50051, where nothing listens"},
    }


def test_health_is_answered_of_all_of_it_of_the_scaler_and_of_its_life(scene: Scene) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for name in ("", SCALER, LIVE):
            answer = check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
