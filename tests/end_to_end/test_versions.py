"""Files that become others while they are served: not a row of them arrives under the old identity (promise G2).

Every sample has a number: of the version that is served its own id, of the next one its id and 100 more.
"""

import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import feedline
from feedline_wire.errors import DataError, DatasetChanged

StartLoader = Callable[..., Any]

SAMPLES = 40
BATCH = 4
TWO_EPOCHS = Counter(dict.fromkeys(range(SAMPLES), 2))


# ---- the data, of one version ----


def columns(folder: Path, numbers: np.ndarray) -> None:
    np.save(folder / "x.npy", np.repeat(numbers, 600).reshape(-1, 600).astype(np.float32))


def chunked(folder: Path, numbers: np.ndarray) -> None:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=numbers, chunks=(5,), compression="gzip")


def parquet(folder: Path, numbers: np.ndarray) -> None:
    pq.write_table(pa.table({"x": numbers}), folder / "x.parquet", row_group_size=5)


def id_files(folder: Path, numbers: np.ndarray) -> None:
    (folder / "data").mkdir()
    for sample, number in enumerate(numbers):
        np.save(folder / "data" / f"{sample}.npy", np.full((3, 2), number))
    (folder / "partition.json").write_text(json.dumps({"train": list(range(len(numbers)))}))


def class_folders(folder: Path, numbers: np.ndarray) -> None:
    for sample, number in enumerate(numbers):
        (folder / f"class-{sample // 20}").mkdir(exist_ok=True)
        np.savez(folder / f"class-{sample // 20}" / f"{sample:02}.npz", x=np.full(3, number))


def images(folder: Path, numbers: np.ndarray) -> None:
    for sample, number in enumerate(numbers):
        cv2.imwrite(str(folder / f"{sample}.png"), np.full((4, 4, 3), number, np.uint8))
    entries = [{"image_id": f"{sample}.png", "label": 0} for sample in range(len(numbers))]
    (folder / "manifest.json").write_text(json.dumps(entries))


def subjects(folder: Path, numbers: np.ndarray) -> None:
    for subject, part in enumerate(numbers.reshape(-1, 10)):
        np.save(folder / f"s{subject}_x.npy", part)


KINDS = {
    "columns": (columns, 'kind = "columns"'),
    "chunked": (chunked, 'kind = "hdf5"'),
    "parquet": (parquet, 'kind = "arrow"'),
    "id_files": (id_files, 'kind = "id_files"\nlabels = false'),
    "class_folders": (class_folders, 'kind = "class_folders"'),
    "images": (images, 'kind = "images"'),
    "subjects": (subjects, 'kind = "subjects"'),
}


