"""`feedline reload`: new data beside the old, while trainers are on it; each trainer has one version, whole."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import feedline
from feedline.fleet import fleet
from feedline_wire.errors import DataError, DatasetChanged

StartLoader = Callable[..., Any]

SAMPLES = 60
ONCE = Counter(range(SAMPLES))


def id_files(folder: Path, more: int) -> Path:
    """A sample's file holds its id and `more`."""
    (folder / "data").mkdir(parents=True)
    for sample in range(SAMPLES):
        np.save(folder / "data" / f"{sample}.npy", np.full((3, 2), sample + more))
    (folder / "partition.json").write_text(json.dumps({"train": list(range(SAMPLES))}))
    (folder / "labels.json").write_text(json.dumps(dict.fromkeys(map(str, range(SAMPLES)), 0)))
    return folder


def columns(folder: Path, more: int) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", np.repeat(np.arange(SAMPLES) + more, 600).reshape(-1, 600).astype(np.float32))
    return folder


def one_epoch(loader: feedline.Loader, epoch: int, more: int, then: Callable[[], object] = lambda: None) -> None:
    """Every sample once, each of one version. `then` happens in the middle."""
    ids: Counter[int] = Counter()
    for batch in loader.epoch(epoch, batch_size=4, prefetch=2, timeout_s=60):
        x = batch.data[0] if isinstance(batch.data, tuple) else batch.data
        assert (np.asarray(x).reshape(batch.rows, -1) == batch.ids[:, None] + more).all()
        ids.update(batch.ids.tolist())
        if batch.index == 5:
            then()
    assert ids == ONCE


