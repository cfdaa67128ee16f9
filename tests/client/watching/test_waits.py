"""What a feed's readers waited for is counted by stage, since the first batch and over the last minute."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

import feedline
from feedline.connection.buffers import Received
from feedline.fleet.requests import PendingBatch
from feedline.testing import serve
from feedline.watching.waits import Waits
from feedline_wire import loader_pb2 as pb
from feedline_wire import stages
from feedline_wire.errors import LoaderStalled
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEY = Key("d", b"", "train", "shuffle", 0, 0, 0, 8)


@dataclass
class Clocked:
    """A fleet whose batches come after a time, on a clock that only they and the test move."""

    now: float = 100.0
    reports: list[pb.Reader] = field(default_factory=list)
    warnings: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        reader = pb.Reader(dataset="d", view="train", rank=1, world=4)
        self.waits = Waits(cast("Any", self), reader, self.warn)

    def wait(self, pending: PendingBatch, timeout_s: float) -> Received:
        if pending.outcome is None:
            self.now += timeout_s
            if self.error is not None:
                raise self.error
            pending.outcome = RECEIVED
        return cast("Received", pending.outcome)

    def report(self, reader: pb.Reader) -> str:
        copy = pb.Reader()
        copy.CopyFrom(reader)
        self.reports.append(copy)
        return "tcp"

    def warn(self, waits: Waits) -> None:
        self.warnings += 1

    def take(self, stall_s: float, *, compute_s: float = 0.0, took_s: float = 10.0) -> None:
        """A batch that is waited for so long, of which a loader transformed all the time, and a step with it."""
        pending = PendingBatch(1, KEY, 10, None if stall_s else RECEIVED, took_s=took_s)
        self.waits.wait(pending, stall_s)
        self.waits.handed_out(0, 7, 8)
        self.now += compute_s


RECEIVED = Received(np.empty(0, np.uint8), Layout((), 0), stages.pack(0.0, 0.0, 0.0, 0.0, 10.0, 0.0))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocked]:
    fleet = Clocked()
    monkeypatch.setattr("feedline.watching.waits.time.perf_counter", lambda: fleet.now)
    return fleet


def test_what_was_ready_costs_no_time_and_what_was_waited_for_has_its_stage(clocked: Clocked) -> None:
    clocked.take(0.0, compute_s=1.0)
    clocked.take(0.5, compute_s=0.5)
    clocked.take(0.0)

    found = clocked.waits.statistics()

    assert (found.batches, found.ready, found.rows) == (3, 2, 24)
    assert found.stages == pytest.approx({"transform": 0.5})
    assert (found.waited_s, found.elapsed_s) == pytest.approx((0.5, 2.0))
    assert found.waiting_share == pytest.approx(0.25)


def test_a_wait_in_vain_is_time_waited_for_a_loader_and_no_batch(clocked: Clocked) -> None:
    clocked.error = LoaderStalled("20 s")

    with pytest.raises(LoaderStalled):
        clocked.take(20.0, took_s=0.0)

    assert clocked.waits.statistics().batches == 0
    assert clocked.waits.statistics().stages == {"loader": 20.0}


def test_of_late_is_a_minute_and_the_start_of_a_training_is_not_in_it(clocked: Clocked) -> None:
    clocked.take(5.0)
    for _ in range(10):
        clocked.take(0.25, compute_s=0.75)
    at_first = clocked.waits.recent()
    for _ in range(100):
        clocked.take(0.0, compute_s=1.0)
    later = clocked.waits.recent()

    assert at_first.waited == pytest.approx({"transform": 2.5})
    assert at_first.elapsed_s == pytest.approx(9.25)
    assert later.waited == {}
    assert later.elapsed_s == pytest.approx(59, abs=1.01)
    assert (later.rank, later.world, later.name) == (1, 4, "d/train")


def test_a_wait_that_lasts_is_seen_while_it_does(clocked: Clocked) -> None:
    clocked.take(0.5)
    seen = []

    def look_at_the_end(pending: PendingBatch, timeout_s: float) -> Received:
        clocked.now += timeout_s
        seen.append(clocked.waits.recent())
        return RECEIVED

    cast("Any", clocked).wait = look_at_the_end
    clocked.take(30.0)

    (during,) = seen
    assert during.waited == pytest.approx({"loader": 30.0})
    assert during.share == pytest.approx(1.0)


def test_loaders_are_told_once_a_second_and_not_with_every_batch(clocked: Clocked) -> None:
    for _ in range(100):
        clocked.take(0.01, compute_s=0.04)

    assert len(clocked.reports) == 5
    assert {(one.dataset, one.view, one.rank, one.world, one.step) for one in clocked.reports} == {
        ("d", "train", 1, 4, 7)
    }
    last = clocked.reports[-1]
    assert last.elapsed_us == pytest.approx(4_000_000, abs=60_000)
    assert stages.named(last.waited_us)["transform"] == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("stall_s", "lines"), [(0.05, 0), (0.2, 1)])
def test_the_log_has_one_line_when_a_minute_was_waited_for(
    clocked: Clocked, stall_s: float, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline.watching.waits.threading.Thread", _AtOnce)
    for _ in range(200):
        clocked.take(stall_s, compute_s=1 - stall_s)

    assert clocked.warnings == lines


class _AtOnce:
    """A thread that has run when it is started."""

    def __init__(self, target: Callable[[Waits], None], args: tuple[Waits], **_: object) -> None:
        self.start = lambda: target(*args)


@pytest.mark.parametrize(("world", "steps"), [(1, 13), (4, 4)])
def test_loaders_are_told_how_many_steps_an_epoch_has(world: int, steps: int) -> None:
    with (
        serve({"x": np.zeros(100)}) as loader,
        feedline.connect(loader.address) as connection,
        connection.feed(batch_size=8, world=world, rank=0) as feed,
    ):
        assert feed._batches.waits._reader.steps == feed.plan.steps_per_epoch == steps
