"""Data on disk for the loader's tests: small, and every value tells where it came from."""

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def columns_folder(tmp_path: Path) -> Path:
    """12 samples in two columns: x[i] is all i (float32, 2 x 3), y[i] is 100 + i (int64)."""
    folder = tmp_path / "columns"
    folder.mkdir()
    np.save(folder / "x.npy", np.repeat(np.arange(12, dtype=np.float32), 6).reshape(12, 2, 3))
    np.save(folder / "y.npy", np.arange(100, 112))
    return folder


@pytest.fixture
def id_files_folder(tmp_path: Path) -> Path:
    """The tutorial's layout: 5 samples; id-k.npy is all k (float32, 2 x 3), of class k % 3; id-0..2 are to train."""
    folder = tmp_path / "tutorial"
    (folder / "data").mkdir(parents=True)
    for k in range(5):
        np.save(folder / "data" / f"id-{k}.npy", np.full((2, 3), k, np.float32))
    (folder / "partition.json").write_text(
        json.dumps({"train": ["id-0", "id-1", "id-2"], "validation": ["id-3", "id-4"]})
    )
    (folder / "labels.json").write_text(json.dumps({f"id-{k}": k % 3 for k in range(5)}))
    return folder
