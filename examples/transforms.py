"""Transforms on the loader: augmentation for training alone, one's own functions, the last step left to the trainer.

The same samples are transformed here by hand, with the same functions, and compared value by value.
"""

import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

IMAGES, CLASSES = 400, 6

CONFIG = """
[datasets.pictures]
views = {train = "0:300", validation = "300:"}
sample_weight = "w"
nan = "error"

[[datasets.pictures.filters]]  # class 5 is left out, once and for all
column = "y"
is = [0, 1, 2, 3, 4]

[[datasets.pictures.transforms]]
name = "random_crop"
columns = "x"
size = [24, 24]
views = "train"

[[datasets.pictures.transforms]]
name = "crop"
column = "x"
size = [24, 24]
views = "validation"

[[datasets.pictures.transforms]]
name = "random_flip"
column = "x"
views = "train"

[[datasets.pictures.transforms]]
code = "my_transforms:brighten"
column = "x"
views = "train"

[[datasets.pictures.transforms]]  # a sample as a mapping: what it returns takes the place of all columns
code = "my_transforms:with_weight"

[[datasets.pictures.transforms]]
name = "one_hot"
column = "y"
classes = 6

[[datasets.pictures.transforms]]  # bytes travel, floats arrive
name = "scale"
column = "x"
divide_by = 255
late = true
"""

CODE = '''
import numpy as np


def brighten(image, rng):
    """The generator belongs to the sample: whichever worker computes it, it draws the same."""
    return np.minimum(image.astype(np.int64) + rng.integers(0, 40), 255).astype(np.uint8)


def with_weight(sample):
    return {**sample, "w": np.float32(2 if sample["y"] == 0 else 1)}
'''


def make(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 32 x 32 and their classes."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 200, (IMAGES, 32, 32, 3), np.uint8)
    y = rng.integers(0, CLASSES, IMAGES)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "my_transforms.py").write_text(CODE)
    (folder / "loader.toml").write_text(CONFIG)
    return x, y


def is_augmented(found: np.ndarray, image: np.ndarray) -> bool:
    """Some part of the image, mirrored or not, and all of it brighter by the same."""
    parts = np.lib.stride_tricks.sliding_window_view(image, (24, 24), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    candidates = np.concatenate([parts.reshape(-1, 24, 24, 3), parts[..., ::-1, :].reshape(-1, 24, 24, 3)])
    brighter = found[0, 0].astype(int) - candidates[:, 0, 0]
    likely = (brighter == brighter[:, :1]).all(1) & (brighter[:, 0] >= 0) & (brighter[:, 0] < 40)
    return any((found == candidates[at] + brighter[at, 0]).all() for at in np.flatnonzero(likely))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = make(folder)
        kept = np.flatnonzero(y < 5)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            ids, batches = [], {}
            for batch in loader.epoch(view="train", batch_size=32, seed=1):
                for row, sample in enumerate(batch.ids.tolist()):
                    image = np.rint(batch["x"][row] * 255).astype(np.uint8)
                    np.testing.assert_array_equal(batch["x"][row], image / np.float32(255))
                    assert is_augmented(image, x[sample])
                    np.testing.assert_array_equal(batch["y"][row], np.eye(CLASSES)[y[sample]])
                    ids.append(sample)
                    batches[sample] = batch["x"][row].copy()
            assert sorted(ids) == kept[kept < 300].tolist()
            for batch in loader.epoch(view="train", batch_size=50, seed=1):  # cut otherwise, drawn the same
                for row, sample in enumerate(batch.ids.tolist()):
                    np.testing.assert_array_equal(batch["x"][row], batches[sample])
            ids = []
            for batch in loader.epoch(view="validation", batch_size=16, order="sequential"):
                np.testing.assert_array_equal(batch["x"], x[batch.ids, 4:28, 4:28] / np.float32(255))
                np.testing.assert_array_equal(batch["w"], np.where(y[batch.ids] == 0, 2, 1))
                ids += batch.ids.tolist()
            assert ids == kept[kept >= 300].tolist()
    print(f"{len(kept)} of {IMAGES} pictures kept; those to train on cropped, mirrored and brightened, twice the same")


if __name__ == "__main__":
    main()
