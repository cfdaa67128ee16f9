"""Batches that go from the files' pages straight into the trainer's connection: the same bytes, and nothing is lost."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from busy import wait_for_lane

import feedline
from feedline_wire.errors import DataError

StartLoader = Callable[..., Any]
Lane = Any
"""The tcp or the sealed lane, see conftest.py."""

SAMPLES = 997
ROW_NBYTES = 5000


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder of `written` rows."""
    return written(tmp_path / "rows")


def written(folder: Path) -> Path:
    """5 MB: 997 samples of 5,000 random bytes, and their numbers."""
    folder.mkdir()
    np.save(folder / "x.npy", np.random.default_rng(3).integers(0, 256, (SAMPLES, ROW_NBYTES), np.uint8))
    np.save(folder / "y.npy", np.arange(SAMPLES))
    return folder


@pytest.fixture(scope="module")
def straight_and_assembled(
    tmp_path_factory: pytest.TempPathFactory, start_module_loader: StartLoader, lane: Lane
) -> tuple[str, str]:
    """Addresses of two loaders of the same rows: from the files, and as workers assemble them."""
    folder = written(tmp_path_factory.mktemp("read") / "rows")
    return (
        start_module_loader(folder, *lane.loader).address,
        start_module_loader(folder, *lane.loader, "--no-send-from-files").address,
    )


def content(batch: feedline.Batch) -> tuple[bytes, bytes, bytes]:
    return batch["x"].tobytes(), batch["y"].tobytes(), batch.ids.tobytes()


def check_all(epoch: feedline.Epoch, right: np.ndarray) -> None:
    for batch in epoch:
        assert np.array_equal(batch["x"], right[batch.ids])


def scattered(connection: feedline.Loader) -> int:
    return int(connection.status().counters["scattered"])


def by_lane(connection: feedline.Loader, **options: Any) -> feedline.Epoch:
    """An epoch of which all but the first batches come by the lane."""
    feed = connection.feed(**options)
    wait_for_lane(connection, feed)
    return feed.epoch(0)


@pytest.mark.parametrize("order", ["shuffle", "sequential", "blocks"])
def test_an_epoch_is_the_same_bytes_as_if_workers_had_assembled_it(
    straight_and_assembled: tuple[str, str], lane: Lane, order: str
) -> None:
    straight, assembled = straight_and_assembled

    with feedline.connect(straight, **lane.trainer) as one, feedline.connect(assembled, **lane.trainer) as other:
        before = scattered(one)
        mine = [content(batch) for batch in by_lane(one, batch_size=16, seed=5, order=order)]
        theirs = [content(batch) for batch in by_lane(other, batch_size=16, seed=5, order=order)]

        assert mine == theirs
        assert scattered(one) - before >= len(mine)
        assert scattered(other) == 0


def test_no_worker_is_needed_for_it(rows: Path, start_loader: StartLoader, lane: Lane) -> None:
    loader = start_loader(rows, *lane.loader, "--workers", "2")
    ids: list[int] = []

    with feedline.connect(loader.address, **lane.trainer) as connection:
        for batch in by_lane(connection, batch_size=8, prefetch=4):
            ids += batch.ids.tolist()
            if batch.index % 20 == 3:
                for worker in loader.workers():
                    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, or was there for a moment
                        worker.kill()
        assert connection.stats.hedged == 0

    assert Counter(ids) == Counter(range(SAMPLES))


def test_it_takes_nothing_of_the_loaders_memory_however_slowly_it_is_read(
    rows: Path, start_loader: StartLoader, lane: Lane
) -> None:
    loader = start_loader(rows, *lane.loader, "--memory", "1MiB")

    with feedline.connect(loader.address, **lane.trainer) as connection:
        epoch = by_lane(connection, batch_size=64, prefetch=16)
        first = next(epoch)
        time.sleep(0.3)  # for all that can be read ahead
        assert connection.status().counters["arena_lent"] == 0
        ids = [*first.ids.tolist(), *(int(sample) for batch in epoch for sample in batch.ids)]

    assert Counter(ids) == Counter(range(SAMPLES))


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_file_that_is_spoilt_ends_in_an_error_that_names_it_and_the_loader_lives_on(
    rows: Path, start_loader: StartLoader, lane: Lane, how: str
) -> None:
    """Whoever reads memory of a file that was cut is ended by the kernel (SIGBUS); the front must not be."""
    loader = start_loader(rows, *lane.loader, "--workers", "1")
    file = rows / "x.npy"
    right = np.load(file)

    with feedline.connect(loader.address, **lane.trainer) as connection:
        epoch = by_lane(connection, batch_size=8, prefetch=2)
        next(epoch)
        if how == "cut":
            os.truncate(file, 40_000)
        else:
            file.write_bytes(bytes(file.stat().st_size))
        with pytest.raises(DataError, match=r"x\.npy: changed while served"):
            check_all(epoch, right)

        assert connection.status().counters["workers"] == 1
    assert loader.process.poll() is None


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_is_held_open_is_served_whatever_has_its_name(
    rows: Path, start_loader: StartLoader, lane: Lane, how: str
) -> None:
    loader = start_loader(rows, *lane.loader, "--workers", "1")
    right = np.load(rows / "x.npy")

    with feedline.connect(loader.address, **lane.trainer) as connection:
        epoch = by_lane(connection, batch_size=8, prefetch=2)
        next(epoch)
        if how == "replaced":
            np.save(rows / "new.npy", 255 - right)
            (rows / "new.npy").replace(rows / "x.npy")
        else:
            (rows / "x.npy").unlink()

        check_all(epoch, right)
        assert scattered(connection) > 0


def test_one_that_is_cut_while_batches_are_on_their_way_is_never_served_with_holes(
    rows: Path, start_loader: StartLoader, lane: Lane
) -> None:
    """With a trainer that does not read, the kernel has a part of a batch when the rest of its rows goes."""
    np.save(rows / "x.npy", np.random.default_rng(4).integers(0, 256, (SAMPLES, 40_000), np.uint8))
    loader = start_loader(rows, *lane.loader, "--workers", "1")
    right = np.load(rows / "x.npy")

    with feedline.connect(loader.address, **lane.trainer) as connection:
        epoch = by_lane(connection, batch_size=300, prefetch=3)  # 12 MB a batch, more than a connection holds
        next(epoch)
        os.truncate(rows / "x.npy", 8_000_000)
        with pytest.raises(DataError, match=r"x\.npy: changed while served"):
            check_all(epoch, right)


def test_a_loader_that_drains_leaves_what_it_has_not_sent_to_another(
    rows: Path, start_loader: StartLoader, lane: Lane
) -> None:
    first, second = (start_loader(rows, *lane.loader) for _ in range(2))
    ids: list[int] = []

    with feedline.connect([first.address, second.address], **lane.trainer) as connection:
        for batch in connection.epoch(batch_size=8, prefetch=32):
            ids += batch.ids.tolist()
            if batch.index == 30:
                first.drain()

    assert Counter(ids) == Counter(range(SAMPLES))
    assert first.stop() == 0
