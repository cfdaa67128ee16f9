"""What the registry of a fleet knows, and when it says that it does not."""

from feedline.ray.registry import SETTLE_S, STALE_S, Registry
from feedline.ray.spec import Report

SERVING = Report("replica-0", "serving", 2.0, address="10.0.0.7:40001")


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def test_one_that_was_just_started_does_not_know_until_every_replica_had_time_to_speak() -> None:
    clock = Clock()
    registry = Registry(clock)

    registry.say(SERVING)
    clock.s += SETTLE_S - 0.25
    early = registry.reports()
    clock.s += 0.5

    assert early is None  # a trainer that heard of one of three would leave the two others
    assert registry.reports() == [Report("replica-0", "serving", 6.25, address="10.0.0.7:40001")]


def test_a_dead_address_is_forgotten_after_some_missed_words_and_a_new_port_replaces_the_old_one_at_once() -> None:
    clock = Clock()
    registry = Registry(clock)
    clock.s += 2 * STALE_S
    registry.say(SERVING)
    registry.say(Report("replica-1", "serving", 0.0, address="10.0.0.8:40001"))

    clock.s += STALE_S - 1
    registry.say(Report("replica-1", "serving", 0.0, address="10.0.0.8:40002"))
    both = [one.address for one in registry.reports() or ()]
    clock.s += 1.5

    assert both == ["10.0.0.7:40001", "10.0.0.8:40002"]
    assert [one.address for one in registry.reports() or ()] == ["10.0.0.8:40002"]


def test_replicas_stand_in_the_order_of_their_numbers_and_one_that_was_removed_does_not() -> None:
    clock = Clock()
    registry = Registry(clock)
    clock.s += SETTLE_S
    for number in (10, 9, 1):
        registry.say(Report(f"replica-{number}", "starting", 0.0))

    registry.forget("replica-9")
    registry.forget("replica-77")

    assert [one.name for one in registry.reports() or ()] == ["replica-1", "replica-10"]
