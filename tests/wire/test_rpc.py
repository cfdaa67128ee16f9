"""The names in rpc.py are those of loader.proto: a typing error would look like a loader without methods."""

from feedline_wire import loader_pb2 as pb
from feedline_wire import rpc


def test_the_methods_are_those_of_the_contract() -> None:
    service = pb.DESCRIPTOR.services_by_name["Loader"]

    assert service.full_name == rpc.SERVICE
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        rpc.DESCRIBE,
        rpc.FETCH,
        rpc.STATUS,
    }


def test_failures_travel_in_metadata_that_may_hold_bytes() -> None:
    """gRPC takes bytes only in metadata whose name ends so, and only lower case names."""
    assert rpc.FAILURE_METADATA.endswith("-bin")
    assert rpc.FAILURE_METADATA.islower()
