"""Several real loaders of which some are killed, stopped, drained, replaced, added in mid-epoch (promises G1, G2, G4).

Every test compares with an undisturbed run, batch by batch and byte by byte, and counts the samples.
"""

import hashlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from busy import warnings

import feedline
from feedline.connection import outbox
from feedline.connection.lanes.lane import kind_of
from feedline.fleet import endpoint, resolve
from feedline_wire.lane import LANES

SAMPLES = 6007
BATCH = 3
STEPS = 2003
WHOLE = Counter(range(SAMPLES))

WITHIN_S = 15.0
"""A trainer that waits longer than this for a batch while a loader is there was forgotten. What is learnt is tenths of
a second; the rest is for a machine that is busy."""

StartLoader = Callable[..., Any]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., Any]) -> Path:
    """A folder of numbered columns, 3 KiB a batch."""
    folder = tmp_path_factory.mktemp("numbers") / "numbers"
    numbered_columns(folder, SAMPLES, (256,))
    return folder


@pytest.fixture(scope="module")
def undisturbed(numbers: Path, start_shared_loader: StartLoader) -> list[str]:
    """What an epoch is, batch by batch, when nothing happens."""
    with feedline.connect(start_shared_loader(numbers, "--workers", "2").address) as connected:
        return [digest(batch) for batch in connected.epoch(1, batch_size=BATCH, seed=5)]


@pytest.fixture
def two(numbers: Path, start_loader: StartLoader) -> list[Any]:
    return [start_loader(numbers, "--workers", "1") for _ in range(2)]


def digest(batch: feedline.Batch) -> str:
    return hashlib.blake2b(b"".join(array.tobytes() for array in (batch["x"], batch["y"], batch.ids))).hexdigest()


@dataclass(slots=True)
class Run:
    """An epoch as one trainer saw it."""

    connection: feedline.Loader
    digests: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    longest_s: float = 0.0
    """What the trainer waited for one batch at most."""

    def batches(self) -> Iterator[feedline.Batch]:
        """The epoch; whoever reads it disturbs in between."""
        epoch = self.connection.epoch(1, batch_size=BATCH, seed=5)
        asked = time.monotonic()
        for batch in epoch:
            self.longest_s = max(self.longest_s, time.monotonic() - asked)
            assert np.array_equal(batch["y"], batch.ids)
            self.digests.append(digest(batch))
            self.ids += batch.ids.tolist()
            yield batch
            asked = time.monotonic()


def connect(*loaders: Any) -> feedline.Loader:
    """A connection to all of them, each proven by an answer."""
    return proven(feedline.connect([loader.address for loader in loaders]), len(loaders))


def proven(connection: feedline.Loader, replicas: int) -> feedline.Loader:
    feed = connection.feed(batch_size=BATCH)
    until = time.monotonic() + 60
    while sum(one.answered > 0 for one in connection.stats.replicas) < replicas and time.monotonic() < until:
        feed.fetch(feed.plan.step(0, 0))
    return connection


def test_a_loader_that_is_killed_in_mid_epoch_costs_nothing(two: list[Any], undisturbed: list[str]) -> None:
    with connect(*two) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index == 500:
                two[0].kill()
        replicas = connection.replicas

    assert run.digests == undisturbed
    assert Counter(run.ids) == WHOLE
    assert run.longest_s < WITHIN_S
    assert replicas == 1


def test_a_loader_that_is_stopped_in_mid_epoch_costs_the_learnt_time_and_is_used_again(
    two: list[Any], undisturbed: list[str]
) -> None:
    """SIGSTOP: connections stay open, and nothing comes. Keepalive would notice after 15 s, a socket never."""
    with connect(*two) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index == 500:
                two[0].process.send_signal(signal.SIGSTOP)
            if batch.index == 1500:
                two[0].process.send_signal(signal.SIGCONT)
        after = connection.stats

        assert run.digests == undisturbed
        assert Counter(run.ids) == WHOLE
        assert after.hedged > 0
        assert run.longest_s < WITHIN_S

        feed = connection.feed(batch_size=BATCH)
        until = time.monotonic() + 60
        while connection.stats.replicas[0].answered == after.replicas[0].answered and time.monotonic() < until:
            feed.fetch(feed.plan.step(0, 0))
        assert connection.stats.replicas[0].answered > after.replicas[0].answered


