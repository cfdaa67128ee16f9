"""A scrape is what is counted, under Prometheus' names; what a trainer says is bounded and harms its own line."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.scheduling.status import SchedulerStatus, StreamStatus
from feedline_server.watching import observer as module
from feedline_server.watching.metrics import scrape
from feedline_server.watching.observer import Observer
from feedline_wire import loader_pb2 as pb
from feedline_wire.stages import STAGES
from feedline_wire.status import LoaderCounters, StreamCounters


class Watched:
    """A scheduler and a pool that count what the test says."""

    def __init__(self) -> None:
        self.readers: list[pb.Reader] = []
        self.counters = LoaderCounters(
            batches=7, bytes=1000, bytes_tcp=500, bytes_shm=300, bytes_sealed=100, arena_bytes=100,
            arena_lent=30, arena_kept=20, queue_s=1.5, transform_s=2.5, workers=3, workers_restarted=1,
        )  # fmt: skip
        self.spent = SimpleNamespace(transform_s={"resize": 2.5}, bad=[])
        self.observer = Observer(cast("Scheduler", self), cast("Any", self), replica="r", version="0.2.0")

    def status(self) -> SchedulerStatus:
        streams = (StreamStatus("peer", StreamCounters(), tuple(self.readers)),)
        return SchedulerStatus(streams, self.counters, None, draining=False)

    def count(self, counters: LoaderCounters) -> LoaderCounters:
        return counters

    def say(self, trainer: str, batches: int, waited_s: float, **of: Any) -> None:
        """A trainer says how it fares, and the loader looks."""
        reader = pb.Reader(
            **{"dataset": "d", "view": "train", "world": 2, **of}, trainer=trainer, total_batches=batches
        )
        reader.total_waited_us[:] = [0, int(waited_s * 1e6)]
        self.readers = [reader]
        self.observer._look()

    def lines(self, datasets: frozenset[str] | None = None) -> list[str]:
        return [line for line in scrape(self.observer, datasets).decode().splitlines() if line[0] != "#"]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_what_is_counted_has_prometheus_names(watched: Watched) -> None:
    lines = watched.lines()

    for line in (
        'feedline_loader_info{replica="r",version="0.2.0"} 1',
        "feedline_batches_total 7",
        "feedline_worker_deaths_total 1",
        "feedline_workers 3",
        'feedline_bytes_total{lane="grpc"} 100',
        'feedline_bytes_total{lane="tcp"} 500',
        'feedline_bytes_total{lane="sealed"} 100',
        'feedline_bytes_total{lane="shm"} 300',
        'feedline_arena_bytes{state="lent"} 30',
        'feedline_arena_bytes{state="kept"} 20',
        'feedline_arena_bytes{state="free"} 50',
        'feedline_stage_seconds_total{stage="queue"} 1.5',
        'feedline_stage_seconds_total{stage="transform"} 2.5',
        "feedline_demand_workers 0.0",
    ):
        assert line in lines


def test_a_trainer_is_counted_over_its_lives_and_those_of_a_view_together(watched: Watched) -> None:
    watched.say("a", 10, 1.0)
    watched.say("a", 15, 1.5)
    watched.say("b", 4, 0.25)  # it was started anew
    watched.say("c", 100, 9.0, rank=1)

    lines = watched.lines()

    assert 'feedline_trainer_batches_total{dataset="d",view="train",rank="0"} 19' in lines
    assert 'feedline_trainer_wait_seconds_total{dataset="d",view="train",rank="0",stage="receive"} 1.75' in lines
    assert 'feedline_trainer_batches_total{dataset="d",view="train",rank="1"} 100' in lines


def test_a_trainer_that_counts_back_is_not_believed(watched: Watched) -> None:
    watched.say("a", 10, 1.0)
    watched.say("a", 3, 0.5)
    watched.say("a", 4, 0.5)

    assert 'feedline_trainer_batches_total{dataset="d",view="train",rank="0"} 11' in watched.lines()


def test_ranks_are_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RANKS", 3)

    for rank in range(50):
        watched.say(f"t{rank}", 1, 0.0, rank=rank)

    found = [line for line in watched.lines() if line.startswith("feedline_trainer_batches_total")]
    assert [line.partition('rank="')[2] for line in found] == ['47"} 1', '48"} 1', '49"} 1']


def test_ranks_that_go_on_reading_are_not_crowded_out(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RANKS", 3)

    for look in range(20):
        watched.readers = [
            pb.Reader(dataset="d", view="train", rank=rank, trainer=name, total_batches=look + 1)
            for name, rank in (("honest", 0), (f"a{look}", 1000 + 3 * look), (f"b{look}", 1001 + 3 * look))
        ]
        watched.observer._look()

    assert 'feedline_trainer_batches_total{dataset="d",view="train",rank="0"} 20' in watched.lines()


def test_what_a_page_is_drawn_from_does_not_grow_in_days(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("feedline_server.watching.observer.time.monotonic", lambda: clock[0])
    watched.observer = Observer(cast("Scheduler", watched), cast("Any", watched), replica="r", version="0.2.0")
    for look in range(2 * module.MOST_POINTS):
        clock[0] += 600.0
        watched.say(f"t{look}", 1, 0.0, rank=look)

    points = watched.observer.points(None, 0.0)
    assert len(points) == module.MOST_POINTS
    assert max(len(cast("dict[str, Any]", one["waits"])) for one in points) == module.MOST_DRAWN
    assert len(watched.observer._seen) == 1


def test_a_label_cannot_break_out_of_its_line(watched: Watched) -> None:
    watched.say("a", 1, 0.0, view='x"} 1\nfeedline_workers 99\\')

    assert "feedline_workers 99" not in watched.lines()
    assert (
        r'feedline_trainer_rows_total{dataset="d",view="x\"} 1\nfeedline_workers 99\\",rank="0"} 0' in watched.lines()
    )


def test_a_token_sees_the_trainers_of_its_datasets(watched: Watched) -> None:
    watched.say("a", 1, 0.0)

    assert not [line for line in watched.lines(frozenset({"other"})) if "trainer_" in line]
    assert not watched.observer.status(frozenset({"other"})).trainers[0].readers
    assert watched.observer.status(frozenset({"d"})).trainers[0].readers


def test_stages_that_this_loader_does_not_know_are_passed_over(watched: Watched) -> None:
    reader = pb.Reader(dataset="d", view="train", trainer="a", total_waited_us=[1_000_000] * (len(STAGES) + 5))
    watched.readers = [reader]
    watched.observer._look()

    waits = [line for line in watched.lines() if line.startswith("feedline_trainer_wait")]
    assert len(waits) == len(STAGES)
