"""Every sample of an epoch arrives exactly once, over real sockets from real processes (promises G1, G2, G3)."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import feedline

SAMPLES = 101
WHOLE = Counter(range(SAMPLES))


def real_ids(batches: Iterable[feedline.Batch]) -> list[int]:
    """The ids of the rows that count; the content of every row is compared with its id."""
    ids: list[int] = []
    for batch in batches:
        x, y = batch.data
        assert np.array_equal(y, batch.ids)
        assert np.array_equal(x, np.broadcast_to(batch.ids[:, None, None], x.shape).astype("float32"))
        weights = np.ones(batch.rows) if batch.weights is None else batch.weights
        ids += batch.ids[weights == 1].tolist()
    return ids


def epoch_ids(address: str, world: int, epoch: int = 0, **options: Any) -> tuple[list[list[int]], list[int]]:
    """What each rank gets in an epoch, and how many steps each makes."""
    with feedline.connect(address) as loader:
        feeds = [loader.feed(rank=rank, world=world, **options) for rank in range(world)]
        batches = [list(feed.epoch(epoch)) for feed in feeds]
    return [real_ids(rank) for rank in batches], [len(rank) for rank in batches]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])  # none divides 101; 1 divides everything
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_short_and_pad_deliver_the_view_exactly_once(
    four_workers: str, order: str, world: int, batch_size: int
) -> None:
    for remainder in ("short", "pad"):
        ranks, steps = epoch_ids(four_workers, world, batch_size=batch_size, order=order, remainder=remainder)

        assert Counter(itertools.chain(*ranks)) == WHOLE
        assert max(steps) - min(steps) <= (1 if remainder == "short" and SAMPLES % (world * batch_size) < world else 0)


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_drop_leaves_out_only_what_makes_no_whole_batch_for_all(
    four_workers: str, order: str, world: int, batch_size: int
) -> None:
    ranks, steps = epoch_ids(four_workers, world, batch_size=batch_size, order=order, remainder="drop")

    whole = SAMPLES // (world * batch_size)
    counted = Counter(itertools.chain(*ranks))
    assert steps == [whole] * world
    assert counted.total() == whole * world * batch_size
    assert counted <= WHOLE


@pytest.mark.parametrize("batch_size", [7, 10, 33])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_wrap_delivers_the_view_once_in_every_101_rows_of_its_endless_line(
    four_workers: str, order: str, world: int, batch_size: int
) -> None:
    with feedline.connect(four_workers) as loader:
        feeds = [
            loader.feed(rank=rank, world=world, batch_size=batch_size, order=order, remainder="wrap")
            for rank in range(world)
        ]
        ranks = [list(itertools.chain(*(feed.epoch(epoch) for epoch in range(4)))) for feed in feeds]

    assert len({len(rank) for rank in ranks}) == 1  # equal step counts
    line = real_ids(itertools.chain(*zip(*ranks, strict=True)))
    assert len(line) >= 4 * SAMPLES
    for start in range(0, 4 * SAMPLES, SAMPLES):
        assert Counter(line[start : start + SAMPLES]) == WHOLE


def test_the_order_of_samples_is_the_same_for_any_batch_size_and_number_of_ranks(four_workers: str) -> None:
    orders = set()
    for world, batch_size in ((1, 1), (1, 10), (2, 10), (3, 7)):
        with feedline.connect(four_workers) as loader:
            feeds = [loader.feed(rank=rank, world=world, batch_size=batch_size, seed=5) for rank in range(world)]
            steps = itertools.zip_longest(*(feed.epoch(2) for feed in feeds))
            orders.add(tuple(real_ids(batch for step in steps for batch in step if batch is not None)))

    assert len(orders) == 1


def test_the_bytes_are_equal_for_one_and_four_workers(one_worker: str, four_workers: str) -> None:
    def everything(address: str) -> list[bytes]:
        with feedline.connect(address) as loader:
            return [
                array.tobytes()
                for epoch in range(2)
                for batch in loader.epoch(epoch, batch_size=9, seed=3)
                for array in (batch["x"], batch["y"], batch.ids)
            ]

    assert everything(one_worker) == everything(four_workers)


def test_the_multiset_is_exact_although_workers_are_killed_in_mid_epoch(
    hundred_and_one: Path, start_loader: Callable[..., Any]
) -> None:
    loader = start_loader(hundred_and_one, "--workers", "2")
    with feedline.connect(loader.address) as connected:
        undisturbed = real_ids(connected.epoch(0, batch_size=2, seed=1, prefetch=4))
        disturbed = []
        for batch in connected.epoch(0, batch_size=2, seed=1, prefetch=4):
            disturbed += real_ids([batch])
            if batch.index in {5, 15, 25}:
                for worker in loader.workers():
                    worker.kill()
        restarted = connected.status().counters["workers_restarted"]

    assert Counter(disturbed) == WHOLE
    assert disturbed == undisturbed
    assert restarted >= 4  # how many were alive at the third blow depends on how fast they came back


def test_a_trainer_restored_from_its_state_continues_with_the_very_next_batch(four_workers: str) -> None:
    with feedline.connect(four_workers) as loader:
        through = [batch.ids.tolist() for epoch in range(2) for batch in loader.epoch(epoch, batch_size=10, seed=4)]

    for stop_after in (0, 1, 10, 11, 21):
        with feedline.connect(four_workers) as loader:
            feed = loader.feed(batch_size=10, seed=4)
            first = list(itertools.islice(forever(feed), stop_after))
            state = feed.state_dict()
        with feedline.connect(four_workers) as loader:
            feed = loader.feed(batch_size=10)
            feed.load_state_dict(state)
            rest = list(itertools.islice(forever(feed), 22 - stop_after))
        assert [batch.ids.tolist() for batch in first + rest] == through


def test_a_state_continues_exactly_with_another_batch_size_and_number_of_ranks(four_workers: str) -> None:
    with feedline.connect(four_workers) as loader:
        feed = loader.feed(batch_size=10, seed=4)
        before = real_ids(itertools.islice(feed, 3))
        state = feed.state_dict()
        feeds = [loader.feed(batch_size=7, rank=rank, world=2) for rank in range(2)]
        for one in feeds:
            one.load_state_dict(state)
        after = [real_ids(one) for one in feeds]

    assert Counter(before + after[0] + after[1]) == WHOLE


def test_two_trainers_at_once_each_get_the_whole_epoch(four_workers: str) -> None:
    with feedline.connect(four_workers) as one, feedline.connect(four_workers) as other:
        pairs = list(zip(one.epoch(0, batch_size=5, seed=1), other.epoch(0, batch_size=5, seed=2), strict=True))

    assert Counter(real_ids(a for a, _ in pairs)) == WHOLE
    assert Counter(real_ids(b for _, b in pairs)) == WHOLE


def forever(feed: feedline.Feed) -> Iterable[feedline.Batch]:
    while True:
        yield from feed


def test_nothing_is_left_when_a_trainer_closes(four_workers: str) -> None:
    process = psutil.Process()
    with feedline.connect(four_workers) as loader:
        next(loader.epoch(0, batch_size=5))

    until = time.monotonic() + 30
    while left := [one for one in process.net_connections() if one.status == "ESTABLISHED" and one.raddr]:
        assert time.monotonic() < until, left
        time.sleep(0.02)  # gRPC closes its own on another thread
