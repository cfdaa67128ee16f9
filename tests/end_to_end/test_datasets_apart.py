"""A dataset that cannot be opened any more is refused by itself: who reads another does not notice."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import feedline
from feedline_wire.errors import DataError

StartLoader = Callable[..., Any]

SAMPLES = 101


@pytest.fixture
def two(tmp_path: Path, numbered_columns: Callable[..., Any]) -> Path:
    """A loader.toml with the datasets a and b; alice may read both, bob b alone."""
    for name in ("a", "b"):
        numbered_columns(tmp_path / name, SAMPLES)
    (tmp_path / "loader.toml").write_text('[datasets.a]\npath = "a"\n[datasets.b]\npath = "b"\n')
    (tmp_path / "tokens.toml").write_text(
        f'[alice]\nsha256 = "{sha256(b"alice").hexdigest()}"\n'
        f'[bob]\nsha256 = "{sha256(b"bob").hexdigest()}"\ndatasets = ["b"]\n'
    )
    return tmp_path


def removed(folder: Path) -> None:
    """Its files; a folder that is renamed is found where it is."""
    away = folder.with_name("away")
    away.mkdir()
    for file in folder.iterdir():
        file.rename(away / file.name)


def swapped(folder: Path) -> None:
    removed(folder)
    for file in folder.with_name("away").iterdir():
        np.save(folder / file.name, np.load(file) + 1)


def put_back(folder: Path) -> None:
    for file in folder.with_name("away").iterdir():
        file.rename(folder / file.name)


def kill_workers(loader: Any) -> None:
    workers = loader.workers()
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers)


def read(loader: feedline.Loader, dataset: str, epochs: range, at: Callable[[int, int], None]) -> Counter[int]:
    ids: Counter[int] = Counter()
    for epoch in epochs:
        for batch in loader.epoch(epoch, dataset=dataset, batch_size=4, prefetch=2, timeout_s=60):
            assert np.array_equal(batch.data[1], batch.ids)
            ids.update(batch.ids.tolist())
            at(epoch, batch.index)
    return ids


@pytest.mark.parametrize("fault", [removed, swapped])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_only_who_reads_a_dataset_that_cannot_be_opened_is_told_and_it_comes_back_with_its_files(
    two: Path, start_loader: StartLoader, fault: Callable[[Path], None], workers: str
) -> None:
    """Trainers of b got an error about a, with its path, and 5,600 of 6,400 samples never."""
    loader = start_loader(
        two / "loader.toml", "--workers", workers, "--tokens", str(two / "tokens.toml"), "--no-send-from-files"
    )
    refused = threading.Event()

    with feedline.connect(loader.address, token="alice") as alice, feedline.connect(loader.address, token="bob") as bob:

        def spoil(epoch: int, index: int) -> None:
            if (epoch, index) == (0, 5):
                fault(two / "a")
                kill_workers(loader)
                with pytest.raises(DataError, match=r"/a(/x\.npy)?: ") as caught:
                    read(alice, "a", range(1), lambda *_: None)
                assert caught.value.elsewhere, "another loader may have its files"
                refused.set()

        assert read(bob, "b", range(3), spoil) == Counter(dict.fromkeys(range(SAMPLES), 3))

        assert refused.is_set()
        assert set(bob.datasets) == {"b"}
        put_back(two / "a")
        assert back_again(alice) == Counter(range(SAMPLES))


def back_again(loader: feedline.Loader) -> Counter[int]:
    """An epoch of a: what was refused a moment ago is tried again after a second."""
    until = time.monotonic() + 30
    while True:
        try:
            return read(loader, "a", range(5, 6), lambda *_: None)
        except DataError:
            assert time.monotonic() < until
            time.sleep(0.1)
