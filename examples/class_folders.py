"""A folder for each class, with files of (steps, features): what Keras' `flow_from_directory` does for images."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
from serving import served

import feedline

COUNTS = {"idle": 9, "push": 21, "swipe": 14, "wave": 17}
STEPS, FEATURES = 40, 6

CONFIG = """
[datasets.gestures]
kind = "class_folders"
path = "gestures"
one_hot = true
validation_split = 0.2
"""


def make(folder: Path) -> list[tuple[np.ndarray, int]]:
    """Recordings of gestures, some as .npy and some as HDF5; each with its class, in the order of their names."""
    rng = np.random.default_rng(0)
    samples = []
    for number, (name, count) in enumerate(COUNTS.items()):
        (folder / "gestures" / name).mkdir(parents=True)
        for take in range(count):
            recording = rng.standard_normal((STEPS, FEATURES), np.float32)
            path = folder / "gestures" / name / f"take-{take:02}.{'h5' if take % 2 else 'npy'}"
            if take % 2:
                with h5py.File(path, "w") as file:
                    file["sensors"] = recording
            else:
                np.save(path, recording)
            samples.append((recording, number))
    (folder / "loader.toml").write_text(CONFIG)
    return samples


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = make(folder)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            views = loader.dataset().views  # a fifth of the samples is held out, by the hash of their names
            assert loader.dataset().classes == tuple(COUNTS)
            seen = []
            for view in views:
                for batch in loader.epoch(view=view, batch_size=10, seed=3):
                    x, y = batch
                    assert x.shape == (batch.rows, STEPS, FEATURES)
                    assert y.shape == (batch.rows, len(COUNTS))
                    for row, sample in enumerate(batch.ids):
                        np.testing.assert_array_equal(x[row], plain[sample][0])
                        assert y[row].tolist() == [float(number == plain[sample][1]) for number in range(len(COUNTS))]
                    seen += batch.ids.tolist()
            assert sorted(seen) == list(range(len(plain)))
    print(f"{len(plain)} recordings of {len(COUNTS)} classes: every one once, with its class")


if __name__ == "__main__":
    main()
