"""The operator's own Python over real sockets: loaders with other numbers of workers give the same, or say why not.

Each loader has several datasets: starting loaders is what takes long.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import feedline
from feedline import BadSample, InvalidRequest

CODE = '''
import os
import random
from pathlib import Path

import numpy as np

with open(Path(__file__).parent / "imported by", "a") as file:
    print(os.getpid(), file=file)


class Batches:
    """Shuffled in place, with noise, and with batches of one row to thousands."""

    def __init__(self):
        self.indexes = np.arange(20)
        self.rng = np.random.default_rng()

    def __len__(self):
        return 20

    def __getitem__(self, i):
        rows = 1 if i == 0 else 40 * i
        which = np.full(rows, self.indexes[i])
        return which[:, None] + np.random.rand(rows, 1) + self.rng.random() + np.zeros((1, 50)), which

    def on_epoch_end(self):
        random.shuffle(self.indexes)


class Samples:
    def __init__(self, bad=()):
        self.bad = bad

    def __len__(self):
        return 101

    def __getitem__(self, i):
        if i in self.bad:
            raise ValueError(f"nothing can be made of {i}")
        return np.full(3, i + random.random()), {"id": i, "noise": np.random.rand()}


def stream(seed):
    while True:
        yield np.full((2, 3), seed), [os.getpid(), os.getpid()]


def forever():
    while True:
        for k in range(40):
            yield np.full((2, 1), k), np.array([2 * k, 2 * k + 1])


def divided(worker, workers):
    while True:
        for k in range(worker, 40, workers):
            yield [k], [worker]


def alike(seed):
    while True:
        yield [1], [2]
'''

BOTH = """
[datasets.batches]
object = "mine:Batches"

[datasets.samples]
object = "mine:Samples"
"""

BAD = """
[datasets.bad]
object = "mine:Samples"
arguments = {bad = [17]}

[datasets.skipping]
object = "mine:Samples"
arguments = {bad = [17]}
on_bad_sample = "skip"
"""

STREAM = """
[datasets.stream]
object = "mine:stream"
steps_per_epoch = 40

[datasets.forever]
object = "mine:forever"
steps_per_epoch = 40

[datasets.divided]
object = "mine:divided"
steps_per_epoch = 40

[datasets.alike]
object = "mine:alike"
steps_per_epoch = 40
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(CODE)
    (folder / "one.toml").write_text(BOTH + BAD)
    (folder / "three.toml").write_text(BOTH + STREAM)
    return folder


@pytest.fixture(scope="module")
def one(folder: Path, start_shared_loader: Callable[..., Any]) -> Any:
    return start_shared_loader(folder / "one.toml", "--workers", "1")


@pytest.fixture(scope="module")
def three(folder: Path, start_shared_loader: Callable[..., Any]) -> Any:
    return start_shared_loader(folder / "three.toml", "--workers", "3")


def epoch(address: str, dataset: str, number: int = 0, **asked: Any) -> list[feedline.Batch]:
    with feedline.connect(address) as loader:
        return list(loader.epoch(number, dataset=dataset, seed=5, **asked))


def content(batches: list[feedline.Batch]) -> list[bytes]:
    return [array.tobytes() for batch in batches for _, array in sorted(batch.columns.items())]


def test_only_workers_and_who_looks_before_them_import_the_module(folder: Path, one: Any) -> None:
    imported_by = [int(line) for line in (folder / "imported by").read_text().split()]

    assert one.process.pid not in imported_by
    assert {worker.pid for worker in one.workers()} <= set(imported_by)


COUNTED = """
import os, time

def say(event):
    with open("events", "a") as file:
        print(event, os.getpid(), file=file)

say("begin")
time.sleep(0.3)
served = [1, 2, 3, 4]
say("end")
"""


