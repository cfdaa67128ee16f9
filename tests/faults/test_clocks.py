"""A wall clock that jumps by up to a day, back and forth, ten times a second, in every process at once.

Deadlines, keepalive, leases of memory and the pace of loaders are all measured by monotonic clocks. Only what a log
line says depends on the wall clock.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from breaking.data import Data
from breaking.hurts import HURTS
from breaking.stage import HERE, Stage
from breaking.verdict import Undisturbed, judged

WITHIN_S = 20.0
"""As for processes (test_processes.py): a jump costs nothing."""

JUMPS = """
import time
seen, until = [time.time()], time.monotonic() + 20
while max(seen) - min(seen) < 3600:
    assert time.monotonic() < until, "the clock stays where it is"
    seen.append(time.time())
    time.sleep(0.02)
"""
"""A program that ends well where the wall clock jumps."""


@pytest.fixture
def jumping(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[Stage]:
    """A stage on which `clock_gettime`, `gettimeofday` and `time` of the C library jump, for Python and for gRPC."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    environment = {"BREAKING_CLOCK": "1"}  # Python's alone
    if compiler is not None:
        library = tmp_path / "clock.so"
        source = HERE / "inside" / "clock.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        environment = {"LD_PRELOAD": str(library)}
    stage = Stage(tmp_path / "stage", **environment)
    subprocess.run([sys.executable, "-c", JUMPS], env=stage.environment(), check=True, timeout=30)
    try:
        yield stage
    finally:
        problems = stage.close()
    assert problems == []


@pytest.mark.slow
def test_a_wall_clock_that_jumps_changes_nothing(
    jumping: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Callable[..., None]
) -> None:
    args = ("--workers", "2", "--memory", "64MiB")
    loaders = jumping.fleet(2, data.folder, *args)
    trainer = jumping.trainer(",".join(loader.address for loader in loaders))
    trainer.wait_for(moments.randrange(1, 150))
    HURTS["kill"](loaders[0].front)  # so that there are deadlines to keep
    loaders[0].process.wait()
    loaders[0].start()
    trainer.wait_for(moments.randrange(1, 150))
    HURTS["kill"](moments.choice(loaders[1].workers))
    trainer.wait_for(150)

    code = trainer.end()

    assert code == 0, trainer.log_text()
    report(judged(trainer.record, undisturbed, data.samples, within_s=WITHIN_S), fault="clock jumps", victim="all")


@pytest.mark.soak
def test_an_error_comes_at_its_deadline_whatever_the_wall_clock_says(jumping: Stage, data: Data) -> None:
    loader = jumping.loader(data.folder, "--workers", "1", "--memory", "64MiB")
    trainer = jumping.trainer(loader.address, timeout_s=3.0)
    trainer.wait_for(50)
    HURTS["kill"](loader.front)
    loader.process.wait()
    began = time.monotonic()

    code = trainer.wait()

    assert code == 3, trainer.log_text()
    assert time.monotonic() - began < WITHIN_S
    loader.start()  # for the stage to end as it began
