"""The trainer's end of every lane in the table, and which of them is worth asking for."""

from typing import Any

import pytest

from feedline.connection.buffers import Buffers
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import Description
from feedline.connection.lanes.lane import Lane, kind_of
from feedline.connection.target import Address
from feedline_wire.lane import ENCRYPTED, LANES


@pytest.mark.parametrize("name", LANES)
def test_a_lane_of_the_table_is_in_the_module_of_its_name(name: str) -> None:
    kind = kind_of(name)

    assert issubclass(kind, Lane)
    assert kind.name == name
    assert kind.__module__ == f"feedline.connection.lanes.{name}"


def test_lanes_that_encrypt_are_those_that_are_had_under_tls() -> None:
    assert [name for name in LANES if kind_of(name).is_encrypted] == list(ENCRYPTED) == ["sealed"]


@pytest.mark.parametrize(
    ("name", "address", "is_reachable"),
    [
        ("tcp", "4711", True),
        ("tcp", "", False),
        ("tcp", "0", False),
        ("tcp", "65536", False),
        ("tcp", "-1", False),
        ("tcp", "loader:4711", False),
        ("tcp", "٤", False),
        ("sealed", "4711", True),
        ("sealed", "65536", False),
        ("shm", "", False),
        ("shm", "feedline-nobody-listens-here", False),
        ("shm", "x" * 200, False),
    ],
)
def test_an_address_that_leads_nowhere_is_not_asked_for(name: str, address: str, is_reachable: bool) -> None:
    """A loader may say anything; what it says of a lane must not end the connection."""
    assert kind_of(name).is_reachable(address) is is_reachable


@pytest.mark.parametrize(
    ("credentials", "offered", "asked"),
    [
        (Credentials(), ["tcp"], "tcp"),
        (Credentials(), ["sealed"], ""),
        (Credentials(), ["sealed", "tcp"], "tcp"),
        (Credentials(ca="public"), ["tcp"], ""),
        (Credentials(ca="public"), ["sealed"], "sealed"),
        (Credentials(ca="public"), ["sealed", "tcp"], "sealed"),
        (Credentials(ca="public"), [], ""),
        (Credentials(ca="public"), ["a lane of a later release"], ""),
    ],
    ids=repr,
)
def test_a_trainer_with_tls_asks_for_lanes_that_encrypt_and_one_without_for_others(
    credentials: Credentials, offered: list[str], asked: str
) -> None:
    """Whatever a loader offers: a key that comes without TLS protects nothing, nor does a plain lane."""
    nobody: Any = None
    description = Description("1", "r", {}, 1, 1, lanes=dict.fromkeys(offered, "4711"))
    plain, checksummed = (
        Connection(Address("127.0.0.1:1"), nobody, Buffers(0), credentials, is_checksummed=is_checksummed)
        for is_checksummed in (False, True)
    )

    assert plain._best_lane(description) == asked
    assert checksummed._best_lane(description) == (asked if asked == "sealed" else "")
