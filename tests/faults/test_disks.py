"""Files that are cut or replaced while they are served, and a disk too full for the log.

What came before is right, byte by byte; afterwards an error that names the file, never another batch under the same
key.
"""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from breaking import record
from breaking.data import Data
from breaking.record import Consumed, Failure
from breaking.stage import Stage
from breaking.verdict import Undisturbed, judged

import feedline

WITHIN_S = 20.0
"""As for processes (test_processes.py)."""

ARGS = ("--workers", "2", "--memory", "64MiB")

Report = Callable[..., None]


def cut(file: Path) -> None:
    """Half of it is gone, in place."""
    os.truncate(file, file.stat().st_size // 2)


def replace(file: Path) -> None:
    """Another one of the same size and form has its name."""
    x = np.load(file)
    new = file.with_suffix(".new.npy")
    np.save(new, 255 - x)
    new.replace(file)


def overwrite(file: Path) -> None:
    """Other bytes of the same size are written into it."""
    x = np.load(file, mmap_mode="r+")
    x[:] = 255 - x


def remove(file: Path) -> None:
    """It is gone."""
    file.unlink()


SPOILS = {"cut": cut, "replaced": replace, "overwritten": overwrite, "removed": remove}

SERVED_ON = {"replaced", "removed"}
"""What is held open is served as it is."""


@pytest.fixture
def copy(data: Data, tmp_path: Path) -> Path:
    """The data once more, to be spoilt."""
    return Path(shutil.copytree(data.folder, tmp_path / "data"))


def spoil_where_another_copy_is(
    stage: Stage, data: Data, copy: Path, moments: random.Random, spoil: Callable[[Path], None]
) -> Path:
    good, bad = (stage.loader(folder, *ARGS) for folder in (data.folder, copy))
    trainer = stage.trainer(f"{good.address},{bad.address}")
    trainer.wait_for(moments.randrange(20, 100))
    spoil(copy / "x.npy")
    trainer.wait_for(200)
    assert trainer.end() == 0, trainer.log_text()
    return trainer.record


def spoil_the_only_copy(stage: Stage, copy: Path, moments: random.Random, spoil: Callable[[Path], None]) -> Path:
    loaders = stage.fleet(2, copy, *ARGS)
    trainer = stage.trainer(",".join(loader.address for loader in loaders))
    trainer.wait_for(moments.randrange(20, 100))
    spoil(copy / "x.npy")
    assert trainer.wait() == 3, trainer.log_text()
    return trainer.record


def take_the_place_of_the_only_copy(
    stage: Stage, copy: Path, moments: random.Random, spoil: Callable[[Path], None]
) -> Path:
    loaders = stage.fleet(2, copy, *ARGS)
    trainer = stage.trainer(",".join(loader.address for loader in loaders))
    trainer.wait_for(moments.randrange(20, 100))
    spoil(copy / "x.npy")
    trainer.wait_for(200)
    assert trainer.end() == 0, trainer.log_text()
    return trainer.record


def is_right_until_an_error_names_the_file(path: Path, undisturbed: Undisturbed) -> None:
    *batches, failure = record.read(path)
    for batch in batches:
        if isinstance(batch, Consumed):
            assert batch.digest == undisturbed.epoch(batch.epoch)[batch.index], f"{batch} is of another file"
    assert isinstance(failure, Failure)
    assert failure.kind in {"DataError", "DatasetChanged", "BadSample", "BatchKillsWorkers"}, failure
    assert failure.after_s <= WITHIN_S
    if failure.kind in {"DataError", "BadSample"}:
        assert "x.npy" in failure.text


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut"])  # the others: -m soak
def test_a_file_that_is_spoilt_while_it_is_served_is_an_error_and_never_another_batch(
    stage: Stage, copy: Path, undisturbed: Undisturbed, moments: random.Random, how: str
) -> None:
    path = spoil_the_only_copy(stage, copy, moments, SPOILS[how])

    is_right_until_an_error_names_the_file(path, undisturbed)


@pytest.mark.slow
def test_a_copy_that_is_spoilt_costs_nothing_where_another_loader_has_its_own(
    stage: Stage, data: Data, copy: Path, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    how = moments.choice(sorted(SPOILS))

    path = spoil_where_another_copy_is(stage, data, copy, moments, SPOILS[how])

    report(judged(path, undisturbed, data.samples, within_s=WITHIN_S), fault=f"file {how}", victim="one of two copies")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", SPOILS)
def test_ten_spoilt_files(
    stage: Stage, data: Data, tmp_path: Path, undisturbed: Undisturbed, moments: random.Random, report: Report, how: str
) -> None:
    for number in range(10):
        inner = Stage(tmp_path / f"only-{number}")
        only, one_of_two = (Path(shutil.copytree(data.folder, tmp_path / f"{n}-{number}" / "data")) for n in ("a", "b"))
        try:
            if how in SERVED_ON:
                path = take_the_place_of_the_only_copy(inner, only, moments, SPOILS[how])
                judged(path, undisturbed, data.samples, within_s=WITHIN_S)
            else:
                path = spoil_the_only_copy(inner, only, moments, SPOILS[how])
                is_right_until_an_error_names_the_file(path, undisturbed)
            inner.trainers.clear()
            (tmp_path / f"only-{number}" / "trainer").unlink()
            path = spoil_where_another_copy_is(inner, data, one_of_two, moments, SPOILS[how])
            seen = judged(path, undisturbed, data.samples, within_s=WITHIN_S)
        finally:
            assert inner.close() == []
        report(seen, fault=f"file {how}", victim="one of two copies", moments=1)


# ---- a full disk ----


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (folder / "log").touch()
        with (folder / "filling").open("wb", buffering=0) as filling, contextlib.suppress(OSError):
            while filling.write(bytes(4096)):
                pass
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def train_with_log(stage: Stage, data: Data, output: Path) -> Path:
    """Two loaders of which one can log nothing; workers and the loader itself end, of which there is much to log."""
    silent = stage.loader(data.folder, *ARGS, "--log-level", "debug", output=output)
    other = stage.loader(data.folder, *ARGS)
    trainer = stage.trainer(f"{silent.address},{other.address}")
    trainer.wait_for(50)
    for worker in silent.workers:
        worker.kill()
    trainer.wait_for(150)
    assert silent.end() == 0, "a loader that cannot log ends as it is told to"
    silent.start()
    trainer.wait_for(20)
    assert trainer.end() == 0, trainer.log_text()
    return trainer.record


@pytest.mark.slow
def test_a_loader_that_cannot_log_serves_all_the_same(
    stage: Stage, data: Data, undisturbed: Undisturbed, report: Report
) -> None:
    path = train_with_log(stage, data, Path("/dev/full"))

    report(judged(path, undisturbed, data.samples, within_s=WITHIN_S), fault="log to /dev/full", victim="loader")


@pytest.mark.soak
def test_a_disk_that_is_full_loses_the_log_and_nothing_else(
    stage: Stage, data: Data, undisturbed: Undisturbed, report: Report, full_disk: Path
) -> None:
    with pytest.raises(OSError, match="No space"):
        (full_disk / "log").write_text("a line")

    path = train_with_log(stage, data, full_disk / "log")

    report(judged(path, undisturbed, data.samples, within_s=WITHIN_S), fault="log to a full disk", victim="loader")


THEIRS = """\
import numpy as np

class Data:
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return {"x": np.int64(i)}
"""


@pytest.mark.slow
def test_a_full_tmp_costs_nothing(tmp_path: Path, data: Data, undisturbed: Undisturbed, full_disk: Path) -> None:
    """Loader, workers, also those that come later, and trainers write nothing there."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "loader.toml").write_text(
        f'[datasets.data]\npath = "{data.folder}"\n[datasets.theirs]\nobject = "theirs:Data"\npath = "."\n'
    )
    with pytest.raises(OSError, match="No space"):
        (full_disk / "more").write_bytes(bytes(4096))
    stage = Stage(tmp_path / "stage", TMPDIR=str(full_disk))
    try:
        loader = stage.loader(tmp_path / "loader.toml", *ARGS)
        trainer = stage.trainer(loader.address, feed={"dataset": "data"})
        trainer.wait_for(20)
        for worker in loader.workers:
            worker.kill()
        trainer.wait_for(20)
        with feedline.connect(loader.address) as connected:
            ids = [sample for batch in connected.epoch(0, dataset="theirs", batch_size=8) for sample in batch.ids]
        assert trainer.end() == 0, trainer.log_text()
    finally:
        problems = stage.close()

    assert problems == []
    assert sorted(ids) == list(range(64))
    judged(trainer.record, undisturbed, data.samples, within_s=WITHIN_S)
    assert sorted(file.name for file in full_disk.iterdir()) == ["filling", "log", "more"]
