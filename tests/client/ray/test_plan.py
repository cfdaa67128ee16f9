"""What a controller does next, of what is there: a table."""

import pytest

from feedline.ray.plan import Action, Create, Drain, Remove, plan
from feedline.ray.spec import Report, State


def planned(states: "dict[str, State | None]", wanted: int) -> list[Action]:
    """`None`: an actor of which nothing is known."""
    reports = {name: Report(name, state, 1.0) for name, state in states.items() if state is not None}
    return list(plan(states.keys(), reports, wanted))


@pytest.mark.parametrize(
    ("states", "wanted", "expected"),
    [
        ({}, 2, [Create("replica-0"), Create("replica-1")]),
        ({"replica-0": "serving"}, 1, []),
        # What starts, or waits for a node, or fails, is not asked for twice.
        ({"replica-0": "serving", "replica-1": "starting", "replica-2": None, "replica-3": "failed"}, 4, []),
        # A lost number is used again, one that drains is not.
        ({"replica-0": "serving", "replica-2": "draining"}, 2, [Create("replica-1")]),
        # One that has drained is removed, whoever had it drained.
        ({"replica-0": "serving", "replica-1": "ended"}, 1, [Remove("replica-1")]),
        ({"replica-0": "ended"}, 1, [Remove("replica-0"), Create("replica-1")]),
        # The last one goes first, and by number, not as text.
        ({"replica-2": "serving", "replica-10": "serving"}, 1, [Drain("replica-10")]),
        # A controller that begins in the middle of a scale-in goes on with it, and drains no further one.
        ({"replica-0": "serving", "replica-1": "serving", "replica-2": "draining"}, 2, []),
        # What serves nobody goes before what serves, and at once.
        (
            {"replica-0": "serving", "replica-1": "failed", "replica-2": "serving", "replica-3": None},
            1,
            [Remove("replica-3"), Remove("replica-1"), Drain("replica-2")],
        ),
        ({"replica-0": "serving", "replica-1": "failed", "replica-2": "serving"}, 2, [Remove("replica-1")]),
    ],
)
def test_the_next_actions(states: "dict[str, State | None]", wanted: int, expected: list[Action]) -> None:
    assert planned(states, wanted) == expected


def test_nothing_that_serves_is_drained_while_fewer_serve_than_are_wanted() -> None:
    # Two are wanted, one of three serves, the others start: the one that serves stays, whatever its number.
    assert planned({"replica-0": "starting", "replica-1": "starting", "replica-9": "serving"}, 2) == [
        Remove("replica-1")
    ]


def test_without_a_registry_replicas_are_added_but_none_is_ended() -> None:
    assert list(plan({"replica-0", "replica-1"}, None, 1)) == []
    assert list(plan({"replica-0"}, None, 2)) == [Create("replica-1")]
