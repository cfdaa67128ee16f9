"""docs/python.md: the modules that it shows are served as it says."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset_in_worker
from feedline_server.declared.datasets import PythonConfig

DOCUMENT = Path(__file__).parents[4] / "docs" / "python.md"

MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The modules and the data that they read; the loader is started there."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "letters.npz",
        pictures=rng.integers(0, 256, (9, 12, 12), np.uint8),
        ages=rng.random(9),
        labels=range(9),
    )
    np.save(tmp_path / "series.npy", np.arange(100.0))
    (tmp_path / "data").mkdir()
    ids = [f"id-{k}" for k in range(70)]
    for k, name in enumerate(ids):
        np.save(tmp_path / "data" / f"{name}.npy", np.full((4, 4), k, np.float32))
    (tmp_path / "partition.json").write_text(json.dumps({"train": ids}))
    (tmp_path / "labels.json").write_text(json.dumps({name: k % 6 for k, name in enumerate(ids)}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    state = np.random.get_state()
    yield tmp_path
    np.random.set_state(state)
    for name in MODULES:
        sys.modules.pop(name, None)


def served(folder: Path, name: str, **declared: Any) -> Dataset:
    return open_dataset_in_worker("d", PythonConfig.declare(path=folder, object=name, **declared))


def columns(dataset: Dataset) -> list[str]:
    return [str(column) for column in dataset.columns]


def test_the_dataset_of_samples(folder: Path) -> None:
    dataset = served(folder, "my_dataset:Letters")

    assert columns(dataset) == ["picture uint8(12, 12)", "age float32()", "y int64()"]
    assert dataset.structure == ({"picture": "picture", "age": "age"}, "y")
    assert dataset.views["train"].samples == 9


@pytest.mark.keras
def test_the_keras_sequence(folder: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    dataset = served(folder, "my_classes:training_generator")

    assert dataset.is_batched
    assert columns(dataset) == ["x float32(4, 4)", "y float64(6)"]
    assert dataset.views["train"].samples == 2


def test_the_generator(folder: Path) -> None:
    dataset = served(folder, "my_generator:load", steps_per_epoch=500)

    assert dataset.is_stream
    assert columns(dataset) == ["x float64(20)", "y float64()"]
    assert dataset.views["train"].samples == 500
