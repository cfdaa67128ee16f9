"""A loader says what it is and what it serves."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from feedline_wire import loader_pb2 as pb
from feedline_wire import structure


def test_a_loader_says_what_it_serves(loader: Any) -> None:
    description = loader.describe()

    (dataset,) = description.datasets
    assert dataset.name == "numbers"
    assert dataset.samples == 1000
    assert {(column.name, column.dtype, tuple(column.shape)) for column in dataset.columns} == {
        ("x", "float32", (6000,)),
        ("y", "int64", ()),
    }
    assert structure.from_message(dataset.structure) == ("x", "y")
    assert {view.name: view.samples for view in dataset.views} == {"train": 900, "validation": 100}
    assert {"shuffle", "sequential"} <= set(dataset.orders)
    assert [(one.column, list(one.names)) for one in dataset.categories] == [("y", ["zero", "one"])]
    assert len(dataset.fingerprint) >= 8


def test_a_loader_says_what_it_is_and_how_much_it_takes(loader: Any) -> None:
    description = loader.describe()

    assert (description.oldest_protocol, description.protocol) == (3, 3)
    assert "checksum" in description.features
    assert description.version
    assert description.replica
    assert len({lane.name for lane in description.lanes}) == len(description.lanes)
    assert all(lane.address for lane in description.lanes)
    assert description.limits.max_batch_bytes >= 64 << 20
    assert description.limits.max_window >= 256


def test_a_loader_describes_itself_the_same_every_time(loader: Any) -> None:
    assert loader.describe() == loader.describe()


def test_status_is_of_the_loader_that_was_described(loader: Any) -> None:
    status = loader.status()

    assert status.replica == loader.describe().replica
    assert status.draining is False


def test_status_counts_what_was_answered(loader: Any, key: Callable[..., Any]) -> None:
    before = loader.status()

    with loader.stream() as stream:
        stream.want({1: key(offset=0), 2: key(offset=32), 3: key(rows=0)})
        answers = stream.receive(3)
        stream.want({4: key()})
        stream.receive(1)  # what was sent before it is counted by now, itself perhaps not yet
        after = loader.status()

    assert after.counters["batches"] - before.counters["batches"] >= 2
    assert after.counters["bytes"] - before.counters["bytes"] >= 2 * len(answers[1].body)
    assert after.counters["failures"] - before.counters["failures"] >= 1


@pytest.mark.parametrize("protocol", [0, 2, 99])
def test_a_loader_describes_itself_to_trainers_of_every_version(loader: Any, protocol: int) -> None:
    """So that the trainer can say what does not fit, in its own user's terminal; its streams are refused."""
    assert loader.describe(protocol=protocol) == loader.describe()


def test_what_a_loader_does_not_know_in_a_request_is_passed_over(loader: Any) -> None:
    """Additions of later releases: fields, and the names of features."""
    later = pb.DescribeRequest(protocol=7, oldest_protocol=3, features=["thought reading"]).SerializeToString()
    later += bytes((99 << 3 & 0x7F | 0x82, 99 >> 4, 3)) + b"new"  # field 99, length-delimited

    call = loader.channel.unary_unary("/feedline.v1.Loader/Describe", None, pb.Description.FromString)

    assert call(later, timeout=10) == loader.describe()


def test_a_method_that_does_not_exist_is_unimplemented(loader: Any) -> None:
    """A newer trainer finds out by this what an older loader cannot do."""
    call = loader.channel.unary_unary("/feedline.v1.Loader/Rewind", pb.StatusRequest.SerializeToString, None)

    with pytest.raises(grpc.RpcError) as refused:
        call(pb.StatusRequest(), timeout=10)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
