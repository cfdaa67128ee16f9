"""Workers, loaders and trainers killed, stopped, told to end and out of memory, at random moments of an epoch.

Two loaders with two workers each and one trainer, all processes of their own. Whatever is done to any of them, the
trainer consumes what it would have consumed undisturbed, byte by byte and every sample once, waits no longer than
WITHIN_S for a batch, and nothing is left behind.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from breaking import memory
from breaking.data import Data
from breaking.hurts import HURTS
from breaking.lanes import HOST_LANES
from breaking.stage import Held, Loader, Stage, Trainer
from breaking.verdict import MORE_FDS, MORE_RSS, Undisturbed, judged

import feedline

WITHIN_S = 20.0
"""Stated (docs/reliability.md): for one batch, where a loader is there or comes back. Of these are 5 s for a process
that is stopped for so long; the rest is for a machine that is busy."""

FREED_S = 40.0
"""What a trainer that is gone held is free at once, that of one whose host vanished after 20 s."""

ENDING = {"kill": -signal.SIGKILL, "exhaust": -signal.SIGKILL}
"""How a process ends by it."""

Report = Callable[..., None]


def hurt_worker(loaders: list[Loader], fault: str, moments: random.Random) -> None:
    workers = [worker for loader in loaders for worker in loader.workers]
    HURTS[fault](moments.choice(workers))  # also one that is just being started


def hurt_loader(loaders: list[Loader], fault: str, moments: random.Random) -> None:
    loader = moments.choice(loaders)
    HURTS[fault](loader.front)
    if fault != "stop":
        assert loader.process.wait() == ENDING.get(fault, 0)
        loader.start()


def hurt_trainer(trainer: Trainer, fault: str) -> None:
    HURTS[fault](trainer.front)
    if fault != "stop":
        assert trainer.wait() == ENDING.get(fault, -signal.SIGTERM)
        trainer.start()


def restarted_when_free(loader: Loader, **trust: Any) -> int:
    """Wait until a loader has no stream and has lent no memory; how many workers it has replaced."""
    with feedline.connect(loader.address, **trust) as watcher:
        until = time.monotonic() + FREED_S
        while (status := watcher.status()).trainers or status.counters["arena_lent"]:
            assert time.monotonic() < until, f"{loader} still serves: {status}"
            time.sleep(0.1)
        return int(status.counters["workers_restarted"])


def disturbed(stage: Stage, data: Data, moments: random.Random, lane: str, victim: str, faults: list[str]) -> Trainer:
    """A run with one fault after the other, each at a random moment."""
    args = ("--workers", "2", "--memory", "64MiB", *HOST_LANES[lane])
    loaders = stage.fleet(2, data.folder, *args)
    pace_s = moments.choice((0.0, 0.005))  # loaders that are always busy, or mostly idle
    trainer = stage.trainer(",".join(loader.address for loader in loaders), pace_s=pace_s)
    trainer.wait_for(150)  # more than an epoch: everything is warm
    before = {loader: Held.by(loader.front) for loader in loaders}
    for fault in faults:
        trainer.wait_for(moments.randrange(1, 150))
        time.sleep(moments.uniform(0, 0.02))  # the moment
        match victim:
            case "worker":
                hurt_worker(loaders, fault, moments)
            case "loader":
                hurt_loader(loaders, fault, moments)
            case "trainer":
                hurt_trainer(trainer, fault)
    assert trainer.end() == 0, trainer.log_text()
    restarted = sum(restarted_when_free(loader, **stage.trust) for loader in loaders)
    if victim == "worker":
        assert restarted >= sum(fault in ENDING for fault in faults), "every worker that ended was replaced"
    for loader in loaders:
        if victim != "loader":
            held = Held.by(loader.front)
            assert held.fds <= before[loader].fds + MORE_FDS, f"{loader}: {before[loader]}, now {held}"
            assert held.rss <= before[loader].rss + MORE_RSS, f"{loader}: {before[loader]}, now {held}"
    return trainer


def possible(faults: list[str]) -> list[str]:
    return [fault for fault in faults if fault != "exhaust" or memory.why_not() is None]


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "lane"), [("worker", "tcp"), ("loader", "grpc"), ("trainer", "sealed")])
def test_whatever_is_done_to_a_process_costs_the_epoch_nothing(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report, victim: str, lane: str
) -> None:
    faults = moments.sample(possible(list(HURTS)), k=len(possible(list(HURTS))))

    trainer = disturbed(stage, data, moments, lane, victim, faults)

    seen = judged(trainer.record, undisturbed, data.samples, within_s=WITHIN_S)
    report(seen, fault="+".join(faults), victim=victim, lane=lane, moments=len(faults))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lane", HOST_LANES)
@pytest.mark.parametrize("victim", ["worker", "loader", "trainer"])
@pytest.mark.parametrize("fault", HURTS)
def test_at_ten_random_moments(
    stage: Stage,
    data: Data,
    undisturbed: Undisturbed,
    moments: random.Random,
    report: Report,
    fault: str,
    victim: str,
    lane: str,
) -> None:
    if fault == "exhaust" and (why := memory.why_not()):
        pytest.skip(why)

    trainer = disturbed(stage, data, moments, lane, victim, [fault] * 10)

    seen = judged(trainer.record, undisturbed, data.samples, within_s=WITHIN_S)
    report(seen, fault=fault, victim=victim, lane=lane, moments=10)


@pytest.mark.skipif(memory.why_not() is not None, reason=str(memory.why_not()))
def test_an_out_of_memory_kill_is_the_kernels(stage: Stage) -> None:
    """Where this is skipped the faults above are without it."""
    victim = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env=stage.environment(),
        stdout=subprocess.PIPE,
    )
    assert victim.stdout is not None
    victim.stdout.readline()

    HURTS["exhaust"](psutil.Process(victim.pid))  # asserts that the kernel has counted it

    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
