"""What a loader did of late: over a minute, over the time that its trainers read, and never over its idleness."""

import pytest

from feedline_server.watching.history import Sample, grown
from feedline_wire.status import LoaderCounters, to_messages


def sampled(*moments: tuple[float, int]) -> list[Sample]:
    """Samples at these seconds, when so many batches of a second each were sent."""
    return [
        Sample(float(at), LoaderCounters(batches=batches, assembling_s=float(batches)), {"resize": batches / 2})
        for at, batches in moments
    ]


@pytest.mark.parametrize(
    ("moments", "now", "most_s", "seconds", "batches"),
    [
        # All of a short life.
        ([(0, 0), (1, 10), (2, 20)], (3, 30), 60.0, 3.0, 30),
        # A minute of a long one.
        ([(at, at) for at in range(120)], (120, 120), 60.0, 61.0, 61),
        # As long as trainers read.
        ([(at, at) for at in range(120)], (120, 120), 10.0, 11.0, 11),
        # Not the idle time before it, nor what was before that.
        ([*((at, at) for at in range(10)), *((at, 9) for at in range(10, 40)), (40, 15)], (41, 25), 60.0, 2.0, 16),
        # A slow trainer is no idle one.
        ([(at, at // 5) for at in range(30)], (30, 6), 60.0, 26.0, 6),
        # Idle all the time.
        ([(at, 7) for at in range(30)], (30, 7), 60.0, 30.0, 0),
        ([], (0, 0), 60.0, 0.0, 0),
    ],
)
def test_of_late(
    moments: list[tuple[float, int]], now: tuple[float, int], most_s: float, seconds: float, batches: int
) -> None:
    (last,) = sampled(now)

    found = grown(sampled(*moments), last, most_s)

    assert found.seconds == seconds
    assert found.counters.batches == batches
    assert found.counters.assembling_s == batches
    assert found.transform_s == {"resize": batches / 2}


def test_a_batch_that_takes_a_worker_long_is_no_idleness() -> None:
    samples = sampled(*((at, 3) for at in range(40)))
    for one in samples:
        one.counters.workers_busy = 1
    (last,) = sampled((40, 4))

    assert grown(samples, last, 60.0).seconds == 40


def test_what_is_less_than_it_was_has_not_grown_and_can_be_sent() -> None:
    """A loader with less memory lent than a moment before answered no Status: a message has no numbers below 0."""
    before = Sample(0.0, LoaderCounters(batches=1, workers_busy=1, arena_lent=12288), {})
    now = Sample(1.0, LoaderCounters(batches=2), {})

    found = grown([before], now, 60.0).counters

    assert (found.batches, found.workers_busy, found.arena_lent) == (1, 0, 0)
    assert len(to_messages(found)) > 20
