"""The trainer's end of every lane in the table, and which of them is worth asking for."""

import pytest

from feedline.connection.lanes.lane import Lane, kind_of
from feedline_wire.lane import LANES


@pytest.mark.parametrize("name", LANES)
def test_a_lane_of_the_table_is_in_the_module_of_its_name(name: str) -> None:
    kind = kind_of(name)

    assert issubclass(kind, Lane)
    assert kind.name == name
    assert kind.__module__ == f"feedline.connection.lanes.{name}"


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
        ("shm", "", False),
        ("shm", "feedline-nobody-listens-here", False),
        ("shm", "x" * 200, False),
    ],
)
def test_an_address_that_leads_nowhere_is_not_asked_for(name: str, address: str, is_reachable: bool) -> None:
    """A loader may say anything; what it says of a lane must not end the connection."""
    assert kind_of(name).is_reachable(address) is is_reachable
