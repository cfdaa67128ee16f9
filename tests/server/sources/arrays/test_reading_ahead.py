"""Blocks that are read from the disk before their samples are wanted: of every kind of data, and without harm."""

import dataclasses
import mmap
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import LATEST, Dataset, open_dataset
from feedline_server.declared.datasets import ArrowConfig, ColumnsConfig, DatasetConfig, SequencesConfig, SubjectsConfig
from feedline_server.host import machine
from feedline_server.sources.arrays import mapped
from feedline_server.sources.arrays.mapped import Run
from feedline_server.sources.kinds import arrow as arrow_columns
from feedline_wire import IDS
from feedline_wire.errors import DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views

SAMPLES = 1024
"""Of a KiB each."""


def numbered(first: int, count: int) -> NDArray[np.int32]:
    """Samples that are their number, 256 times."""
    return np.repeat(np.arange(first, first + count, dtype=np.int32), 256).reshape(count, 256)


def as_columns(folder: Path) -> DatasetConfig:
    np.save(folder / "x.npy", numbered(0, SAMPLES))
    return ColumnsConfig.declare(path=folder)


def as_parts(folder: Path) -> DatasetConfig:
    """Two views, each a folder."""
    for name, first, count in (("train", 0, SAMPLES - 100), ("test", SAMPLES - 100, 100)):
        (folder / name).mkdir()
        np.save(folder / name / "x.npy", numbered(first, count))
    return ColumnsConfig.declare(path=folder)


def as_subjects(folder: Path) -> DatasetConfig:
    for number, first in enumerate(range(0, SAMPLES, 128)):
        np.save(folder / f"s{number}_x.npy", numbered(first, 128))
    return SubjectsConfig.declare(path=folder)


def as_windows(folder: Path) -> DatasetConfig:
    """Windows of two rows: 127 of each subject."""
    for number, first in enumerate(range(0, SAMPLES, 128)):
        np.save(folder / f"s{number}_x.npy", numbered(first, 128))
    return SubjectsConfig.declare(path=folder, window=2)


def as_sequences(folder: Path) -> DatasetConfig:
    """Sequences of 64 steps."""
    np.save(folder / "x.npy", numbered(0, SAMPLES).reshape(-1, 4))
    np.save(folder / "lengths.npy", np.full(SAMPLES, 64))
    return SequencesConfig.declare(path=folder)


