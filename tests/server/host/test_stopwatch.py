"""Where a worker's time goes: to the stage of each lap; what a read only waited is the storage's."""

import time
from dataclasses import dataclass

import pytest

from feedline_server.host import stopwatch
from feedline_server.host.stopwatch import Stopwatch
from feedline_server.workers.messages import by_stage


def test_each_lap_is_added_to_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    watch.start()

    for stage, seconds in (("assemble", 1.0), ("0 resize", 2.0), ("1 crop", 4.0), ("assemble", 8.0)):
        now[0] += seconds
        watch.lap(stage)

    assert watch.seconds == {"assemble": 9.0, "0 resize": 2.0, "1 crop": 4.0}


@dataclass
class Clocks:
    """The machine's clocks, of a test's own: its neighbours take no time."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    queued_s: float = 0.0

    def pass_by(self, *, works_s: float = 0.0, queues_s: float = 0.0, waits_s: float = 0.0) -> None:
        self.wall_s += works_s + queues_s + waits_s
        self.cpu_s += works_s
        self.queued_s += queues_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clocks.wall_s)
    monkeypatch.setattr(stopwatch.time, "thread_time", lambda: clocks.cpu_s)
    monkeypatch.setattr(stopwatch, "_schedstat", lambda: b"%d %d 1" % (clocks.cpu_s * 1e9, clocks.queued_s * 1e9))
    return clocks


@pytest.mark.parametrize(
    ("passed", "is_own", "expected"),
    [
        ({"waits_s": 8.0}, False, {"assemble": 1.0, "read": 0.0, "storage": 8.0}),
        ({"works_s": 8.0}, False, {"assemble": 1.0, "read": 8.0, "storage": 0.0}),
        ({"queues_s": 8.0}, False, {"assemble": 1.0, "read": 8.0, "storage": 0.0}),
        ({"works_s": 1.0, "queues_s": 2.0, "waits_s": 4.0}, False, {"assemble": 1.0, "read": 3.0, "storage": 4.0}),
        ({"works_s": 1.0, "queues_s": 2.0, "waits_s": 4.0}, True, {"assemble": 1.0, "own_read": 3.0, "storage": 4.0}),
        ({"waits_s": 0.0004}, False, {"assemble": 1.0, "read": 0.0004}),
        ({"waits_s": 0.0004}, True, {"assemble": 1.0, "own_read": 0.0004}),
        ({}, False, {"assemble": 1.0, "read": 0.0}),
    ],
    ids=repr,
)
def test_what_a_read_neither_works_nor_queues_for_a_core_it_waits_for_storage(
    clocks: Clocks, passed: dict[str, float], is_own: bool, expected: dict[str, float]
) -> None:
    watch = Stopwatch()
    watch.start()

    clocks.pass_by(works_s=1.0)
    watch.begin_read()
    clocks.pass_by(**passed)
    watch.end_read(is_own=is_own)

    assert watch.seconds == pytest.approx(expected, abs=1e-9)


def test_reading_by_the_operators_own_code_is_counted_as_reading() -> None:
    spent = {"own_read": 2.0, "read": 1.0, "0 resize": 4.0, "assemble": 8.0}

    assert by_stage(spent) == (0.0, 3.0, 4.0, 8.0)


def test_a_real_read_that_waits_is_storage_and_one_that_works_is_not() -> None:
    watch = Stopwatch()
    watch.start()

    watch.begin_read()
    time.sleep(0.05)
    watch.end_read()
    waiting = dict(watch.seconds)
    watch.start()
    watch.begin_read()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    watch.end_read()

    assert waiting["storage"] >= 0.04
    # On a loaded machine it waits for its core, which is not its disk.
    assert watch.seconds["read"] > 10 * watch.seconds.get("storage", 0.0)


def test_where_the_kernel_does_not_say_how_long_a_thread_was_queued_all_of_it_is_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopwatch, "_opened", lambda: None)
    watch = Stopwatch()
    watch.start()

    watch.begin_read()
    time.sleep(0.02)
    watch.end_read()

    assert watch.seconds["storage"] >= 0.015
