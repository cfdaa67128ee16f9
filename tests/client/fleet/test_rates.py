"""What is learnt from answers: when something is late, how fast a loader is, how far ahead is asked."""

import pytest

from feedline.fleet.rates import (
    AHEAD_FIRST,
    AHEAD_MOST,
    EXTRA_BURST,
    FIRST_LATE_S,
    LATE_AT_LEAST_S,
    HedgingBudget,
    LatenessEstimator,
    PrefetchWindow,
    RateEstimator,
    RecentQuantile,
    Supply,
)


def recent(*values: float, quantile: float = 0.95) -> RecentQuantile:
    made = RecentQuantile(quantile, of=256, known_from=8, sort_every=16)
    for value in values:
        made.add(value)
    return made


# ---- late ----


def test_nothing_is_believed_of_fewer_than_eight_answers() -> None:
    assert recent(*[9.0] * 7).value is None
    assert recent(*[9.0] * 8).value == 9.0


@pytest.mark.parametrize(("quantile", "found"), [(0.5, 8.0), (0.95, 16.0), (0.01, 1.0)])
def test_a_quantile_is_one_of_the_answers(quantile: float, found: float) -> None:
    assert recent(*[float(value) for value in range(1, 17)], quantile=quantile).value == found


def test_what_was_long_ago_is_forgotten() -> None:
    assert recent(*[60.0] * 300, *[1.0] * 260).value == 1.0


@pytest.mark.parametrize(
    ("usual", "late"),
    [(None, FIRST_LATE_S), (0.001, LATE_AT_LEAST_S), (0.5, 1.0), (10.0, 20.0)],
)
def test_late_is_so_many_times_what_is_usual_and_never_less_than_a_hiccup(usual: float | None, late: float) -> None:
    lateness = LatenessEstimator()
    for _ in range(8 if usual is not None else 0):
        lateness.answer_times.add(usual or 0.0)

    assert lateness.late_after_s == late


@pytest.mark.parametrize(
    ("usual", "silent", "renew"),
    [(None, 2.0, 30.0), (0.001, 0.25, 10.0), (0.5, 1.5, 10.0), (1.0, 3.0, 12.0)],
)
def test_a_loader_is_silent_after_three_times_the_usual_gap_and_its_stream_made_anew_after_four_times_that(
    usual: float | None, silent: float, renew: float
) -> None:
    lateness = LatenessEstimator()
    for _ in range(8 if usual is not None else 0):
        lateness.gaps.add(usual or 0.0)

    assert lateness.silent_after_s == silent
    assert lateness.renew_after_s(0) == renew
    assert lateness.renew_after_s(3) == 8 * renew, "each time in vain doubles it"


# ---- fast ----


def test_a_rate_is_bytes_by_the_time_in_which_something_was_owed() -> None:
    estimator = RateEstimator()
    assert estimator.bytes_per_s(0.0) is None

    estimator.answered(1_000_000, 0.5, now=10.0)

    assert estimator.bytes_per_s(10.0) == 2_000_000


def test_a_loader_that_got_slow_is_found_out_within_a_few_batches() -> None:
    estimator = RateEstimator()
    for second in range(100):
        estimator.answered(1_000_000, 1.0, now=float(second))

    for second in range(100, 106):
        estimator.answered(100_000, 1.0, now=float(second))

    rate = estimator.bytes_per_s(105.0)
    assert rate is not None
    assert 150_000 < rate < 250_000


def test_a_rate_is_forgotten_when_nothing_confirms_it() -> None:
    estimator = RateEstimator()
    estimator.answered(1_000_000, 1.0, now=10.0)

    assert estimator.bytes_per_s(20.0) == 1_000_000
    assert estimator.bytes_per_s(20.5) is None


def test_a_loader_that_answers_nothing_but_errors_has_no_rate() -> None:
    estimator = RateEstimator()
    estimator.answered(0, 1.0, now=10.0)

    assert estimator.bytes_per_s(10.0) is None


def test_the_way_there_and_back_is_the_shortest_of_the_first_few_answers_of_a_stream() -> None:
    """The very first opens it, and those after wait for one another."""
    estimator = RateEstimator()
    for seconds in (0.5, 0.05, 0.04, 0.06, 0.07, 0.08, 0.09):
        estimator.took(seconds, was_alone=False)
    assert estimator.latency.value is None

    estimator.took(0.1, was_alone=False)
    estimator.took(0.001, was_alone=False)

    assert estimator.latency.value == 0.04


def test_later_the_way_is_what_keys_usually_take_that_wait_for_no_other() -> None:
    estimator = RateEstimator()
    for seconds in (*[1.0] * 8, 0.001, 0.04, 0.03, 0.05, 2.0):
        estimator.took(seconds, was_alone=True)

    assert estimator.latency.value == 0.05

    estimator.connected()
    for _ in range(8):
        estimator.took(0.2, was_alone=False)
    assert estimator.latency.value == 0.05, "one connection more is one measurement more"

    estimator.took(0.3, was_alone=True)
    assert estimator.latency.value == 0.2, "of eight measurements, the upper of the two in the middle"


def test_the_first_answers_of_each_stream_are_measured_as_those_of_the_first() -> None:
    estimator = RateEstimator()
    for _ in range(3):
        estimator.connected()
        for _ in range(8):
            estimator.took(0.2, was_alone=True)

    estimator.took(0.3, was_alone=True)
    estimator.took(0.3, was_alone=True)
    assert estimator.latency.value == 0.2, "three of five"


