"""What a fleet says of itself in numbers."""

import pytest

from feedline.connection.buffers import Buffers
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.target import Address
from feedline.fleet.endpoint import Endpoint, State
from feedline.fleet.requests import InFlight, PendingBatch
from feedline.fleet.statistics import ReplicaStatistics, observed, statuses
from feedline.fleet.tracker import RequestTracker
from feedline_wire.errors import FeedlineError, LoaderUnavailable, ProtocolMismatch
from feedline_wire.key import Key

KEY = Key("voxels", b"\x01", "train", "shuffle", seed=0, epoch=3, offset=118, rows=32)
NOW = 100.0


class NoOwner:
    """Nobody calls a connection that was never started."""


def endpoint(
    name: str, state: State, *, fingerprint: bytes | None = None, reason: FeedlineError | None = None
) -> Endpoint:
    connection = Connection(Address(f"{name}:1"), NoOwner(), Buffers(0), Credentials())  # type: ignore[arg-type]
    made = Endpoint(connection, state, reason=reason)
    if fingerprint is not None:
        info = DatasetInfo("voxels", fingerprint, 100, (), (), {"train": 100}, ("shuffle",))
        made.description = Description("1.2", f"id of {name}", {"voxels": info}, max_batch_nbytes=9999, max_window=9)
    return made


def tracked(*endpoints: Endpoint) -> RequestTracker:
    tracker = RequestTracker(lambda: None, lambda: None)
    tracker.endpoints = endpoints
    return tracker


@pytest.mark.parametrize(
    ("one", "state", "reason"),
    [
        (endpoint("a", State.CONNECTED, fingerprint=b"\x01"), "connected", ""),
        (endpoint("a", State.DRAINING, fingerprint=b"\x01"), "draining", ""),
        (endpoint("a", State.LEAVING, fingerprint=b"\x01"), "leaving", ""),
        (endpoint("a", State.AWAY), "away", ""),
        (endpoint("a", State.AWAY, reason=LoaderUnavailable("reset")), "away", "reset"),
        (endpoint("a", State.REFUSED, reason=ProtocolMismatch("version 2")), "refused", "version 2"),
        (
            endpoint("a", State.CONNECTED, fingerprint=b"\x02"),
            "refused",
            "the loader at a:1 now has the fingerprint 02",
        ),
    ],
)
def test_what_a_loader_is_to_a_trainer_and_why(one: Endpoint, state: str, reason: str) -> None:
    tracker = tracked(one)
    tracker._used["voxels"] = KEY, 100

    (found,) = observed(tracker, now=NOW).replicas

    assert (found.state, found.reason.partition(" for ")[0]) == (state, reason)
    assert found.replica == ("id of a" if one.is_connected else "")


@pytest.mark.parametrize(
    ("state", "heard_s_ago", "found"),
    [
        (State.CONNECTED, 2.0, "connected"),
        (State.CONNECTED, 2.1, "silent"),
        (State.DRAINING, 2.1, "draining"),
    ],
)
def test_a_connected_loader_that_owes_a_batch_and_gives_no_sign_of_life_is_silent(
    state: State, heard_s_ago: float, found: str
) -> None:
    one = endpoint("a", state, fingerprint=b"\x01")
    one.in_flight[7] = InFlight(PendingBatch(7, KEY, 100), 0.0, 100, was_alone=True)
    one.heard_at = NOW - heard_s_ago

    assert observed(tracked(one), now=NOW).replicas[0].state == found


def test_the_numbers_are_those_of_all_loaders_and_of_those_that_were_left() -> None:
    first, second = endpoint("a", State.CONNECTED, fingerprint=b"\x01"), endpoint("b", State.AWAY)
    first.asked, first.answered, first.duplicates, second.duplicates = 5, 4, 2, 3
    first.rate.answered(1000, 0.5, NOW)
    tracker = tracked(first, second)
    tracker.counts.duplicates, tracker.counts.wanted, tracker.counts.damaged = 10, 6, 1

    found = observed(tracker, now=NOW)

    assert (found.wanted, found.duplicates, found.damaged, found.bad_samples) == (6, 15, 1, 0)
    assert found.late_after_s == 2.0
    assert found.replicas[0] == ReplicaStatistics(
        "a:1", "id of a", "connected", "", "grpc", outstanding=0, asked=5, answered=4, duplicates=2, bytes_per_s=2000.0
    )


def test_a_fleet_without_a_loader_has_no_status() -> None:
    assert statuses([], 1.0) == {}
