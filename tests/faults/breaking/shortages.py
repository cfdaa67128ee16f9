"""What is done to a loader as a whole by its peers, by the machine and by the operator's own code."""

import contextlib
import gc
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import feedline
from breaking.stage import Loader

FEW_DESCRIPTORS = ("prlimit", "--nofile=1024") if shutil.which("prlimit") else ()
"""What a loader is started with so that a flood of connections could use its descriptors up."""

FLOOD = 1500

TEXT_NBYTES = 8 << 20

SETTLED_S = 180.0
"""Until what a fault leaves behind is gone, on a busy machine."""

TOML = """\
[datasets.data]
path = "data"

[datasets.third]
path = "third"

[datasets.theirs]
object = "theirs:Data"
path = "."
"""

THEIRS = f"""\
import os
import numpy as np

class Data:
    def __len__(self):
        return 64
    def __getitem__(self, i):
        if i % 16 == 13:
            raise ValueError("begins" + "x" * {TEXT_NBYTES} + "ends")
        if i % 16 == 5:
            os.fork()  # and both return
        return {{"x": np.int64(i)}}
"""

Trust = Mapping[str, Any]
"""More for `feedline.connect`."""


def write_datasets(folder: Path, third: Path, more: str) -> Path:
    """Declare `data` in the folder, a copy of it that may go away, code that misbehaves, and more; the loader.toml."""
    (folder / "theirs.py").write_text(THEIRS)
    shutil.copytree(third, folder / "third")
    (folder / "loader.toml").write_text(TOML + more)
    return folder / "loader.toml"


def flood(loader: Loader, seconds: float) -> None:
    """Open silent connections, more than the loader may have descriptors, and let go of them after a while."""
    host, port = loader.address.rsplit(":", 1)
    with contextlib.ExitStack() as silent:
        for _ in range(FLOOD):
            connection = silent.enter_context(socket.socket())
            connection.settimeout(1)
            with contextlib.suppress(OSError):  # it is closed at once, or the queue is full
                connection.connect((host, int(port)))
        time.sleep(seconds)  # this is the fault


def long_exceptions(loader: Loader, trust: Trust) -> None:
    """Ask for what raises megabytes of text, and for what forks and returns twice."""
    with feedline.connect(loader.address, **trust) as connected:
        feed = connected.feed(dataset="theirs", order="sequential", batch_size=1, timeout_s=SETTLED_S)
        for wrong in (13, 29):
            step = feed.plan.step_at(0, wrong)
            assert step is not None, "there are as many samples"
            said = ""
            try:
                feed.fetch(step)
            except feedline.BadSample as error:
                said = str(error)
            assert "left out here" in said, f"no error that was cut, but {len(said)} characters"
        with feed.epoch(0, start=14) as rest:
            found = [int(next(rest)["x"][0]) for _ in range(12)]
        assert found == list(range(14, 26)), f"not in order: {found}"


def drop_connections(loader: Loader, trust: Trust, number: int = 8) -> None:
    """Connect, read a batch, and forget all of it without a `close`; their streams must end."""
    with feedline.connect(loader.address, **trust) as watcher:
        for seed in range(number):
            next(feedline.connect(loader.address, **trust).epoch(0, dataset="third", batch_size=8, seed=seed))
        gc.collect()
        _until(lambda: len(watcher.status().trainers) <= MOST_TRAINERS, "the streams that were dropped end")


MOST_TRAINERS = 2
"""That train all the time."""


def whole(loader: Loader, trust: Trust, samples: int) -> None:
    """Read an epoch of the dataset that was away: every sample once."""
    until = time.monotonic() + SETTLED_S
    while True:
        try:
            with feedline.connect(loader.address, **trust) as connected:
                epoch = connected.epoch(0, dataset="third", batch_size=100, timeout_s=SETTLED_S)
                ids = Counter(sample for batch in epoch for sample in batch.ids.tolist())
        except feedline.FeedlineError:
            assert time.monotonic() < until, "the dataset did not come back"
            time.sleep(0.5)  # nobody tells when it is opened again
            continue
        assert ids == Counter(range(samples)), "the dataset that came back is not every sample once"
        return


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLED_S
    while not holds():
        assert time.monotonic() < deadline, f"after {SETTLED_S} s still not: {what}"
        time.sleep(0.1)  # the loader tells nobody
