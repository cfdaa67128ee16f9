"""What the tests of faults share: a line between trainers and loaders, a stage with real ones, random moments."""

import dataclasses
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from breaking.data import Data, write
from breaking.stage import Stage
from breaking.verdict import Seen, Undisturbed
from proxy import Proxy

SAMPLES = 2003
"""Prime: the last batch of an epoch is short."""

ROW_NBYTES = 16 << 10
BATCH = 16

REPORT = "FAULTS_REPORT"
"""A file that every test adds a line to: what was done, and what was seen. docs/reliability.md is written from it."""

SEED = "FAULTS_SEED"
"""The seed of the random moments; without it every run has another."""


@pytest.fixture
def line() -> Iterator[Callable[..., Proxy]]:
    """Put a line before loaders: `line(address, delay_s=0.02)` is a `Proxy` (proxy.py), closed after the test."""
    with ExitStack() as open_lines:

        def lay(*targets: str, **options: Any) -> Proxy:
            return open_lines.enter_context(Proxy(*targets, **options))

        yield lay


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """32 MiB of random rows, 256 KiB a batch."""
    return write(tmp_path_factory.mktemp("faults") / "data", SAMPLES, ROW_NBYTES)


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., Any]) -> Path:
    """401 rows of 16 KiB, each of which holds its number."""
    folder = tmp_path_factory.mktemp("data") / "numbered"
    numbered_columns(folder, 401, (4096,))
    return folder


@pytest.fixture(scope="session")
def undisturbed(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """What epochs are when nothing happens."""
    stage = Stage(tmp_path_factory.mktemp("undisturbed"))
    loader = stage.loader(data.folder, "--workers", "1", "--memory", "64MiB")
    yield Undisturbed(loader.address, data, BATCH, seed=0)
    assert stage.close() == []


@pytest.fixture
def stage(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[Stage]:  # the one that is undisturbed starts first
    """Loaders and trainers; when the test is over nothing of them may be left."""
    stage = Stage(tmp_path / "stage")
    try:
        yield stage
    finally:
        problems = stage.close()
    assert problems == []


@pytest.fixture
def moments() -> random.Random:
    """Random moments. The seed is printed where a test fails; FAULTS_SEED repeats it."""
    seed = os.environ.get(SEED) or secrets.token_hex(4)
    sys.stdout.write(f"moments: {SEED}={seed}\n")
    return random.Random(seed)


Report = Callable[..., None]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Note what was done and seen."""
    began = time.monotonic()

    def note(seen: Seen, **done: object) -> None:
        if file := os.environ.get(REPORT):
            line = {"test": request.node.name, **done, **dataclasses.asdict(seen), "took_s": time.monotonic() - began}
            with Path(file).open("a") as lines:
                lines.write(json.dumps(line) + "\n")

    return note