def test_of_two_answers_the_slower_is_usual_and_of_three_the_middle_one() -> None:
    estimator = RateEstimator()
    for seconds in (*[1.0] * 8, 0.5):
        estimator.took(seconds, was_alone=True)
    assert estimator.latency.value == 1.0

    estimator.took(0.6, was_alone=True)
    assert estimator.latency.value == 0.6


def test_one_quick_answer_changes_little() -> None:
    estimator = RateEstimator()
    for second in range(100):
        estimator.answered(1_000_000, 1.0, now=float(second))

    estimator.answered(1_000_000, 0.01, now=100.0)

    rate = estimator.bytes_per_s(100.0)
    assert rate is not None
    assert 1_200_000 < rate < 1_400_000


def test_an_answer_that_took_no_time_is_no_rate() -> None:
    estimator = RateEstimator()
    estimator.answered(1_000_000, 0.0, now=10.0)

    assert estimator.bytes_per_s(10.0) is None


# ---- asked twice ----


def test_one_of_sixteen_keys_may_be_asked_for_twice_and_a_window_at_once() -> None:
    budget = HedgingBudget()
    at_once = sum(budget.spend() for _ in range(1000))
    assert at_once == EXTRA_BURST == 64

    for _ in range(15):
        budget.earn()
    assert not budget.spend()

    budget.earn()
    assert budget.spend()
    assert not budget.spend()


def test_what_is_saved_has_a_bound() -> None:
    budget = HedgingBudget()
    for _ in range(100_000):
        budget.earn()

    assert sum(budget.spend() for _ in range(1000)) == 64


# ---- how far ahead ----


def reached(batches_per_s: float, latency_s: float | None, *, fixed: int | None = None, batches: int = 200) -> int:
    window = PrefetchWindow(fixed)
    for number in range(batches):
        window.delivered(number / batches_per_s, lambda: latency_s)
    return window.batches


@pytest.mark.parametrize(
    ("batches_per_s", "latency_s", "ahead"),
    [
        (1000, None, 16),  # nothing known
        (10, 0.001, 17),  # a slow trainer beside its loader
        (1000, 0.0049, 26),  # a fast one
        (1000, 0.0399, 96),  # 20 ms away: 40 are on the line, and as many again let the rate grow
        (5000, 0.200, 512),  # the other side of the world
    ],
)
def test_as_much_is_asked_ahead_as_the_line_takes_twice(
    batches_per_s: float, latency_s: float | None, ahead: int
) -> None:
    assert reached(batches_per_s, latency_s) == ahead


def test_a_few_quick_batches_are_not_believed() -> None:
    assert reached(1000, 0.0399, batches=31) == 16
    assert reached(1000, 0.0399, batches=32) == 96


def test_batches_that_were_all_there_say_nothing_of_a_rate() -> None:
    window = PrefetchWindow(None)
    for _ in range(40):
        window.delivered(5.0, lambda: 0.04)

    assert window.batches == 16


def test_the_rate_is_that_of_the_last_32_batches_whenever_they_came_in_that_time() -> None:
    window = PrefetchWindow(None)
    for now in (100.0, *[100.031] * 31):
        window.delivered(now, lambda: 0.0399)

    assert window.batches == 96


def test_the_rate_is_taken_once_in_eight_batches() -> None:
    taken = []
    window = PrefetchWindow(None)
    for number in range(200):
        window.delivered(float(number), lambda: taken.append(1))  # type: ignore[arg-type, func-returns-value]

    assert len(taken) == 22, "at the 32nd, the 40th and so on"


def test_the_bounds_are_stated() -> None:
    assert (AHEAD_FIRST, AHEAD_MOST) == (16, 512)


def test_what_somebody_chose_stays() -> None:
    assert reached(5000, 0.200, fixed=3) == 3


def test_it_does_not_shrink_while_the_trainer_evaluates() -> None:
    window = PrefetchWindow(None)
    for number in range(200):
        window.delivered(number / 1000, lambda: 0.0399)

    for number in range(200):
        window.delivered(100 + number, lambda: 0.040)

    assert window.batches == 96


def test_batches_come_in_ample_supply_when_none_was_waited_for_in_a_long_time() -> None:
    supply = Supply()
    for _ in range(63):
        supply.answered(is_awaited=False)
    assert not supply.is_ample
    supply.answered(is_awaited=False)
    assert supply.is_ample


def supplied(supply: Supply, *, batches: int, awaited: int = 0) -> bool:
    """Whether there is enough, after so many batches, every so many of which a reader waited for."""
    for number in range(1, batches + 1):
        supply.answered(is_awaited=bool(awaited) and number % awaited == 0)
    return supply.is_ample


def test_what_was_too_little_once_is_tried_again_after_twice_as_long() -> None:
    supply = Supply()
    assert supplied(supply, batches=64)

    assert not supplied(supply, batches=5, awaited=1)

    assert not supplied(supply, batches=127)
    assert supplied(supply, batches=1)


def test_waits_now_and_then_are_no_shortage() -> None:
    """Each moment in which the machine stood still had a trainer that is fed ask all of 64 loaders, for seconds."""
    supply = Supply()
    assert supplied(supply, batches=64)

    assert supplied(supply, batches=4, awaited=1), "one stall, of which a few batches come late"
    assert supplied(supply, batches=64)
    assert supplied(supply, batches=1000, awaited=17)
    assert not supplied(supply, batches=200, awaited=10)
