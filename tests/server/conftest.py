"""Data on disk for the loader's tests: small, and every value tells where it came from."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.memory.arena import GRAIN, Arena
from feedline_server.scheduling.catalog import Catalog, Served
from feedline_server.scheduling.fairness import STALLED_S
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.scheduling.stream import Batch, Stream
from feedline_server.sources.selection import View
from feedline_server.transforms.chain import open_chain
from feedline_server.workers.messages import Done, Outcome, Task
from feedline_wire import IDS
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Column, batch_layout


@pytest.fixture
def columns_folder(tmp_path: Path) -> Path:
    """12 samples in two columns: x[i] is all i (float32, 2 x 3), y[i] is 100 + i (int64)."""
    folder = tmp_path / "columns"
    folder.mkdir()
    np.save(folder / "x.npy", np.repeat(np.arange(12, dtype=np.float32), 6).reshape(12, 2, 3))
    np.save(folder / "y.npy", np.arange(100, 112))
    return folder


@pytest.fixture
def id_files_folder(tmp_path: Path) -> Path:
    """The tutorial's layout: 5 samples; id-k.npy is all k (float32, 2 x 3), of class k % 3; id-0..2 are to train."""
    folder = tmp_path / "tutorial"
    (folder / "data").mkdir(parents=True)
    for k in range(5):
        np.save(folder / "data" / f"id-{k}.npy", np.full((2, 3), k, np.float32))
    (folder / "partition.json").write_text(
        json.dumps({"train": ["id-0", "id-1", "id-2"], "validation": ["id-3", "id-4"]})
    )
    (folder / "labels.json").write_text(json.dumps({f"id-{k}": k % 3 for k in range(5)}))
    return folder


# ---- scheduler ----

FINGERPRINT = b"f" * 16


class Numbers:
    """A source of 100 samples of one grain each."""

    samples = 100
    columns = (Column("x", np.dtype("uint8"), (GRAIN - 64,)),)

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        raise AssertionError("nothing is read here")

    def content(self) -> Iterator[bytes]:
        yield b"numbers"


DATASET = Dataset(
    name="numbers",
    source=Numbers(),
    views={"train": View("train", range(100))},
    structure=("x",),
    chain=open_chain("numbers", ColumnsConfig(path=Path("/")), Numbers(), {"train": range(100)}, is_batched=False),
)


COLUMNS = (*DATASET.columns, Column(IDS, np.dtype("<i8"), ()))

ENDLESS = dataclasses.replace(DATASET, name="endless", is_stream=True, orders=("stream",))

CHECKED = dataclasses.replace(DATASET, name="checked", nan="error")
"""What lies in its slots is read before it is sent."""


class Stage:
    """Scheduler over an arena of 16 grains and two workers; only the test moves them, and the clock."""

    def __init__(self, from_files: Mapping[str, ZeroCopySource]) -> None:
        self.now = 1000.0
        self._epochs = itertools.count()
        self.arena = Arena(16 * GRAIN)
        self.tasks: list[Task] = []
        served = {one.name: Served(one, FINGERPRINT, from_files.get(one.name)) for one in (DATASET, ENDLESS, CHECKED)}
        catalog = Catalog(served, max_batch_nbytes=8 * GRAIN)
        self.scheduler = Scheduler(
            catalog=catalog,
            arena=self.arena,
            workers=2,
            max_trainers=3,
            submit=self.tasks.extend,
            now=lambda: self.now,
        )

    def key(self, offset: int = 0, rows: int = 1, **changes: object) -> Key:
        """A key that was not asked for yet, of an epoch of its own, unless `epoch` says otherwise."""
        fields = {
            "dataset": "numbers",
            "fingerprint": FINGERPRINT,
            "view": "train",
            "order": "sequential",
            "seed": 0,
            "epoch": next(self._epochs),
            "offset": offset,
            "rows": rows,
        }
        return Key(**(fields | changes))  # type: ignore[arg-type]  # the test's own keyword arguments

    def want(self, stream: Stream, ticket: int, key: Key) -> None:
        """One key, as a trainer wants it that wants one at a time."""
        self.scheduler.want(stream, [(ticket, key)])

    def finish(self, task: Task) -> None:
        self.answer(task, Done(task.number, batch_layout(COLUMNS, task.key.rows), {"assemble": 1.0}))

    def answer(self, task: Task, outcome: Outcome) -> None:
        self.scheduler.answer([(task, outcome)])

    def finish_all(self) -> None:
        """Until nothing more can be begun."""
        while self.tasks:
            self.finish(self.tasks.pop(0))

    def take(self, stream: Stream, count: int = 1) -> list[int]:
        """What the sender of a stream whose trainer reads does, once a batch; the tickets."""
        taken = []
        for _ in range(count):
            [batch] = self.scheduler.next_deliveries(stream, 1)
            assert isinstance(batch, Batch)
            taken.append(batch.ticket)
            self.scheduler.release(stream, [batch], sent=True)
            self.finish_all()
        return taken

    def stall(self, stream: Stream) -> Batch:
        """Its sender takes a batch of several frames, gives the first to the network, and that is the last of it."""
        [batch] = self.scheduler.next_deliveries(stream, 1)
        assert isinstance(batch, Batch)
        self.scheduler.unpin(stream)
        self.now += STALLED_S
        return batch


@pytest.fixture
def from_files() -> Mapping[str, ZeroCopySource]:
    """What can be sent without being assembled: nothing."""
    return {}


@pytest.fixture
def stage(from_files: Mapping[str, ZeroCopySource]) -> Iterator[Stage]:
    """Scheduler without processes: tasks go into a list, the test plays the pool."""
    stage = Stage(from_files)
    yield stage
    stage.arena.close()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into the test's folder; the name to import it by. What was imported is forgotten afterwards."""
    written: list[str] = []
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> str:
        name = f"operators_code_{len(written)}"
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
