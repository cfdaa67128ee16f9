"""Loaders that join, leave and are replaced in mid-epoch; and none at all, for a while or for too long."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from breaking import record
from breaking.data import Data
from breaking.hurts import HURTS
from breaking.stage import Loader, Stage
from breaking.verdict import Account, Undisturbed, judged

import feedline

ARGS = ("--workers", "1", "--memory", "64MiB")

WITHIN_S = 20.0
"""As for processes (test_processes.py)."""

USED_S = 60.0
"""Until a loader that was added is asked: 5 s until its name is seen, the rest is for a machine that is busy."""

SPEAKS_S = 5.0
"""Stated: a trainer that waits longer says so."""

DEADLINE_S = 10.0

Report = Callable[..., None]


def wait_until_used(loader: Loader) -> None:
    """Wait until a trainer has batches from it."""
    with feedline.connect(loader.address) as watcher:
        until = time.monotonic() + USED_S
        while not any(trainer.counters["batches"] for trainer in watcher.status().trainers):
            assert time.monotonic() < until, f"{loader} is not asked: {watcher.status()}"
            time.sleep(0.1)  # a stream appears without telling anybody but the loader


class Named:
    """A name for several loaders: a file that the trainer reads as it would ask a name server."""

    def __init__(self, folder: Path, loaders: list[Loader]) -> None:
        self.file = folder / "addresses"
        self.are(loaders)

    def are(self, loaders: list[Loader]) -> None:
        """From now on these."""
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(loader.address for loader in loaders))
        new.replace(self.file)


def change_all(stage: Stage, data: Data, moments: random.Random, times: int) -> Path:
    """Each time one is added and used, one is removed from the name and drained, and the rest is restarted in turn."""
    loaders = stage.fleet(2, data.folder, *ARGS)
    name = Named(stage.folder, loaders)
    trainer = stage.trainer(str(name.file))
    for _ in range(times):
        trainer.wait_for(moments.randrange(1, 150))
        loaders.append(stage.loader(data.folder, *ARGS))
        name.are(loaders)
        wait_until_used(loaders[-1])
        gone = loaders.pop(moments.randrange(len(loaders)))
        name.are(loaders)
        assert gone.end() == 0
        for loader in loaders:
            trainer.wait_for(moments.randrange(1, 50))
            assert loader.end() == 0
            loader.start()
            wait_until_used(loader)
    assert trainer.end() == 0, trainer.log_text()
    return trainer.record


@pytest.mark.slow
def test_a_fleet_whose_every_member_changes_in_mid_epoch_costs_nothing(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    path = change_all(stage, data, moments, times=1)

    report(judged(path, undisturbed, data.samples, within_s=WITHIN_S), fault="added, removed, restarted", moments=1)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_times_all_members_change(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    path = change_all(stage, data, moments, times=10)

    report(judged(path, undisturbed, data.samples, within_s=WITHIN_S), fault="added, removed, restarted", moments=10)


def all_down(stage: Stage, data: Data, moments: random.Random, *, down_s: float, times: int) -> Path:
    """Each time all of them are killed at once, and come back after so long."""
    loaders = stage.fleet(2, data.folder, *ARGS)
    trainer = stage.trainer(",".join(loader.address for loader in loaders))
    for _ in range(times):
        trainer.wait_for(moments.randrange(20, 150))
        for loader in loaders:
            HURTS["kill"](loader.front)
            loader.process.wait()
        time.sleep(down_s)  # this is the fault
        for loader in loaders:
            loader.start()
    assert trainer.end() == 0, trainer.log_text()
    assert "for the batch" in trainer.log_text(), "who waits longer than 5 s says so"
    return trainer.record


@pytest.mark.slow
def test_a_trainer_without_any_loader_says_so_waits_and_goes_on(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    down_s = SPEAKS_S + 2

    path = all_down(stage, data, moments, down_s=down_s, times=1)

    seen = judged(path, undisturbed, data.samples, within_s=down_s + WITHIN_S)
    report(seen, fault=f"all down for {down_s:g} s", victim="loader", moments=1)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_times_no_loader_for_twenty_seconds(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    path = all_down(stage, data, moments, down_s=20.0, times=10)

    seen = judged(path, undisturbed, data.samples, within_s=20.0 + WITHIN_S)
    report(seen, fault="all down for 20 s", victim="loader", moments=10)


@pytest.mark.slow
def test_no_loader_for_longer_than_the_deadline_is_a_typed_error_and_another_process_goes_on(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random
) -> None:
    loaders = stage.fleet(2, data.folder, *ARGS)
    trainer = stage.trainer(",".join(loader.address for loader in loaders), timeout_s=DEADLINE_S)
    trainer.wait_for(moments.randrange(20, 150))
    for loader in loaders:
        HURTS["kill"](loader.front)
        loader.process.wait()

    assert trainer.wait() == 3, trainer.log_text()

    *_, failure = record.read(trainer.record)
    assert isinstance(failure, record.Failure)
    assert failure.kind == "LoaderUnavailable"
    assert all(loader.address in failure.text for loader in loaders)
    assert "positions" in failure.text  # the key
    assert "feedline serve" in failure.text  # the remedy
    assert DEADLINE_S - 0.1 <= failure.after_s < DEADLINE_S + WITHIN_S  # a busy machine may be late to look

    for loader in loaders:
        loader.start()
    trainer.start()
    assert trainer.end() == 0, trainer.log_text()
    account = Account(undisturbed, data.samples)
    account.follow(line for line in record.read(trainer.record) if line != failure)
    assert account.is_between_epochs
