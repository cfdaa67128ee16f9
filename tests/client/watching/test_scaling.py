"""How many loaders there should be is a table: what the fleet says, what was decided before, and the answer."""

from dataclasses import replace

import pytest

from feedline.watching.scaling import Look, Policy, Recommendation, decide, kept, look
from feedline_wire.errors import InvalidRequest
from feedline_wire.status import LoaderCounters, LoaderStatus, Readings, to_messages

FED = Look(1000.0, replicas=4, workers=16, demand=10.0, waiting_share=0.001, trainers=2)
"""10 of 16 workers are wanted: 0.7 of them would be 11.2."""

POLICY = Policy(least=1, most=8)


def since(start: float, *decided: tuple[float, int, int]) -> list[Recommendation]:
    """What was decided: (seconds after the start, replicas, wanted)."""
    return [Recommendation(start + after, replicas, wanted, "") for after, replicas, wanted in decided]


def steadily(replicas: int, wanted: int) -> list[Recommendation]:
    """The same for more than a window."""
    return since(600.0, *((float(after), replicas, wanted) for after in range(0, 400, 10)))


@pytest.mark.parametrize(
    ("seen", "past", "replicas"),
    [
        pytest.param(FED, [], 4, id="as many as there are"),
        pytest.param(replace(FED, demand=11.2), [], 4, id="the target to the last bit"),
        pytest.param(replace(FED, demand=12.3), [], 4, id="a little more than the target: noise"),
        pytest.param(replace(FED, demand=12.4), [], 5, id="a tenth more than the target: at once one more"),
        pytest.param(replace(FED, demand=22.0, waiting_share=0.5), [], 8, id="twice as much: at once twice as many"),
        pytest.param(replace(FED, demand=400.0, waiting_share=0.99), [], 8, id="never more than max"),
        pytest.param(replace(FED, demand=2.0), [], 4, id="fewer not before a window was seen"),
        pytest.param(replace(FED, demand=2.0), since(701.0, (0, 4, 1), (290, 4, 1)), 4, id="nor a second before"),
        pytest.param(replace(FED, demand=2.0), steadily(4, 1), 3, id="after a window one less, not three"),
        pytest.param(replace(FED, demand=2.0, waiting_share=0.01), steadily(4, 1), 4, id="not while a trainer waits"),
        pytest.param(
            replace(FED, demand=2.0), [*steadily(4, 1)[:-5], *since(960.0, (0, 4, 4), (10, 4, 1))], 4,
            id="not if all were wanted within the window",
        ),
        pytest.param(
            replace(FED, demand=2.0), [*steadily(4, 1), *since(960.0, (0, 3, 1), (30, 3, 1))], 3, id="one a minute"
        ),
        pytest.param(
            replace(FED, demand=2.0), [*steadily(4, 1), *since(930.0, (0, 3, 1), (60, 3, 1))], 2, id="then the next"
        ),
        pytest.param(replace(FED, demand=0.0, trainers=0), steadily(1, 1), 1, id="never fewer than min"),
        pytest.param(replace(FED, is_known=False, replicas=0, workers=0), steadily(4, 4), 4, id="blind: as before"),
        pytest.param(
            replace(FED, is_known=False, replicas=0, workers=0, demand=0), [], 1, id="blind from the start: min"
        ),
        pytest.param(replace(FED, replicas=3, workers=12, unanswered=1), steadily(4, 4), 4, id="one that never starts"),
        pytest.param(replace(FED, demand=5.0, replicas=2, workers=2), [], 8, id="of the workers that a replica has"),
    ],
)  # fmt: skip
def test_the_number_of_replicas(seen: Look, past: list[Recommendation], replicas: int) -> None:
    assert decide(seen, past, POLICY).replicas == replicas


NOBODY = Look(1000.0, replicas=0, workers=0, demand=0.0)


