"""Recordings of several subjects, one big file each: windows over them, and whole subjects held out for validation.

Real ones may be far larger than memory: a loader reads the rows of a batch and nothing else.
"""

import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

ROWS = {"s01": 900, "s02": 750, "s03": 1000, "s04": 640, "s05": 811}
WINDOW, STRIDE = 30, 10

CONFIG = """
[datasets.sleep]
kind = "subjects"
path = "sleep"
window = 30
stride = 10

[datasets.sleep.views]
train = ["!s04", "!s05"]
validation = ["s04", "s05"]
"""


def make(folder: Path) -> None:
    """An archive a subject: 16 x 16 matrices in time order, and the stage of sleep at each."""
    rng = np.random.default_rng(0)
    (folder / "sleep").mkdir()
    for subject, rows in ROWS.items():
        x = rng.standard_normal((rows, 16, 16), np.float32)
        np.savez(folder / "sleep" / f"{subject}.npz", x=x, y=rng.integers(0, 5, rows))
    (folder / "loader.toml").write_text(CONFIG)


def windows_of(folder: Path, subjects: list[str]) -> list[tuple[np.ndarray, int]]:
    """The same windows, made here."""
    found = []
    for subject in subjects:
        with np.load(folder / "sleep" / f"{subject}.npz") as recording:
            x, y = recording["x"], recording["y"]
        for start in range(0, len(x) - WINDOW + 1, STRIDE):
            found.append((x[start : start + WINDOW], int(y[start + WINDOW - 1])))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder)
        plain = windows_of(folder, sorted(ROWS))
        to_train = len(windows_of(folder, ["s01", "s02", "s03"]))
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            assert dict(loader.dataset().views) == {"train": to_train, "validation": len(plain) - to_train}
            seen: dict[str, list[int]] = {"train": [], "validation": []}
            for view in seen:
                for batch in loader.epoch(view=view, batch_size=32, seed=1):
                    x, y = batch
                    for row, sample in enumerate(batch.ids):
                        np.testing.assert_array_equal(x[row], plain[sample][0])
                        assert y[row] == plain[sample][1]
                    seen[view] += batch.ids.tolist()
            assert sorted(seen["train"]) == list(range(to_train))
            assert sorted(seen["validation"]) == list(range(to_train, len(plain)))
    print(f"{len(ROWS)} subjects: {len(plain)} windows of {WINDOW} rows, each once, none across two subjects")


if __name__ == "__main__":
    main()
