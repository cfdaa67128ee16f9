"""A map-style dataset: `feedline serve code/my_dataset.py:Letters --view validation=plain`; feedline makes batches."""

import os
import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

SAMPLES, SIDE = 101, 12

CODE = Path(__file__).parent / "code" / "my_dataset.py"


def make(file: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "pictures": rng.integers(0, 256, (SAMPLES, SIDE, SIDE), np.uint8),
        "ages": rng.uniform(1, 90, SAMPLES),
        "labels": rng.integers(0, 26, SAMPLES),
    }
    np.savez(file, **arrays)
    return arrays


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # the dataset reads `letters.npz` of the folder in which the loader is started
        arrays = make(Path(temporary) / "letters.npz")
        with (
            served(f"{CODE}:Letters", "--view", "validation=plain") as address,
            feedline.connect(address) as loader,
        ):
            assert dict(loader.dataset().views) == {"train": SAMPLES, "validation": SAMPLES}
            # Without augmentation: just what is in the file.
            seen = []
            for batch in loader.epoch(view="validation", batch_size=16, seed=3):
                inputs, y = batch
                ids = batch.ids - SAMPLES  # sample ids of views run on from one to the next
                assert inputs["picture"].dtype == inputs["age"].dtype == np.float32
                np.testing.assert_array_equal(inputs["picture"], arrays["pictures"][ids].astype(np.float32) / 255)
                np.testing.assert_array_equal(inputs["age"], arrays["ages"][ids].astype(np.float32))
                np.testing.assert_array_equal(y, arrays["labels"][ids])
                seen += ids.tolist()
            assert sorted(seen) == list(range(SAMPLES))
            # With it: near the file's, another one every epoch, and the same one whatever the batch size and the order.
            first = pictures(loader, epoch=0, batch_size=16)
            assert all(near(picture, arrays["pictures"][k]) for k, picture in first.items())
            assert equal(first, pictures(loader, epoch=0, batch_size=7, order="sequential")) == SAMPLES
            assert equal(first, pictures(loader, epoch=1, batch_size=16)) == 0
    print(f"{SAMPLES} pictures: as in their file, and augmented the same by every worker")


def pictures(loader: feedline.Loader, **asked: int | str) -> dict[int, np.ndarray]:
    """The epoch's pictures by sample id."""
    return {
        int(sample): picture
        for batch in loader.epoch(seed=3, **asked)
        for sample, picture in zip(batch.ids, batch["picture"], strict=True)
    }


def near(picture: np.ndarray, stored: np.ndarray) -> bool:
    """It is the stored one, shifted a little, with a little noise."""
    shifts = (np.roll(stored / 255, shift, axis=0) for shift in range(-2, 3))
    return any(np.abs(picture - shifted).max() < 0.1 for shifted in shifts)


def equal(some: dict[int, np.ndarray], others: dict[int, np.ndarray]) -> int:
    assert some.keys() == others.keys()
    return sum(np.array_equal(picture, others[sample]) for sample, picture in some.items())


if __name__ == "__main__":
    main()
