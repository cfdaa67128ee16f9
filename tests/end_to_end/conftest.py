"""A view of 101 numbered samples, on two real loaders that many tests read from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
import pytest
from certificates import Authority

from feedline_wire import PROTOCOL, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.lane import GREETING, SEALED, SEALED_GREETING, TCP

SAMPLES = 101
"""Prime: no batch size and no number of ranks divides it by accident."""


class Started(Protocol):
    """What these tests need of a started loader."""

    address: str


@pytest.fixture(scope="session")
def hundred_and_one(
    tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> Path:
    """A folder of numbered columns."""
    folder = tmp_path_factory.mktemp("data") / "numbered"
    numbered_columns(folder, SAMPLES, (8, 3))
    return folder


@pytest.fixture(scope="session")
def one_worker(hundred_and_one: Path, start_shared_loader: Callable[..., Started]) -> str:
    """Address of a loader with one worker."""
    return start_shared_loader(hundred_and_one, "--workers", "1").address


@pytest.fixture(scope="session")
def four_workers(hundred_and_one: Path, start_shared_loader: Callable[..., Started]) -> str:
    """Address of a loader with four workers over the same data."""
    return start_shared_loader(hundred_and_one, "--workers", "4").address


@dataclass(frozen=True, slots=True)
class NetworkLane:
    """A lane to trainers on other hosts: what loader and trainer are told so that batches travel by it."""

    name: str
    greeting: bytes
    loader: tuple[str, ...]
    """Arguments of `serve`."""
    trainer: dict[str, Any]
    """Arguments of `feedline.connect`."""

    def channel(self, address: str) -> grpc.Channel:
        """To a loader that was started so, in plain gRPC."""
        if "ca" not in self.trainer:
            return grpc.insecure_channel(address)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.trainer["ca"].read_bytes()))

    def port(self, address: str) -> int:
        """Where the loader has the lane; 0 where it has none."""
        with self.channel(address) as channel:
            describe = channel.unary_unary(
                rpc.DESCRIBE,
                request_serializer=pb.DescribeRequest.SerializeToString,
                response_deserializer=pb.Description.FromString,
            )
            description: pb.Description = describe(pb.DescribeRequest(protocol=PROTOCOL), timeout=10)
            return next((int(lane.address) for lane in description.lanes if lane.name == self.name), 0)


@pytest.fixture(scope="session", params=[TCP, SEALED])
def lane(request: pytest.FixtureRequest, authority: Authority) -> NetworkLane:
    """The tcp lane, or the sealed one, which is the same under TLS."""
    if request.param == TCP:
        return NetworkLane(TCP, GREETING, ("--no-shm-lane",), {})
    pair = authority.issue("loader", "127.0.0.1")
    return NetworkLane(SEALED, SEALED_GREETING, ("--no-shm-lane", *pair.arguments), {"ca": authority.file})


@pytest.fixture(scope="session")
def by_lane(lane: NetworkLane, hundred_and_one: Path, start_shared_loader: Callable[..., Started]) -> str:
    """Address of a loader with one worker that has the lane."""
    return start_shared_loader(hundred_and_one, "--workers", "1", *lane.loader).address
