"""What a fleet may be called, how many replicas it may have, and how it is shown."""

from typing import Any

import pytest

from feedline.ray.spec import FleetStatus, Report, checked_name, checked_replicas
from feedline.watching.scaling import Recommendation
from feedline_wire.errors import InvalidRequest


@pytest.mark.parametrize("name", ["", "1digits", "50051", "a/b", "a b", "a:1", "-x", "ä", "x" * 64])
def test_a_name_that_no_target_could_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="the name of a fleet is"):
        checked_name(name)


@pytest.mark.parametrize("replicas", [0, -1, (2, 1), (0, 3), (1, 2, 3), (1,), ("1", "2"), (1.5, 2)])
def test_numbers_of_replicas_that_make_no_sense_are_refused(replicas: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"replicas is .*; wanted a number, or"):
        checked_replicas(replicas)


def test_one_number_of_replicas_is_the_least_and_the_most() -> None:
    assert checked_replicas(3) == (3, 3)
    assert checked_replicas([2, 8]) == (2, 8)


def test_a_fleet_is_shown_with_each_replica_and_what_it_waits_for() -> None:
    status = FleetStatus(
        name="digits",
        words=("/data/digits", "--workers", "4"),
        workers=4,
        least=2,
        most=8,
        recommendation=Recommendation(0.0, 3, 3, "trainers want 8 workers"),
        replicas=(
            Report("replica-0", "serving", 75.0, address="10.0.0.7:40001", starts=2, reason="it ended with code 1"),
            Report("replica-1", "failed", 3.0, reason="it did not serve within 300 s"),
        ),
        unplaced=("replica-2",),
    )

    assert str(status).splitlines() == [
        "ray:digits: 1 of 2 to 8 replicas serve, 4 workers each: feedline serve /data/digits --workers 4",
        "  replica-0 serving at 10.0.0.7:40001 for 0:01:15, started 2 times: it ended with code 1",
        "  replica-1 failed for 0:00:03: it did not serve within 300 s",
        "  replica-2: waits for a node with 4 free CPUs",
        "  3 loaders: trainers want 8 workers",
    ]
