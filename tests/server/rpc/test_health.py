"""Readiness and liveness, as a gRPC client asks for them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedline_server.rpc.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def stub(health: Health) -> Iterator[health_pb2_grpc.HealthStub]:
    server = grpc.server(ThreadPoolExecutor(2))
    health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        yield health_pb2_grpc.HealthStub(channel)
    server.stop(None).wait(10)


def answers(stub: health_pb2_grpc.HealthStub) -> list[int]:
    names = ("", "feedline.v1.Loader", "live")
    return [stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in names]


def test_a_loader_that_does_not_serve_yet_is_alive(stub: health_pb2_grpc.HealthStub) -> None:
    assert answers(stub) == [NOT_SERVING, NOT_SERVING, SERVING]


def test_a_loader_without_a_worker_is_alive_and_gets_no_work_until_it_has_one(
    health: Health, stub: health_pb2_grpc.HealthStub
) -> None:
    health.set_serving(True)
    served = answers(stub)
    health.set_serving(False)
    without = answers(stub)
    health.set_serving(True)

    assert served == [SERVING, SERVING, SERVING]
    assert without == [NOT_SERVING, NOT_SERVING, SERVING]
    assert answers(stub) == [SERVING, SERVING, SERVING]


def test_a_loader_that_drains_is_alive_to_the_end_and_gets_no_work_again(
    health: Health, stub: health_pb2_grpc.HealthStub
) -> None:
    """Worse than a probe that fails late: a liveness probe that fails in a drain kills what the drain was for."""
    health.set_serving(True)
    health.drain()
    health.set_serving(True)  # a worker that became ready meanwhile

    assert answers(stub) == [NOT_SERVING, NOT_SERVING, SERVING]


def test_a_name_that_is_none_is_an_error(stub: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="alive"), timeout=10)

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