def logged(loader: Any, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in loader.log_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def reload(loader: Any, *, times: int = 1) -> None:
    """By the command; blocks until the log says that it is done for the time that is said."""
    command = [sys.executable, "-m", "feedline", "reload", "--pid", str(loader.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"process {loader.process.pid} opens its data anew; its log says what it found\n"
    wait_for(loader, "reloaded", times)


def inspected(loader: Any) -> Any:
    command = [sys.executable, "-m", "feedline", "inspect", loader.address, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def wait_for(loader: Any, event: str, times: int) -> None:
    until = time.monotonic() + 60
    while len(logged(loader, event)) < times:
        assert time.monotonic() < until, loader.log_text()
        time.sleep(0.02)


def kill_all(workers: list[psutil.Process]) -> None:
    for worker in workers:
        worker.kill()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert left == []


def renamed(path: Path, new: Path) -> None:
    path.rename(path.with_name("old"))
    new.rename(path)


def link_turned(path: Path, new: Path) -> None:
    path.with_name("turned").symlink_to(new)
    path.with_name("turned").replace(path)


@pytest.mark.parametrize("write", [id_files, columns])
@pytest.mark.parametrize("update", [renamed, link_turned])
def test_who_has_begun_keeps_the_old_version_and_who_begins_has_the_new_one(
    tmp_path: Path, start_loader: StartLoader, write: Callable[[Path, int], Path], update: Callable[[Path, Path], None]
) -> None:
    first, new = write(tmp_path / "first", 0), write(tmp_path / "new", 100)
    path = tmp_path / "now"
    first.rename(path) if update is renamed else path.symlink_to(first)
    loader = start_loader(path, "--workers", "2", "--no-shm-lane")

    with feedline.connect(loader.address) as began:

        def update_and_reload() -> None:
            update(path, new)
            reload(loader)
            with feedline.connect(loader.address) as begins:
                assert begins.dataset().fingerprint != began.dataset().fingerprint
                one_epoch(begins, 0, 100)
                newest, older = (one.dataset().fingerprint.hex() for one in (begins, began))
            [seen] = inspected(loader)["datasets"].values()
            assert (seen["fingerprint"], seen["older"]) == (newest, [older])

        one_epoch(began, 0, 0, update_and_reload)
        one_epoch(began, 1, 0)
        old = began.dataset().fingerprint.hex()
        with feedline.connect(loader.address, fingerprint=old[:12]) as pinned:
            one_epoch(pinned, 2, 0)
        kill_all(loader.workers())  # those that take their places find the old folder where it lies now
        one_epoch(began, 3, 0)
        with pickle.loads(pickle.dumps(began)) as copied:  # as a DataLoader does, for each worker and epoch
            one_epoch(copied, 4, 0)
    with feedline.connect(loader.address) as begins:
        one_epoch(begins, 4, 100)
    with pytest.raises(DatasetChanged, match="no dataset with the fingerprint 0123456789 is served"):
        feedline.connect(loader.address, fingerprint="0123456789")


def test_files_that_only_have_new_times_are_served_on_and_so_is_a_dataset_that_cannot_be_opened(
    tmp_path: Path, start_loader: StartLoader
) -> None:
    path = id_files(tmp_path / "now", 0)
    loader = start_loader(path, "--workers", "2")
    for file in (path / "data").iterdir():
        os.utime(file)

    with feedline.connect(loader.address) as began:
        with pytest.raises(DataError, match=r"touched and never read whole before.*run `feedline reload`"):
            one_epoch(began, 0, 0)
        reload(loader)
        one_epoch(began, 1, 0)
        (path / "partition.json").rename(path / "away")
        reload(loader, times=2)
        one_epoch(began, 2, 0)

    assert [[*line["new"]] for line in logged(loader, "reloaded")] == [["now"], []]
    [line] = logged(loader, "a dataset cannot be opened anew, it is served as it was")
    assert "partition.json" in line["error"]


def test_a_new_trainer_has_the_newest_version_that_every_replica_serves(
    tmp_path: Path, start_loader: StartLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETTLE_S", 60.0)  # a second is little for the other one on a busy machine
    path, new = columns(tmp_path / "now", 0), columns(tmp_path / "new", 100)
    one, other = (start_loader(path, "--workers", "1") for _ in range(2))
    both = f"{one.address},{other.address}"
    renamed(path, new)
    reload(one)

    with feedline.connect(both) as begins:
        assert begins.replicas == 2
        one_epoch(begins, 0, 0)
    with feedline.connect(one.address) as begins:
        one_epoch(begins, 0, 100)
    reload(other)
    with feedline.connect(both) as begins:
        one_epoch(begins, 0, 100)


def test_a_command_with_replicas_passes_it_on(tmp_path: Path, start_loader: StartLoader) -> None:
    path, new = columns(tmp_path / "now", 0), columns(tmp_path / "new", 100)
    command = start_loader(path, "--workers", "2", "--replicas", "2")
    renamed(path, new)
    reload(command, times=2)

    with feedline.connect(command.address) as begins:
        one_epoch(begins, 0, 100)


def test_two_replicas_without_a_version_in_common_are_an_error_at_connect(
    tmp_path: Path, start_loader: StartLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETTLE_S", 60.0)
    one = start_loader(columns(tmp_path / "a" / "d", 0), "--workers", "1")
    other = start_loader(columns(tmp_path / "b" / "d", 100), "--workers", "1")
    addresses = [one.address, other.address]

    for order in (addresses, addresses[::-1]):
        with pytest.raises(
            DatasetChanged, match=r"no version of dataset 'd' in common: .* differ in the content of fi"
        ):
            feedline.connect(order)
    for address, more in ((one.address, 0), (other.address, 100)):
        with feedline.connect(address) as alone:
            fingerprint = alone.dataset().fingerprint
        for way in (fingerprint, fingerprint.hex()):
            with feedline.connect(addresses, fingerprint=way) as pinned:
                one_epoch(pinned, 0, more)


@pytest.mark.parametrize(
    "words", [["sleep", "60"], ["bash", "-c", "trap : EXIT; echo; sleep 60; :"]], ids=["sleep", "bash"]
)
def test_a_process_that_is_no_loader_is_not_ended_by_the_signal(words: list[str]) -> None:
    """A shell that traps its end has a handler for every signal that would end it."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        command = [sys.executable, "-m", "feedline", "reload", "--pid", str(process.pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert done.returncode == 1
    assert f"process {process.pid} is no feedline loader on this host" in done.stderr