def test_a_module_is_imported_once_a_worker_and_first_by_one_of_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_loader: Callable[..., Any]
) -> None:
    """What a module downloads when it is first imported, it does alone; the process that looked at it is a worker."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counted.py").write_text(COUNTED)

    loader = start_loader(Path("counted:served"), "--workers", "3")

    events = [line.split() for line in (tmp_path / "events").read_text().splitlines()]
    begun = [int(pid) for event, pid in events if event == "begin"]
    assert sorted(begun) == sorted(worker.pid for worker in loader.workers())
    assert events[:2] == [["begin", str(begun[0])], ["end", str(begun[0])]]
    assert sorted(int(batch["x"][0]) for batch in epoch(loader.address, "counted", batch_size=1)) == [1, 2, 3, 4]


def test_batches_of_a_sequence_are_the_same_whatever_the_workers_and_their_deaths(one: Any, three: Any) -> None:
    epochs = [epoch(one.address, "batches", number) for number in (0, 1)]
    rows = [len(batch["y"]) for batch in epochs[0]]

    assert sorted(rows) == [1, *range(40, 800, 40)]
    assert sorted(batch["y"][0] for batch in epochs[0]) == list(range(20)), "each once"
    assert content(epochs[0]) != content(epochs[1])
    assert content(epoch(three.address, "batches", 1)) == content(epochs[1])
    three.workers()[0].kill()
    assert content(epoch(three.address, "batches", 0)) == content(epochs[0])


def test_samples_are_the_same_whatever_the_workers_batch_sizes_and_order(one: Any, three: Any) -> None:
    def by_id(batches: list[feedline.Batch]) -> dict[int, tuple[bytes, float]]:
        return {
            int(sample): (x.tobytes(), float(noise))
            for batch in batches
            for sample, x, noise in zip(batch.ids, batch["x"], batch["noise"], strict=True)
        }

    batches = epoch(one.address, "samples", batch_size=10)
    expected = by_id(batches)

    assert sorted(itertools.chain(*(batch["id"].tolist() for batch in batches))) == list(range(101))
    assert all(np.array_equal(batch["x"][:, 0].astype(int), batch.ids) for batch in batches)
    assert by_id(epoch(three.address, "samples", batch_size=7, order="sequential")) == expected
    assert by_id(epoch(one.address, "samples", 1, batch_size=10)) != expected


def test_a_sample_that_raises_arrives_with_its_traceback_or_is_left_out(one: Any) -> None:
    with pytest.raises(BadSample) as caught:
        epoch(one.address, "bad", batch_size=20)
    left = epoch(one.address, "skipping", batch_size=20)

    assert caught.value.samples == (17,)
    assert "sample 17 (mine:Samples[17]) cannot be read: it raised ValueError: nothing can be made of 17" in str(
        caught.value
    )
    assert 'mine.py", line' in str(caught.value)
    assert sorted(itertools.chain(*(batch.ids.tolist() for batch in left))) == [*range(17), *range(18, 101)]


def test_a_stream_comes_from_all_workers_each_with_a_seed_of_its_own_and_refuses_what_it_cannot(three: Any) -> None:
    with feedline.connect(three.address) as loader:
        batches = [*loader.epoch(0, dataset="stream"), *loader.epoch(1, dataset="stream")]
        with pytest.raises(InvalidRequest, match="is a stream"):
            loader.feed(dataset="stream", rank=0, world=2)

    of_workers = {(float(batch["x"][0, 0]), int(batch["y"][0])) for batch in batches}
    assert len(batches) == 80
    assert len({seed for seed, _ in of_workers}) == len({worker for _, worker in of_workers}) == len(of_workers)
    assert "no exactly-once, no resuming with state_dict" in three.log_text()


def test_no_worker_gives_what_another_gives_of_a_stream(three: Any) -> None:
    """Each ran the whole generator: 80 rows had 40 different ones, and an epoch left half of the data out."""
    whole = epoch_of_stream(three.address, "forever")
    divided = epoch_of_stream(three.address, "divided")

    assert sorted(itertools.chain(*(batch["y"].tolist() for batch in whole))) == list(range(80))
    assert all(int(batch["x"][0]) % 3 == int(batch["y"][0]) for batch in divided)
    log = three.log_text()
    assert "mine:forever asks for no worker's number, so every worker would give the same: one worker serves it" in log
    assert "mine:divided asks for no worker's number" not in log
    assert "workers begin a stream alike, everything may come several times" in log
    assert '"dataset": "alike"' in log


def epoch_of_stream(address: str, dataset: str) -> list[feedline.Batch]:
    with feedline.connect(address) as loader:
        return list(loader.epoch(0, dataset=dataset))


def test_a_name_that_is_not_there_ends_the_start_with_those_that_are(folder: Path) -> None:
    command = [sys.executable, "-m", "feedline", "serve", f"{folder}/mine.py:Bathces", "--listen", "127.0.0.1:0"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert "mine:Bathces: " in ended.stderr
    assert "mine.py has no 'Bathces'; it has Batches, Path, Samples" in ended.stderr


LOOK_S = 0.02
"""How often it is looked whether the module is being imported; a file's appearance wakes nobody."""


def test_ctrl_c_ends_a_start_that_hangs_in_the_operators_code(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        "import pathlib, threading\npathlib.Path('here').touch()\nthreading.Event().wait()\nmade = [1]"
    )
    loader = subprocess.Popen(
        [sys.executable, "-m", "feedline", "serve", "hanging:made", "--listen", "127.0.0.1:0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (tmp_path / "here").exists() and time.monotonic() < until:
        time.sleep(LOOK_S)
    family = psutil.Process(loader.pid).children(recursive=True)

    os.killpg(loader.pid, signal.SIGINT)
    loader.communicate(timeout=30)

    assert loader.returncode == 130
    assert family
    assert psutil.wait_procs(family, timeout=10)[1] == []
