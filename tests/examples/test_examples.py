"""Every example runs, in a process of its own with a loader of its own, and finds its data as it is in its files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from busy import without_waits
from processes import children

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

HELPERS = {"serving.py"}
"""What examples share and what is none itself."""


FRAMEWORKS = {"jax_training.py", "lightning_trainer.py", "pytorch.py", "tf_keras_training.py", "torchtitan_source.py"}
"""What needs a framework beside Keras on TensorFlow."""


def scripts() -> list[Any]:
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.frameworks] if path.name in FRAMEWORKS else [])
        for path in sorted(EXAMPLES.glob("*.py"))
        if path.name not in HELPERS
    ]


def serving() -> set[int]:
    """Loaders below this process, by process id."""
    return {child.pid for child in children(lambda words: "serve" in words, recursive=True)}


@pytest.mark.slow
@pytest.mark.timeout(180)  # one imports TensorFlow in three processes, which takes a busy machine a minute
@pytest.mark.parametrize("script", scripts())
def test_an_example_runs_and_leaves_no_process(script: Path, tmp_path: Path) -> None:
    before = serving()  # loaders that other tests share

    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=150, check=False,
    )  # fmt: skip

    assert done.returncode == 0, f"{script.name} fails:\n{done.stdout}"
    assert len(without_waits(done.stdout.splitlines())) == 1, (
        f"{script.name} says more than what it found:\n{done.stdout}"
    )
    assert serving() <= before
