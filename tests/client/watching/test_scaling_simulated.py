"""What is promised of a fleet that is scaled, held against simulations; the code that is shipped makes the decisions.

Up within three minutes and one start; down within the window and one loader a minute; at most one reversal a change;
trainers that compute 97 % of their time once settled; never fewer than min, never more than max.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks.fleet import SCENARIOS, UP_WITHIN_S, UTILISATION, judge, simulate  # noqa: E402

FOLLOWED = ("1 to 64", "steps", "slow starts", "evaluation", "one never starts", "to none and back")


@pytest.mark.parametrize("name", FOLLOWED)
def test_changes_of_the_load_are_followed_as_promised(name: str) -> None:
    scenario = SCENARIOS[name]
    outcome = simulate(scenario)
    policy = scenario.policy

    for change in judge(outcome):
        most = max(outcome.asked[max(change.at - 1, 0) : change.at + 300])
        assert change.up_s <= UP_WITHIN_S + scenario.start_s, change
        assert change.down_s <= policy.window_s + (most - 1) * policy.in_every_s + 60, change
        assert change.reversals <= 1, change
        assert change.utilisation >= UTILISATION, change
    assert min(outcome.asked) >= policy.least
    assert max(outcome.asked) <= policy.most


@pytest.mark.parametrize("seed", range(1, 4))
def test_the_noise_of_what_is_measured_moves_nothing(seed: int) -> None:
    """A fleet of 20, for 25 minutes, with costs and waits that are measured 10 % too high and too low."""
    outcome = simulate(replace(SCENARIOS["steps"], noise=0.1, seconds=2400), seed)

    [_, change] = judge(outcome)

    assert change.reversals <= 1
    assert change.utilisation >= UTILISATION
    assert 19 <= outcome.asked[-1] <= 23


def test_bursts_are_borne_by_what_is_kept_for_a_window_and_the_fleet_comes_back() -> None:
    outcome = simulate(SCENARIOS["bursts"])

    assert outcome.asked[599] == 6
    assert 10 <= max(outcome.asked) <= 13
    assert outcome.asked[-1] <= 8


def test_a_controller_that_dies_in_the_middle_changes_nothing_on_the_way_up() -> None:
    """It dies twice while loaders start, and twice while they are taken away."""
    scenario = SCENARIOS["restarts"]
    undisturbed = simulate(replace(scenario, restarts=()))
    disturbed = simulate(scenario)

    assert disturbed.asked[:1800] == pytest.approx(undisturbed.asked[:1800], abs=1)
    assert max(b - a for a, b in zip(disturbed.asked[1800:], disturbed.asked[1801:], strict=False)) <= 0
    assert disturbed.asked[-1] == 1


def test_what_max_does_not_allow_is_not_asked_for_and_what_storage_does_not_give_stops_there() -> None:
    full, dry = simulate(SCENARIOS["more than max"]), simulate(SCENARIOS["storage"])

    assert (min(full.asked), max(full.asked)) == (2, 8)
    assert full.decisions[-1].reason.endswith("and max is 8")
    assert max(dry.asked) <= 16
    assert judge(full)[-1].up_s == math.inf
