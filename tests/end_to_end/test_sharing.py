"""Several trainers on one dataset and seed: each has its whole epoch, and a batch is assembled once for all of them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feedline

StartLoader = Callable[..., Any]

SAMPLES = 600


@pytest.fixture(scope="module")
def six_hundred(
    tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "rows"
    numbered_columns(folder, SAMPLES, (64, 16))  # 4 KiB a row
    return folder


class Trainer(threading.Thread):
    """Reads two epochs, in step with the others or by itself; what it had."""

    def __init__(self, address: str, seed: int, in_step: threading.Barrier | None = None) -> None:
        super().__init__(daemon=True)
        self.ids: list[list[int]] = []
        self.content: list[bytes] = []
        self.is_right = True
        self._address, self._seed, self._in_step = address, seed, in_step
        self.at_batch = threading.Event()

    def run(self) -> None:
        with feedline.connect(self._address) as loader:
            for epoch in range(2):
                ids: list[int] = []
                for batch in loader.epoch(epoch, batch_size=20, seed=self._seed, prefetch=4):
                    if self._in_step is not None:
                        self._in_step.wait(60)
                    ids += batch.ids.tolist()
                    self.content.append(batch.ids.tobytes() + batch["x"].tobytes())
                    self.is_right &= bool(np.all(batch["x"] == batch.ids[:, None, None]))
                    if batch.index == 10:
                        self.at_batch.set()
                self.ids.append(ids)


def test_four_trainers_with_one_seed_cost_little_more_than_one(six_hundred: Path, start_loader: StartLoader) -> None:
    loader = start_loader(six_hundred, "--workers", "2", "--memory", "64MiB")
    in_step = threading.Barrier(4)
    trainers = [Trainer(loader.address, 3, in_step) for _ in range(4)]
    with feedline.connect(loader.address) as watcher:
        for trainer in trainers:
            trainer.start()
        for trainer in trainers:
            trainer.join(100)
        until = time.monotonic() + 30
        while (status := watcher.status()).counters["arena_lent"] or status.counters["batches"] < 4 * 2 * 30:
            assert time.monotonic() < until, status  # a batch is counted when it has been sent
            time.sleep(0.05)

    assert all(trainer.is_right for trainer in trainers)
    assert [Counter(ids) == Counter(range(SAMPLES)) for trainer in trainers for ids in trainer.ids] == [True] * 8
    assert len({tuple(trainer.content) for trainer in trainers}) == 1  # the same bytes for all
    assert status.counters["batches"] == 4 * 2 * 30
    # In step they are never more than the 4 batches that they want ahead apart; begun apart, the first few differ.
    assert status.counters["shared"] >= 3 * 60 * 0.8


def test_trainers_that_share_each_have_their_epoch_although_workers_die_and_one_of_them_leaves(
    six_hundred: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(six_hundred, "--workers", "2", "--memory", "16MiB")
    trainers = [Trainer(loader.address, 3) for _ in range(3)]
    with feedline.connect(loader.address) as leaving:
        first = iter(leaving.epoch(0, batch_size=20, seed=3, prefetch=16))
        next(first)
        for trainer in trainers:
            trainer.start()
        assert trainers[0].at_batch.wait(60)
        for worker in loader.workers():
            worker.kill()
    for trainer in trainers:
        trainer.join(100)

    assert all(trainer.is_right for trainer in trainers)
    assert [Counter(ids) == Counter(range(SAMPLES)) for trainer in trainers for ids in trainer.ids] == [True] * 6
    assert len({tuple(trainer.content) for trainer in trainers}) == 1


def test_ranks_and_other_seeds_share_nothing_and_nothing_is_kept_for_them(
    six_hundred: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(six_hundred, "--workers", "1", "--memory", "64MiB")
    with feedline.connect(loader.address) as connected:
        for rank in range(3):
            for batch in connected.epoch(0, batch_size=20, seed=5, rank=rank, world=3):
                assert np.all(batch["x"] == batch.ids[:, None, None])
        for batch in connected.epoch(0, batch_size=20, seed=6):
            assert np.all(batch["x"] == batch.ids[:, None, None])
        status = connected.status()

    assert (status.counters["shared"], status.counters["arena_kept"]) == (0, 0)
