"""Batches that are sent from where their rows lie: the bytes are those that a worker would have assembled."""

import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.lanes import from_files
from feedline_server.lanes.from_files import ZeroCopySource, sending, zero_copy_source
from feedline_server.lanes.iovec import Iovec
from feedline_wire.errors import DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Layout

TRAIN, VALIDATION = 101, 17


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts, each with long rows of odd sizes and labels."""
    for part, samples in (("train", TRAIN), ("validation", VALIDATION)):
        (tmp_path / part).mkdir()
        rng = np.random.default_rng(samples)
        np.save(tmp_path / part / "x.npy", rng.integers(0, 256, (samples, 2049), np.uint8))
        np.save(tmp_path / part / "x2.npy", rng.normal(size=(samples, 13, 41)).astype(np.float32))
        np.save(tmp_path / part / "y.npy", np.arange(samples, dtype=np.int16))
    return tmp_path


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset("numbers", config(folder))


def config(folder: Path, **changes: object) -> ColumnsConfig:
    return ColumnsConfig.declare(**{"path": folder, "inputs": ["x", "x2"], "targets": ["y"], **changes})


def written_to(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"!")


def zero_copy(dataset: Dataset) -> ZeroCopySource:
    found = zero_copy_source(dataset)
    assert found is not None
    return found


def located(source: ZeroCopySource, wanted: Key) -> tuple[Layout, Iovec]:
    found = source.batch(wanted)
    assert found is not None
    return found


def key(view: str = "train", order: str = "shuffle", offset: int = 0, rows: int = 10, epoch: int = 3) -> Key:
    return Key("numbers", b"", view, order, 7, epoch, offset, rows)


def body(iovec: Iovec) -> bytes:
    """What would be sent, read from where it lies."""
    return b"".join(ctypes.string_at(int(address), int(nbytes)) for address, nbytes in iovec.pieces)


def send_all(iovec: Iovec, sender: socket.socket) -> None:
    while iovec:
        iovec.send(sender)


def assembled(dataset: Dataset, wanted: Key) -> tuple[object, bytes]:
    memory: Array = np.full(most_nbytes(dataset, wanted.rows), 255, np.uint8)
    layout = assemble(dataset, wanted, memory)
    return layout, memory[: layout.nbytes].tobytes()


@pytest.mark.parametrize("order", ["shuffle", "sequential", "replacement", "blocks:4x3"])
@pytest.mark.parametrize(
    ("view", "offset", "rows"),
    [("train", 0, 1), ("train", 50, 51), ("train", 95, 20), ("train", 0, TRAIN), ("validation", 3, 14)],
)
def test_it_is_byte_for_byte_what_a_worker_assembles(
    dataset: Dataset, order: str, view: str, offset: int, rows: int
) -> None:
    wanted = key(view, order, offset, rows)

    layout, iovec = located(zero_copy(dataset), wanted)

    assert (layout, body(iovec)) == assembled(dataset, wanted)
    assert iovec.nbytes == layout.nbytes


def test_views_of_several_parts_are_sent_from_all_of_them(folder: Path) -> None:
    dataset = open_dataset("numbers", config(folder, views={"train": "90:118", "validation": "0:90"}))
    wanted = key(rows=28)

    layout, iovec = located(zero_copy(dataset), wanted)

    assert (layout, body(iovec)) == assembled(dataset, wanted)


def test_columns_that_a_batch_does_not_have_are_not_looked_at(folder: Path) -> None:
    np.save(folder / "train" / "name.npy", np.zeros((TRAIN, 3), ">f4"))  # would have to be turned
    np.save(folder / "validation" / "name.npy", np.zeros((VALIDATION, 3), ">f4"))

    assert zero_copy_source(open_dataset("numbers", config(folder))) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"nan": "error"},
        {"on_bad_sample": "skip"},
        {"transforms": [{"name": "scale", "columns": ["x"], "factor": 0.5}]},
        {"inputs": ["y"], "targets": []},
    ],
    ids=["looked at for nan", "bad samples left out", "transformed", "short rows"],
)
def test_what_needs_a_worker_is_left_to_the_workers(folder: Path, changes: dict[str, object]) -> None:
    assert zero_copy_source(open_dataset("numbers", config(folder, **changes))) is None


def test_what_the_trainer_does_itself_needs_no_worker(folder: Path) -> None:
    late = [{"name": "scale", "columns": ["x"], "factor": 0.5, "late": True}]

    assert zero_copy_source(open_dataset("numbers", config(folder, transforms=late))) is not None


@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_rows_that_lie_otherwise_than_they_travel_are_left_to_the_workers(tmp_path: Path, dtype: str) -> None:
    x = np.zeros((9, 1000), dtype)
    np.save(tmp_path / "x.npy", x if dtype == ">f4" else np.asfortranarray(x))

    assert zero_copy_source(open_dataset("numbers", ColumnsConfig.declare(path=tmp_path))) is None


def test_data_that_the_page_cache_does_not_hold_is_left_to_the_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_server.sources.tables.table.is_large", lambda _: True)
    monkeypatch.setattr("feedline_server.sources.arrays.mapped.SMALL", 0)

    assert zero_copy_source(open_dataset("numbers", config(folder))) is None


def test_more_labels_than_may_be_kept_are_left_to_the_workers(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_files, "KEPT_NBYTES", 2 * (TRAIN + VALIDATION) - 1)

    assert zero_copy_source(dataset) is None


def test_a_file_that_changed_is_left_to_the_workers_who_say_so(dataset: Dataset, folder: Path) -> None:
    mine = zero_copy(dataset)
    written_to(folder / "validation" / "x.npy")

    assert mine.batch(key()) is None
    assert not mine.is_of_use


def test_a_batch_is_not_whole_until_its_files_were_seen_unchanged_once_more(dataset: Dataset, folder: Path) -> None:
    """A trainer that reads slowly leaves time to write to a file that its batch is being sent from."""
    layout, iovec = located(zero_copy(dataset), key())
    sender, trainer = socket.socketpair()
    with sender, trainer:
        iovec.send(sender)
        written_to(folder / "train" / "x2.npy")

        with pytest.raises(DataError, match=r"train/x2\.npy: changed while served"):
            send_all(iovec, sender)

        came = trainer.recv(1 << 20)
    assert len(came) <= layout.nbytes - 10 * 8  # of the ids nothing


@pytest.mark.parametrize(("rows", "is_taken"), [(1, True), (1000, True), (1050, False)])
def test_large_batches_of_short_rows_are_left_to_the_workers(dataset: Dataset, rows: int, is_taken: bool) -> None:
    """One row has 2049 + 2132 bytes, and 4 MiB are 1003 of them."""
    assert zero_copy(dataset).takes(rows) == is_taken


# ---- the disk ----


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when the test says so."""
    now = [100.0]
    monkeypatch.setattr(from_files.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_after_a_wait_for_the_disk_it_rests_and_each_time_twice_as_long(
    dataset: Dataset, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter([5, 6, 6, 8, 8, 8, 8, 9])
    monkeypatch.setattr(from_files, "_waits_for_disk", lambda: next(waits))
    mine = zero_copy(dataset)
    seen = []

    for passed in (0.99, 0.02, 1.99, 0.02, 0.0, 0.99, 0.02):
        if mine.is_of_use:
            with sending([mine]):
                pass
        seen.append(mine.is_of_use)
        clock(passed)

    assert seen == [False, False, False, False, True, False, False]
    assert mine.is_of_use


def test_what_was_given_up_stays_with_the_workers(dataset: Dataset) -> None:
    mine = zero_copy(dataset)

    mine.give_up()

    assert not mine.is_of_use
    assert repr(mine) == "<ZeroCopySource numbers given up>"