def written(folder: Path, more: int) -> Path:
    """All datasets in one version; sizes are the same in each."""
    for name, (write, _) in KINDS.items():
        (folder / name).mkdir(parents=True)
        write(folder / name, np.arange(SAMPLES) + more)
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A loader.toml with a dataset of each kind in `now`; the next version lies in `next`, with the same times."""
    written(tmp_path / "now", 0)
    for new in files_of(written(tmp_path / "next", 100)):
        status = (tmp_path / "now" / new.relative_to(tmp_path / "next")).stat()
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    tables = [f'[datasets.{name}]\npath = "now/{name}"\n{text}\n' for name, (_, text) in KINDS.items()]
    (tmp_path / "loader.toml").write_text("\n".join(tables))
    return tmp_path


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


# ---- how it becomes another ----


def renamed(folder: Path) -> None:
    """Another folder takes its place."""
    (folder / "now").rename(folder / "old")
    (folder / "next").rename(folder / "now")


def replaced(folder: Path) -> None:
    """File by file, as rsync does."""
    for new in files_of(folder / "next"):
        new.replace(folder / "now" / new.relative_to(folder / "next"))


def overwritten(folder: Path) -> None:
    """File by file and in place, as cp -p does."""
    for new in files_of(folder / "next"):
        shutil.copyfile(new, file := folder / "now" / new.relative_to(folder / "next"))
        shutil.copystat(new, file)


# ---- what arrives ----


def arrived(loader: feedline.Loader, dataset: str, then: Callable[[], object]) -> tuple[Counter[int], str]:
    """The ids of two epochs, each with its own number, and the error that ended them. `then` happens in the first."""
    ids: Counter[int] = Counter()
    try:
        for epoch in (0, 1):
            for batch in loader.epoch(epoch, dataset=dataset, batch_size=BATCH, prefetch=1, timeout_s=60):
                x = batch.data[0] if isinstance(batch.data, tuple) else batch.data
                numbers = np.asarray(x).reshape(batch.rows, -1)
                assert (numbers == batch.ids[:, None]).all(), f"{batch} has {numbers[:, 0]}"
                ids.update(batch.ids.tolist())
                if (epoch, batch.index) == (0, 2):
                    then()
    except (DataError, DatasetChanged) as error:
        return ids, str(error)
    return ids, ""


@pytest.mark.parametrize(
    ("update", "go_on"),
    [
        (renamed, {*KINDS}),  # what is held open is served on, and what is opened again is found where it lies now
        (replaced, {"columns", "chunked"}),
        (overwritten, set()),
    ],
)
def test_no_row_of_another_version_arrives_in_whichever_way_the_files_are_updated(
    served: Path, start_loader: StartLoader, update: Callable[[Path], None], go_on: set[str]
) -> None:
    loader = start_loader(served / "loader.toml", "--workers", "2")
    once = itertools.count()

    found = {}
    for name in KINDS:
        with feedline.connect(loader.address) as trainer:
            found[name] = arrived(trainer, name, lambda: next(once) or update(served))

    first, *_ = KINDS
    for name, (ids, error) in found.items():
        if name in go_on:
            assert (ids, error) == (TWO_EPOCHS, ""), name
        else:
            assert f"/now/{name}/" in error, error
            assert "changed while served" in error
            assert name == first or not ids, "nothing of it was read before"


def kill_all(workers: list[psutil.Process]) -> None:
    for worker in workers:
        worker.kill()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert left == []


def test_workers_that_take_others_places_after_a_rename_find_the_files_where_they_lie_now(
    served: Path, start_loader: StartLoader
) -> None:
    """They opened what had taken the old folder's place, so all that trained on it ended with an error."""
    loader = start_loader(served / "loader.toml", "--workers", "2")

    def update() -> None:
        renamed(served)
        kill_all(loader.workers())
        (served / "old").rename(served / "older")

    with feedline.connect(loader.address) as trainer:
        for name in KINDS:
            then = update if name == "columns" else lambda: None
            assert arrived(trainer, name, then) == (TWO_EPOCHS, ""), name


def test_a_worker_that_takes_anothers_place_after_files_were_replaced_or_removed_names_the_file(
    served: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(served / "loader.toml", "--workers", "1")

    def update() -> None:
        replaced(served)
        kill_all(loader.workers())

    with feedline.connect(loader.address) as trainer:
        ids, error = arrived(trainer, "columns", update)

        assert set(ids.values()) == {1}
        assert "now/columns/x.npy: changed while served (another file took its place)" in error
        shutil.rmtree(served / "now" / "columns")
        gone, until = "now/columns: there is no such file or folder", time.monotonic() + 30
        while gone not in (error := arrived(trainer, "columns", lambda: None)[1]):  # what was refused is for a second
            assert time.monotonic() < until, error


def test_a_backup_by_hard_links_in_mid_training_changes_nothing(served: Path, start_loader: StartLoader) -> None:
    """It sets the change time of every file. What was read whole before is known by its content."""
    loader = start_loader(served / "loader.toml", "--workers", "2")

    def backup() -> None:
        shutil.copytree(served / "now", served / "backup", copy_function=os.link)

    for name in ("columns", "chunked", "parquet", "subjects"):
        with feedline.connect(loader.address) as trainer:
            then = backup if name == "columns" else lambda: None
            assert arrived(trainer, name, then) == (TWO_EPOCHS, ""), name
    with feedline.connect(loader.address) as trainer:
        assert 'say trust = "size+mtime"' in arrived(trainer, "images", lambda: None)[1]
