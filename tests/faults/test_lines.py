"""Long, damaged, held and shared lines between a trainer and its loaders."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaking.lines import Lines
from ports import free_port
from proxy import Proxy

import feedline
from feedline.connection import connection as replica
from feedline.testing import FakeLoader, serve

SAMPLES = 4000
Y = np.arange(SAMPLES, dtype=np.int64)
WHOLE = Counter(range(SAMPLES))

WAIT_S = 30.0

NOTICED_S = 15.0
"""Stated (docs/design.md): a connection on which nothing comes any more, not even answers to pings, is given up."""

Line = Callable[..., Any]


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"y": Y}) as loader:
        yield loader


@pytest.fixture
def other() -> Iterator[FakeLoader]:
    with serve({"y": Y}) as loader:
        yield loader


def ids(batches: Any) -> list[int]:
    return [sample for batch in batches for sample in batch.ids.tolist()]


def connected(target: object, replicas: int, **options: Any) -> feedline.Loader:
    """A connection, when so many loaders have answered."""
    connection = feedline.connect(target, timeout_s=WAIT_S, **options)  # type: ignore[arg-type]
    feed = connection.feed()
    until = time.monotonic() + WAIT_S
    while sum(one.answered > 0 for one in connection.stats.replicas) < replicas and time.monotonic() < until:
        feed.fetch(feed.plan.step(0, 0))
    return connection


# ---- long ----


def test_on_a_long_line_more_is_asked_ahead_until_the_line_is_full(loader: FakeLoader, line: Line) -> None:
    """With 16 batches ahead and 40 ms there and back no more than 400 batches a second could ever arrive."""
    with connected(line(loader.address, delay_s=0.02).address, 1) as connection:
        feed = connection.feed(batch_size=4)
        assert Counter(ids(feed.epoch(0))) == WHOLE

        ahead = int(repr(feed).partition("buffered=0/")[2].split()[0])
        assert 32 < ahead <= 512  # how much that brings is for benchmarks/delay.py to say


def test_what_somebody_chose_is_asked_ahead_and_no_more_however_long_the_line(loader: FakeLoader, line: Line) -> None:
    with connected(line(loader.address, delay_s=0.01).address, 1) as connection:
        feed = connection.feed(batch_size=100, prefetch=4)

        assert Counter(ids(feed.epoch(0))) == WHOLE
        assert "buffered=0/4 " in repr(feed)


def test_on_a_full_line_a_loader_still_says_how_it_fares() -> None:
    """Behind sixteen batches on their way its answer would take eight seconds; by a connection of its own it comes."""
    with (
        serve({"x": np.zeros((100, 100_000), np.uint8)}) as loader,
        Proxy(loader.address) as line,
        feedline.connect(line.address, timeout_s=WAIT_S) as connection,
    ):
        batches = iter(connection.feed(batch_size=1, prefetch=16))
        next(batches)
        line.limit(200_000)
        next(batches)

        assert list(connection.statuses()) == [line.address]


# ---- held ----


def test_a_line_that_holds_costs_the_learnt_time_where_there_is_another_loader(
    loader: FakeLoader, other: FakeLoader, line: Line
) -> None:
    # Both are some way off, so that each owes something at any time.
    held, free = line(loader.address, delay_s=0.01), line(other.address, delay_s=0.01)
    with connected([held.address, free.address], 2) as connection:
        epoch = connection.epoch(batch_size=10)
        got = ids(next(epoch) for _ in range(100))
        held.hold()
        got += ids(epoch)

        assert Counter(got) == WHOLE
        assert connection.stats.hedged > 0


def test_a_partition_that_heals_is_as_if_nothing_had_been(loader: FakeLoader, line: Line) -> None:
    """Shorter than what keepalive waits for: TCP delivers what was held, and the connection lives on."""
    held = line(loader.address)
    with connected(held.address, 1) as connection:
        epoch = connection.epoch(batch_size=10, timeout_s=WAIT_S)
        got = ids(next(epoch) for _ in range(100))
        held.hold()
        with pytest.raises(feedline.LoaderStalled):
            got += ids(next(connection.epoch(batch_size=10, timeout_s=0.5)) for _ in range(1))
        held.go_on()
        got += ids(epoch)

        assert Counter(got) == WHOLE
        assert connection.stats.retried == 0
        assert held.connections == 1


@pytest.mark.slow
def test_a_connection_on_which_nothing_comes_any_more_is_given_up_within_the_stated_time(
    loader: FakeLoader, line: Line
) -> None:
    """A route vanishes silently. Without keepalive a trainer with one loader would wait for ever."""
    held = line(loader.address)
    with connected(held.address, 1) as connection:
        epoch = connection.epoch(batch_size=10, timeout_s=60)
        got = ids(next(epoch) for _ in range(100))
        held.hold()
        began = time.monotonic()
        while connection.replicas:
            with pytest.raises(feedline.LoaderUnavailable):
                connection.feed(timeout_s=0.1).fetch(connection.feed().plan.step(5, 0))
        noticed_s = time.monotonic() - began
        held.cut()
        held.go_on()
        got += ids(epoch)

    assert Counter(got) == WHOLE
    assert noticed_s < 2 * NOTICED_S  # a busy machine may be late to look; without keepalive it takes minutes


# ---- cut and damaged ----


def test_a_line_that_is_cut_again_and_again_loses_nothing(loader: FakeLoader, line: Line) -> None:
    proxy = line(loader.address)
    with connected(proxy.address, 1) as connection:
        got = []
        for batch in connection.epoch(batch_size=10, timeout_s=WAIT_S):
            got += batch.ids.tolist()
            if batch.index % 60 == 59:
                proxy.cut()
        retried = connection.stats.retried

    assert Counter(got) == WHOLE
    assert retried > 0


def test_what_is_damaged_on_the_way_is_asked_for_again_where_checksums_are_wanted(
    loader: FakeLoader, line: Line
) -> None:
    proxy = line(loader.address)
    with connected(proxy.address, 1, checksum=True) as connection:
        for epoch in range(20):
            proxy.damage(after=5_000 + 1_001 * epoch)
            assert Counter(ids(connection.epoch(epoch, batch_size=100, timeout_s=WAIT_S))) == WHOLE

    assert proxy.damaged > 10


# ---- shared ----


def test_several_loaders_behind_one_address_are_all_asked_over_several_connections(
    loader: FakeLoader, other: FakeLoader, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ClusterIP, or a proxy: each connection ends at one loader, and which one is not known beforehand."""
    monkeypatch.setattr(replica, "SAME_AGAIN_S", 0.02)
    shared = line(loader.address, other.address, loader.address)
    with connected(shared.address, 2, connections=3) as connection:
        assert Counter(ids(connection.epoch(batch_size=10, timeout_s=WAIT_S))) == WHOLE
        states = Counter(one.state for one in connection.stats.replicas)

    assert states["connected"] == 2
    assert loader.answered > 0
    assert other.answered > 0