@pytest.mark.parametrize(
    ("seen", "past", "replicas"),
    [
        pytest.param(NOBODY, steadily(0, 0), 0, id="none while no trainer is there"),
        pytest.param(replace(NOBODY, knocking=3), steadily(0, 0), 1, id="one knocks: one at once"),
        pytest.param(replace(NOBODY, replicas=1, workers=4), steadily(1, 0), 0, id="none after a window of none"),
        pytest.param(replace(NOBODY, replicas=1, workers=4), since(900.0, (0, 1, 1)), 1, id="not before"),
        pytest.param(
            replace(NOBODY, replicas=1, workers=4, trainers=1), steadily(1, 1), 1, id="a trainer that pauses keeps one"
        ),
        pytest.param(replace(NOBODY, trainers=1), steadily(1, 1), 1, id="all loaders are gone, and a trainer is there"),
    ],
)  # fmt: skip
def test_the_number_of_replicas_with_a_minimum_of_none(seen: Look, past: list[Recommendation], replicas: int) -> None:
    assert decide(seen, past, Policy(least=0, most=8)).replicas == replicas


def test_one_that_begins_anew_in_the_middle_of_scaling_decides_the_same() -> None:
    """12 of 64 loaders have started when the controller dies: the next one must not take back the other 52."""
    short = Look(1000.0, replicas=12, workers=48, demand=177.0, waiting_share=0.7, trainers=9)
    policy = Policy(least=1, most=64)
    first = decide(replace(short, at=940.0, replicas=1, workers=4), [], policy)

    assert first.replicas == decide(short, [first], policy).replicas == decide(short, [], policy).replicas == 64


def test_one_that_begins_anew_while_loaders_are_taken_away_waits_for_a_window_of_its_own() -> None:
    seen = replace(FED, replicas=3, workers=12, demand=2.0)

    decided: list[Recommendation] = []
    for at in range(0, 420, 10):
        decided.append(decide(replace(seen, at=float(at)), decided, POLICY))

    assert [one.at for one in decided if one.replicas == 3] == [float(at) for at in range(0, 300, 10)]
    assert decided[-1].replicas == 1


def test_what_is_kept_of_the_past_is_enough_to_decide_the_same() -> None:
    whole: list[Recommendation] = []
    short: list[Recommendation] = []
    for at in range(0, 1500, 10):
        seen = replace(FED, at=float(at), demand=10.0 if at < 100 else 2.0)
        whole.append(decide(seen, whole, POLICY))
        short = kept([*short, decide(seen, short, POLICY)], float(at), POLICY)
        assert whole[-1] == short[-1]

    assert len(short) == 31
    assert [one.at for one, before in zip(whole[1:], whole, strict=False) if one.replicas < before.replicas] == [
        390.0, 450.0, 510.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "past", "sentence"),
    [
        (FED, [], "4 loaders: trainers want 10 workers, 62.5 % of those of 4 x 4"),
        (replace(FED, demand=40.0), [], "8 loaders: trainers want 40 workers, 125.0 % of those of 8 x 4, and max is 8"),
        (
            replace(FED, demand=2.0), [],
            "4 loaders: as before until it lasts 300 s: trainers want 2 workers, 50.0 % of those of 1 x 4",
        ),
        (
            replace(FED, demand=2.0, waiting_share=0.03), [],
            "4 loaders: as before, since a trainer waits 3.0 %: trainers want 2 workers, 50.0 % of those of 1 x 4",
        ),
        (replace(NOBODY, knocking=1), [], "1 loader: 1 trainer asks for one"),
        (replace(NOBODY, is_known=False, unanswered=3), [], "1 loader: as before: nothing answers at 3 addresses"),
    ],
)  # fmt: skip
def test_why(seen: Look, past: list[Recommendation], sentence: str) -> None:
    assert str(decide(seen, past, POLICY)) == sentence


@pytest.mark.parametrize(
    "wrong", [{"least": 3, "most": 2}, {"least": -1}, {"least": 0, "most": 0}, {"target": 0.0}, {"target": 1.5},
              {"window_s": -1.0}]
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="wanted"):
        Policy(**wrong)  # type: ignore[arg-type]


def test_a_loader_at_two_addresses_counts_once_and_one_that_drains_is_on_its_way_out() -> None:
    counted = Readings(to_messages(LoaderCounters(workers=4)))
    one = LoaderStatus("r1", "0.3", False, "", counted, ())
    other = replace(one, replica="r2")
    draining = replace(one, replica="r3", draining=True)

    seen = look({"a:1": one, "b:1": one, "c:1": other, "d:1": draining}, 5.0, unanswered=1)

    assert (seen.replicas, seen.workers, seen.unanswered, seen.is_known) == (2, 8, 1, True)
    assert not look({}, 5.0, unanswered=2).is_known
    assert look({}, 5.0).is_known
