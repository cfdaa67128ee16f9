"""What peers of a loader may do that is allowed, or nearly: it costs others nothing, or they are told what it is."""

import contextlib
import gc
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaking.numbered import read

import feedline
from feedline_wire.lane import GREETING, SHM_GREETING

StartLoader = Callable[..., Any]

SAMPLES = 401
"""Of `numbered`."""


@pytest.mark.alone  # a thousand descriptors
def test_a_thousand_slow_connections_at_the_lanes_doors_cost_trainers_nothing(
    numbered: Path, start_loader: StartLoader
) -> None:
    """Each says a byte of what it should, and no more. They are sent away; who comes meanwhile has its batches."""
    loader = start_loader(numbered, "--workers", "1")
    with contextlib.ExitStack() as slow, feedline.connect(loader.address) as trainer:
        epoch = trainer.epoch(0, batch_size=4, prefetch=4, timeout_s=60)
        ids = read(epoch, 10)
        lanes = trainer._fleet._tracker.endpoints[0].description.lanes  # where to
        for number in range(1000):
            family, address, first = (
                (socket.AF_UNIX, "\0" + lanes["shm"], SHM_GREETING[:1])
                if number % 2
                else (socket.AF_INET, ("127.0.0.1", int(lanes["tcp"])), GREETING[:1])
            )
            connection = slow.enter_context(socket.socket(family))
            connection.settimeout(1)
            with contextlib.suppress(OSError):  # it was sent away at once
                connection.connect(address)
                connection.send(first)

        ids += read(epoch, 91)
        with feedline.connect(loader.address) as other:
            also = read(other.epoch(1, batch_size=4, timeout_s=60), 101)

        assert Counter(ids) == Counter(also) == Counter(range(SAMPLES))
        assert trainer.stats.replicas[0].lane == "shm"
    with feedline.connect(loader.address) as later:
        assert Counter(read(later.epoch(2, batch_size=4), 101)) == Counter(range(SAMPLES))


def test_one_client_that_takes_all_streams_keeps_others_out_who_are_told_so_and_go_on_when_it_has_left(
    numbered: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(numbered, "--workers", "1", "--max-trainers", "3")
    with feedline.connect(loader.address) as other:
        with contextlib.ExitStack() as hog:
            for number in range(3):
                next(hog.enter_context(feedline.connect(loader.address)).epoch(number, batch_size=4))

            with pytest.raises(feedline.LoaderBusy, match=r"takes no more \(max_trainers = 3\)") as told:
                next(other.epoch(0, batch_size=4, timeout_s=3))
            assert "cuts connections" not in str(told.value)
            with feedline.connect(loader.address) as watcher:
                assert len(watcher.status().trainers) == 3, "it answers who only asks"

            waiting: list[int] = []
            thread = threading.Thread(
                target=lambda: waiting.extend(read(other.epoch(0, batch_size=4, timeout_s=60), 101))
            )
            thread.start()

        thread.join(60)
        assert Counter(waiting) == Counter(range(SAMPLES))


@pytest.mark.parametrize("flags", [(), ("--no-shm-lane",)], ids=["shm", "tcp"])
def test_batches_that_are_held_outlive_a_loader_that_is_killed_and_the_epoch_goes_on(
    flags: tuple[str, ...], numbered: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(numbered, "--workers", "1", *flags)
    with feedline.connect(loader.address) as trainer:
        epoch = trainer.epoch(0, batch_size=8, prefetch=4, timeout_s=100)
        held = [next(epoch) for _ in range(20)]
        copies = [np.array(batch["x"]) for batch in held]

        loader.kill()
        start_loader(numbered, "--workers", "1", *flags, "--listen", loader.address)
        ids = [sample for batch in epoch for sample in batch.ids.tolist()]

        assert all(np.array_equal(batch["x"], copy) for batch, copy in zip(held, copies, strict=True))
        assert Counter(ids + [sample for batch in held for sample in batch.ids.tolist()]) == Counter(range(SAMPLES))
        del held
        gc.collect()


PRINTS = """
import sys
import numpy as np

class Data:
    def __len__(self):
        return 40
    def __getitem__(self, i):
        if i == 17:
            for _ in range(64):
                sys.stdout.write("x" * (1 << 20))
            sys.stdout.flush()
        return {"x": np.int64(i)}
"""


def test_code_that_prints_into_a_pipe_that_nobody_reads_costs_its_batch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_loader: StartLoader
) -> None:
    """To a file or a terminal it prints what it likes: 1 GB took 0.2 s and nothing of the front."""
    (tmp_path / "prints.py").write_text(PRINTS.replace("sys.stdout", "pipe").replace("class Data", PIPE))
    monkeypatch.chdir(tmp_path)
    loader = start_loader(Path("prints:Data"), "--workers", "2", "--batch-timeout-s", "1")
    with feedline.connect(loader.address) as trainer:
        with pytest.raises(feedline.BatchKillsWorkers, match="longer than batch_timeout_s = 1") as caught:
            trainer.feed(order="sequential", batch_size=1).fetch(trainer.feed(batch_size=1).plan.step_at(0, 17))
        assert caught.value.samples == (17,)
        began = time.monotonic()
        rest = trainer.epoch(0, order="sequential", batch_size=1, start=18)
        assert [int(batch["x"][0]) for batch in rest] == list(range(18, 40))
        assert time.monotonic() - began < 30


PIPE = """
import os
pipe = os.fdopen(os.pipe()[1], "w")

class Data"""