def test_a_loader_behind_a_shared_address_may_die(loader: FakeLoader, other: FakeLoader, line: Line) -> None:
    shared = line(loader.address, other.address)
    with connected(shared.address, 2, connections=2) as connection:
        epoch = connection.epoch(batch_size=10, timeout_s=WAIT_S)
        got = ids(next(epoch) for _ in range(100))
        loader.stop()
        got += ids(epoch)

    assert Counter(got) == WHOLE


# ---- cut again and again ----


CUT_AFTER = 700_000


@pytest.fixture(scope="module")
def rows_of_64k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 rows of 64 KiB, each of its number."""
    folder = tmp_path_factory.mktemp("rows") / "rows"
    folder.mkdir()
    np.save(folder / "x.npy", np.repeat(np.arange(128), 8192).reshape(128, 8192))
    return folder


@pytest.fixture(params=["tcp", "grpc"])
def cut_lines(request: pytest.FixtureRequest, rows_of_64k: Path, start_loader: Callable[..., Any]) -> Iterator[Lines]:
    """A loader all of whose connections end after 700 KB."""
    ports = free_port("127.0.0.1", "127.0.0.2"), free_port("127.0.0.1", "127.0.0.2")
    lane = ("--tcp-port", str(ports[1])) if request.param == "tcp" else ("--no-tcp-lane",)
    listen = ("--listen", f"127.0.0.1:{ports[0]}")
    start_loader(rows_of_64k, *listen, "--workers", "1", "--no-shm-lane", *lane)
    with Lines("127.0.0.2", *ports) as lines:
        lines.cut_after(CUT_AFTER)
        yield lines


def test_connections_that_are_cut_every_700_kb_make_progress_batch_by_batch(cut_lines: Lines) -> None:
    """Sixteen batches were asked for in each connection, came together, and none was ever whole."""
    with feedline.connect(cut_lines.address, timeout_s=WAIT_S) as connection:
        seen = []
        for batch in connection.epoch(0, batch_size=8, timeout_s=60):
            assert (batch["x"] == batch.ids[:, None]).all()
            seen += batch.ids.tolist()

    assert Counter(seen) == Counter(range(128))


def test_a_batch_that_no_connection_lasts_for_is_an_error_that_says_so_at_the_deadline(cut_lines: Lines) -> None:
    with feedline.connect(cut_lines.address, timeout_s=WAIT_S) as connection:
        for _ in range(5):  # at the deadline it may just be connected once more
            began = time.monotonic()
            with pytest.raises(feedline.LoaderUnavailable) as caught:
                next(connection.epoch(0, batch_size=16, timeout_s=6))
            assert time.monotonic() - began < WAIT_S
            if not isinstance(caught.value, feedline.LoaderStalled):
                break

        assert "lost each time before one batch was whole" in str(caught.value)
        assert "something on the way cuts connections" in str(caught.value)
        assert "make batches smaller" in str(caught.value)
