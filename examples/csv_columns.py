"""A table in a CSV file: made into columns once, with text as numbers, and served from there."""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

ROWS = 3000
KINDS = ("setosa", "versicolor", "virginica")


def make(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Measurements of flowers, one of them missing here and there, and their kinds."""
    rng = np.random.default_rng(0)
    sizes = rng.random((ROWS, 4)).round(3)
    sizes[rng.random(ROWS) < 0.01, 3] = np.nan
    kinds = rng.integers(0, len(KINDS), ROWS)
    with file.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["sepal_length", "sepal_width", "petal_length", "petal_width", "kind"])
        for row, kind in zip(sizes, kinds, strict=True):
            table.writerow([*("" if np.isnan(value) else value for value in row), KINDS[kind]])
    return sizes.astype(np.float32), kinds


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        file, folder = Path(temporary) / "flowers.csv", Path(temporary) / "flowers"
        sizes, kinds = make(file)
        command = [sys.executable, "-m", "feedline", "convert", str(file), str(folder)]
        command += ["--target", "kind", "--codes", "kind"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
        # Codes count in the order in which values come in the file; the loader.toml beside the columns names them.
        codes = {kind: code for code, kind in enumerate(dict.fromkeys(kinds.tolist()))}

        with served(folder) as address, feedline.connect(address) as loader:
            seen = []
            for batch in loader.epoch(batch_size=64, seed=3):
                x, y = batch
                np.testing.assert_array_equal(x, sizes[batch.ids])
                assert y.tolist() == [codes[kind] for kind in kinds[batch.ids].tolist()]
                assert [loader.dataset().classes[code] for code in y] == [KINDS[kind] for kind in kinds[batch.ids]]
                seen += batch.ids.tolist()
            assert sorted(seen) == list(range(ROWS))
    print(f"{ROWS} rows of a CSV file: every one once, as it is there")


if __name__ == "__main__":
    main()
