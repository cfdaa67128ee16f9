"""Real handwritten digits (scikit-learn's) in Parquet and Arrow files: a table, as data engineers hand it over."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
from serving import served
from sklearn.datasets import load_digits

import feedline

CONFIG = """
[datasets.digits]
kind = "arrow"
path = "digits"
arrays = {x = "pixels", y = "digit"}
views = {train = ":1500", validation = "1500:"}
"""


def make(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two files, with pixels as lists of lists and a column of text."""
    digits = load_digits()
    x, y = digits.images.astype(np.float32), digits.target
    pixels = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 8), 8)
    words = pa.array([digits.target_names[digit].astype(str).item() for digit in y])
    table = pa.table({"word": words, "pixels": pixels, "digit": y})
    (folder / "digits").mkdir()
    pa.parquet.write_table(table.slice(0, 1000), folder / "digits" / "part-0.parquet", row_group_size=100)
    pa.feather.write_feather(table.slice(1000), str(folder / "digits" / "part-1.arrow"), compression="uncompressed")
    (folder / "loader.toml").write_text(CONFIG)
    return x, y


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = make(folder)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            seen = []
            for view in ("train", "validation"):
                for batch in loader.epoch(view=view, batch_size=64, seed=2):
                    found_x, found_y = batch
                    np.testing.assert_array_equal(found_x, x[batch.ids])
                    np.testing.assert_array_equal(found_y, y[batch.ids])
                    seen += batch.ids.tolist()
            assert sorted(seen) == list(range(len(x)))
    print(f"{len(x)} digits of two files: every one once, with its pixels and its digit")


if __name__ == "__main__":
    main()