def test_the_trainer_does_not_notice_that_a_loader_is_told_to_end(
    two: list[Any], undisturbed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with connect(*two) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index == 500:
                two[0].drain()
        retried = connection.stats.retried

    assert two[0].stop() == 0
    assert run.digests == undisturbed
    assert Counter(run.ids) == WHOLE
    assert run.longest_s < WITHIN_S
    assert retried == 0, "what it had was asked of the other before it went"
    assert warnings(caplog) == []


def test_all_loaders_are_replaced_one_after_the_other_in_mid_epoch(
    two: list[Any], numbers: Path, start_loader: StartLoader, undisturbed: list[str]
) -> None:
    with connect(*two) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index in {400, 1200}:
                old = two[batch.index > 400]
                assert old.stop() == 0
                start_loader(numbers, "--workers", "1", "--listen", old.address)
                # As an orchestrator does: the next one goes when this one's successor is used.
                feed, until = connection.feed(batch_size=BATCH), time.monotonic() + 60
                while connection.replicas < 2 and time.monotonic() < until:
                    feed.fetch(feed.plan.step(0, 0))
        replicas = connection.replicas

    assert run.digests == undisturbed
    assert Counter(run.ids) == WHOLE
    assert replicas == 2


def test_a_trainer_waits_for_loaders_that_are_all_gone_and_goes_on_when_one_is_back(
    two: list[Any], numbers: Path, start_loader: StartLoader, undisturbed: list[str]
) -> None:
    with connect(*two) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index == 500:
                for loader in two:
                    loader.kill()
                start_loader(numbers, "--workers", "1", "--listen", two[1].address)

    assert run.digests == undisturbed
    assert Counter(run.ids) == WHOLE


def test_a_loader_that_is_added_behind_a_name_in_mid_epoch_is_asked(
    numbers: Path, start_loader: StartLoader, undisturbed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "EVERY_S", 0.1)
    monkeypatch.setattr(resolve, "SOONEST_S", 0.05)
    names = [start_loader(numbers, "--workers", "1").address]
    with proven(feedline.connect(lambda: names), 1) as connection:
        run = Run(connection)
        for batch in run.batches():
            if batch.index == 200:
                names.append(start_loader(numbers, "--workers", "1").address)
                feed, until = connection.feed(batch_size=BATCH), time.monotonic() + 60
                while connection.replicas < 2 and time.monotonic() < until:
                    feed.fetch(feed.plan.step(0, 0))
        answered = {one.address: one.answered for one in connection.stats.replicas}

    assert run.digests == undisturbed
    assert Counter(run.ids) == WHOLE
    assert all(answered[name] > 100 for name in names)


def test_localhost_is_one_loader(numbers: Path, start_loader: StartLoader) -> None:
    """It has an address of each kind, and a loader that listens on both is still one."""
    loader = start_loader(numbers, "--workers", "1")
    with feedline.connect(f"localhost:{loader.address.rpartition(':')[2]}") as connection:
        ids = [int(sample) for batch in connection.epoch(0, batch_size=100) for sample in batch.ids]

        assert Counter(ids) == WHOLE
        assert connection.replicas == 1


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_ranks_restart_as_fewer_and_as_more_in_mid_epoch_with_one_loader_and_with_two(
    two: list[Any], order: str
) -> None:
    """4 ranks, then 3, then 8, each time in new connections, with other batch sizes and another number of loaders."""
    ids: list[int] = []
    state = None
    for world, batch_size, steps, loaders in ((4, 7, 20, two), (3, 5, 33, two[:1]), (8, 2, 10**6, two[::-1])):
        with feedline.connect([loader.address for loader in loaders]) as connection:
            feeds = [
                connection.feed(order=order, seed=9, batch_size=batch_size, rank=rank, world=world)
                for rank in range(world)
            ]
            states = []
            for feed in feeds:
                if state is not None:
                    feed.load_state_dict(state)
                for number, batch in enumerate(feed, start=1):
                    ids += batch.ids.tolist()
                    if number == steps:
                        break
                states.append(feed.state_dict())
        assert all(one == states[0] for one in states), "every rank saves the same state"
        state = states[0]

    assert Counter(ids) == WHOLE
    assert state is not None
    assert (state["epoch"], state["offset"]) == (1, 0)


# ---- streams that rest ----


@pytest.mark.parametrize("lane", ["shm", "tcp", "grpc"])
def test_a_stream_that_rested_is_opened_anew_with_its_lane(
    lane: str, numbers: Path, undisturbed: list[str], start_shared_loader: StartLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of many loaders the streams of most do; with these bounds one is many."""
    monkeypatch.setattr(endpoint, "MANY", 0)
    monkeypatch.setattr(endpoint, "FEW", 0)
    monkeypatch.setattr(outbox, "REST_AFTER_S", 0.05)
    for other in {*LANES} - {lane}:
        monkeypatch.setattr(kind_of(other), "is_reachable", lambda _: False)
    got, rested, by_then = [], 0, ""

    with feedline.connect(start_shared_loader(numbers, "--workers", "2").address) as connected:
        for batch in connected.epoch(1, batch_size=BATCH, seed=5):
            got.append(digest(batch))
            if batch.index > 1300 and by_then != lane:  # at the very end it may rest again, and not have it any more
                by_then = connected.stats.replicas[0].lane
            if batch.index in {400, 401, 1200}:
                until = time.monotonic() + WITHIN_S
                while connected.status().trainers:
                    assert time.monotonic() < until, connected.status()
                    time.sleep(0.05)
                rested += 1
        retried = connected.stats.retried

    assert rested == 3
    assert by_then == lane
    assert retried == 0
    assert got == undisturbed
