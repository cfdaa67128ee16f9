"""How long a target's loaders are waited for where an autoscaler says that one is starting."""

from types import SimpleNamespace
from typing import Any

import pytest

from feedline.fleet.joining import JUST_COME_S, STARTING_S, Deadline
from feedline_wire.errors import FeedlineError, LoaderStarting, LoaderUnavailable, NoLoaderHere

AWAY = LoaderUnavailable("refused")
STARTING = LoaderStarting("one is starting")
THERE = NoLoaderHere("here is the autoscaler of 1 loaders")


def endpoints(*reasons: FeedlineError) -> list[Any]:
    return [SimpleNamespace(reason=reason) for reason in reasons]


def outcomes(timeout_s: float, *said: tuple[float, FeedlineError]) -> list[tuple[bool, float]]:
    """Whether it goes on each time that what there was to wait has passed, and what is said then of the time."""
    deadline = Deadline(timeout_s, 100.0)
    return [
        (deadline.is_put_off(endpoints(AWAY, reason), 100.0 + after_s), deadline.waited_s) for after_s, reason in said
    ]


def test_loaders_that_are_away_are_waited_for_once() -> None:
    assert outcomes(0.3, (0.3, AWAY)) == [(False, 0.3)]


def test_a_loader_that_is_starting_is_waited_for_as_long_as_that_is_said() -> None:
    assert outcomes(1, (1.0, STARTING), (2.0, STARTING), (3.01, STARTING)) == [(True, 1), (True, 2), (True, 3)]


@pytest.mark.parametrize("reason", [THERE, AWAY], ids=["there", "away"])
def test_a_loader_that_started_a_moment_ago_is_waited_for_once_more(reason: FeedlineError) -> None:
    """The word that it is there comes before the next attempt at its address: trainers gave up in between."""
    assert outcomes(1, (1.0, STARTING), (2.0, reason), (7.0, reason)) == [(True, 1), (True, 2), (False, 7)]


def test_that_last_wait_is_long_enough_for_an_attempt() -> None:
    deadline = Deadline(1.0, 0.0)

    deadline.is_put_off(endpoints(STARTING), 1.0)
    while_starting_s = deadline.wait_s
    deadline.is_put_off(endpoints(THERE), 2.0)

    assert (while_starting_s, deadline.wait_s) == (1.0, JUST_COME_S)


def test_a_loader_that_never_starts_is_given_up_in_time() -> None:
    assert outcomes(60, (60.0, STARTING), (STARTING_S + 1, STARTING), (STARTING_S + 61, STARTING))[1:] == [
        (True, STARTING_S + 1),  # the last wait
        (False, STARTING_S + 61),
    ]


def test_who_does_not_wait_is_not_put_off() -> None:
    assert outcomes(0, (0.01, STARTING)) == [(False, 0)]


def test_what_starts_for_just_as_long_as_is_waited_for_is_waited_for_no_more() -> None:
    assert outcomes(1, (STARTING_S, STARTING)) == [(False, 1)]
