"""One HDF5 file with the columns of a dataset, one compressed in chunks, one lying plainly."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
from serving import served

import feedline

SAMPLES = 300

CONFIG = """
[datasets.scans]
kind = "hdf5"
path = "scans.h5"
arrays = {x = "volumes/t1", y = "diagnosis", weight = "confidence"}
sample_weight = "weight"
views = {train = ":-50", validation = "-50:"}
"""


def make(folder: Path) -> dict[str, np.ndarray]:
    """A file as a hospital might write it, with a column that nobody trains on."""
    rng = np.random.default_rng(0)
    data = {
        "x": rng.integers(0, 256, (SAMPLES, 24, 24), np.uint8),
        "y": rng.integers(0, 4, SAMPLES),
        "weight": rng.random(SAMPLES, np.float32),
    }
    with h5py.File(folder / "scans.h5", "w") as file:
        file.create_dataset("volumes/t1", data=data["x"], chunks=(1, 24, 24), compression="gzip")
        file["diagnosis"] = data["y"]
        file["confidence"] = data["weight"]
        file["names"] = [f"patient {number}" for number in range(SAMPLES)]
    (folder / "loader.toml").write_text(CONFIG)
    return data


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = make(folder)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            seen = []
            for view in ("train", "validation"):
                for batch in loader.epoch(view=view, batch_size=32, seed=5):
                    for column, part in zip(("x", "y", "weight"), batch, strict=True):
                        np.testing.assert_array_equal(part, plain[column][batch.ids])
                    seen += batch.ids.tolist()
            assert sorted(seen) == list(range(SAMPLES))
    print(f"{SAMPLES} scans of one file: every one once, as it is there")


if __name__ == "__main__":
    main()
