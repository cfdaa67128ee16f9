"""For tests with frameworks: a loader in memory with 100 numbered samples, and trainers in processes of their own."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_port

import feedline
from feedline.testing import FakeLoader, serve

SAMPLES = 100

WITHIN_S = 300.0
"""Importing Lightning or transformers takes a busy machine a minute, and two of them that share it two."""

Trainers = Callable[..., list[list[Any]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start trainers wait for as long as these may take."""
    for item in items:
        if "trainers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(WITHIN_S + 30))


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    x = np.repeat(np.arange(SAMPLES, dtype=np.float32), 3).reshape(SAMPLES, 3)
    with serve({"x": x, "y": np.arange(SAMPLES)}, shuffle_answers=True) as loader:
        yield loader


@pytest.fixture
def connection(loader: FakeLoader) -> Iterator[feedline.Loader]:
    with feedline.connect(loader.address) as connection:
        yield connection


@pytest.fixture
def trainers(loader: FakeLoader, tmp_path: Path) -> Trainers:
    """Run a script in `ranks` processes that know of each other, as torchrun starts them; what each of them said.

    In the script `connection` is connected to the loader, and `say(value)` says something that is JSON.
    """

    def run(script: str, ranks: int = 1, *, imports: str) -> list[list[Any]]:
        path = tmp_path / "trainer.py"
        path.write_text(
            f"import json, os, {imports}, feedline\n"
            f"def say(value): print('said', json.dumps(value), flush=True)\n"
            f"connection = feedline.connect({loader.address!r})\n{textwrap.dedent(script)}"
        )
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port("127.0.0.1")), "WORLD_SIZE": str(ranks)}
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOG_minloglevel": "2", "GRPC_VERBOSITY": "ERROR"}
        started = [
            subprocess.Popen(
                [sys.executable, path],
                cwd=tmp_path,
                env=os.environ | quiet | (job | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            outputs = [process.communicate(timeout=WITHIN_S)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * ranks, "\n".join(outputs)
        lines = [[line for line in output.splitlines() if line.startswith("said ")] for output in outputs]
        return [[json.loads(line.removeprefix("said ")) for line in said] for said in lines]

    return run