def as_arrow(folder: Path) -> DatasetConfig:
    values = pa.array(numbered(0, SAMPLES).reshape(-1))
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(values, 256)})
    with pa.OSFile(str(folder / "d.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    return ArrowConfig.declare(path=folder)


KINDS = [as_columns, as_parts, as_subjects, as_windows, as_sequences, as_arrow]


class Asked:
    """Where the kernel was asked for bytes: file offsets and lengths."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def __call__(self, mapping: mmap.mmap, offset: int, row_nbytes: int, runs: Iterable[Run]) -> None:
        self.runs += [(offset + row * row_nbytes, count * row_nbytes) for row, _, count in runs]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A machine of a MiB of memory, for which all data here is large, and what its kernel is asked for."""
    monkeypatch.setattr(machine, "memory_nbytes", lambda: 1 << 20)
    monkeypatch.setattr(mapped, "SMALL", 0)
    found = Asked()
    monkeypatch.setattr(mapped, "ask_for", found)
    monkeypatch.setattr(arrow_columns, "ask_for", found)
    return found


def assembled(dataset: Dataset, offset: int, order: str = "blocks:16x4") -> dict[str, Array]:
    """A batch of 32."""
    memory = np.zeros(most_nbytes(dataset, 32), np.uint8)
    layout = assemble(dataset, Key("d", b"", "train", order, 1, 0, offset, 32), memory)
    return views(memory[: layout.nbytes], layout)


def batch(dataset: Dataset, offset: int, order: str = "blocks:16x4") -> list[int]:
    """The ids of a batch of 32, of numbered columns that were looked at."""
    found = assembled(dataset, offset, order)
    assert (found["x"] == found[IDS][:, np.newaxis]).all()
    return [int(sample) for sample in found[IDS]]


class Told:
    """A source of which only is written down what it is told early."""

    most_ahead = 1000

    def __init__(self) -> None:
        self.ids: list[list[int]] = []

    def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
        assert list(names) == ["x"]
        self.ids.append(ids.tolist())


@pytest.mark.parametrize("written", KINDS)
def test_the_disk_is_asked_for_whole_blocks_of_every_kind_of_data(
    tmp_path: Path, asked: Asked, written: Callable[[Path], DatasetConfig]
) -> None:
    dataset = open_dataset("d", written(tmp_path))
    assert dataset.announcing is not None

    dataset.announcing.announce(np.arange(32, 48), ["x"])

    # One after the other, or as runs that overlap: bytes 32 to 48 KiB of the array, and of a window its second row.
    begin = min(start for start, _ in asked.runs)
    covered = {at for start, nbytes in asked.runs for at in range(start - begin, start - begin + nbytes)}
    assert covered == set(range((17 if written is as_windows else 16) << 10))


@pytest.mark.parametrize("written", KINDS)
def test_data_that_memory_holds_is_not_read_ahead(tmp_path: Path, written: Callable[[Path], DatasetConfig]) -> None:
    assert open_dataset("d", written(tmp_path)).announcing is None


@pytest.mark.parametrize("written", KINDS)
def test_batches_are_what_they_are_without_it(
    tmp_path: Path, asked: Asked, written: Callable[[Path], DatasetConfig]
) -> None:
    dataset = open_dataset("d", written(tmp_path))
    without = dataclasses.replace(dataset, announcing=None)
    samples = dataset.views["train"].samples

    for offset in range(0, samples - 32, 32):
        one, other = assembled(dataset, offset), assembled(without, offset)
        assert {name: array.tobytes() for name, array in one.items()} == {
            name: array.tobytes() for name, array in other.items()
        }


def test_a_batch_tells_its_source_which_blocks_are_wanted_later(tmp_path: Path, asked: Asked) -> None:
    told: Any = Told()
    dataset = dataclasses.replace(open_dataset("d", as_columns(tmp_path)), announcing=told)

    served = [batch(dataset, offset) for offset in range(0, SAMPLES, 32)]

    assert sorted(sample for ids in told.ids for sample in ids) == list(range(SAMPLES))
    assert sorted(sample for ids in served for sample in ids) == list(range(SAMPLES))
    # The first batch of the third window finds all of its blocks asked for.
    by_then = {sample for ids in told.ids[:4] for sample in ids}
    assert set(served[4]) <= by_then
    assert len(by_then) == 192


@pytest.mark.parametrize("order", ["shuffle", "sequential", "blocks:16:in-order", "blocks:16x1000"])
def test_an_order_without_neighbours_that_fit_the_memory_tells_nothing(
    tmp_path: Path, asked: Asked, order: str
) -> None:
    told: Any = Told()
    dataset = dataclasses.replace(open_dataset("d", as_columns(tmp_path)), announcing=told)

    for offset in range(0, SAMPLES, 32):
        batch(dataset, offset, order=order)

    assert told.ids == []


@pytest.mark.parametrize(
    ("row_nbytes", "most"),
    [(1 << 10, 1 << 20), (128 << 10, 4096), ((128 << 10) - 1024, 8256)],
    ids=["half a gigabyte, half of the memory", "a quarter, as rows are large", "half"],
)
def test_half_of_the_memory_holds_what_is_served_and_what_is_read_ahead(row_nbytes: int, most: int) -> None:
    assert mapped.most_ahead(10**7, 10**7 * row_nbytes, 2 << 30) == most


def test_orders_that_are_served_at_once_share_what_memory_holds(tmp_path: Path, asked: Asked) -> None:
    """Windows of 64 samples, 200 of which fit: of one order a whole one is read ahead, of two none."""
    told: Any = Told()
    told.most_ahead = 190
    dataset = dataclasses.replace(open_dataset("d", as_columns(tmp_path)), announcing=told)

    def of_seed(seed: int, offset: int) -> list[int]:
        told.ids.clear()
        memory = np.zeros(most_nbytes(dataset, 32), np.uint8)
        assemble(dataset, Key("d", b"", "train", "blocks:16x4", seed, 0, offset, 32), memory)
        return [sample for ids in told.ids for sample in ids]

    assert len(of_seed(1, 256)) == 32
    assert of_seed(2, 256) == []
    assert of_seed(1, 288) == []
    for offset in range(320, 320 + 32 * LATEST, 32):
        of_seed(1, offset % SAMPLES)
    assert len(of_seed(1, 256)) == 32, "of the other one nothing was asked any more"


@pytest.mark.parametrize("error", [DataError("gone"), OSError("gone")])
def test_what_is_wrong_with_a_file_of_later_batches_fails_only_those(
    tmp_path: Path, asked: Asked, error: Exception
) -> None:
    class Failing(Told):
        def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
            super().announce(ids, names)
            raise error

    told: Any = Failing()
    dataset = dataclasses.replace(open_dataset("d", as_columns(tmp_path)), announcing=told)

    found = batch(dataset, 0)

    assert len(told.ids) == 1
    assert len(found) == 32


def test_a_subject_that_is_gone_fails_its_own_batches_and_no_others(tmp_path: Path, asked: Asked) -> None:
    dataset = open_dataset("d", as_subjects(tmp_path))
    (tmp_path / "s3_x.npy").unlink()
    gone = range(3 * 128, 4 * 128)
    order = "blocks:128x1"

    failed, served = [], []
    for offset in range(0, SAMPLES, 32):
        try:
            served += batch(dataset, offset, order=order)
        except DataError as error:
            failed.append(str(error))

    assert sorted(served) == [sample for sample in range(SAMPLES) if sample not in gone]
    assert ["s3_x.npy" in said for said in failed] == [True] * 4
