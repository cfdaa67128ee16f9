"""The endless reader over CIFAR-like arrays: a batch that runs past the end of the data continues at its beginning."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from serving import served

import feedline

IMAGES, BATCH, BATCHES = 1000, 128, 25


def make(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of the form that CIFAR-10 has: uint8 images of (32, 32, 3), labels of (1,)."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    y = rng.integers(0, 10, (IMAGES, 1), np.uint8)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return x, y


def plain(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The reader that one writes by hand."""
    at = 0
    while True:
        end = at + BATCH
        if end <= len(x):
            yield x[at:end], y[at:end]
        else:
            yield np.concatenate([x[at:], x[: end - len(x)]]), np.concatenate([y[at:], y[: end - len(x)]])
        at = end % len(x)


def endless(feed: feedline.Feed) -> Iterator[feedline.Batch]:
    """Epoch after epoch; batches lie end to end over them."""
    while True:
        yield from feed


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = make(folder)
        with served(folder) as address, feedline.connect(address) as loader:
            feed = loader.feed(order="sequential", batch_size=BATCH, remainder="wrap")
            across = 0
            for _, (expected_x, expected_y), batch in zip(range(BATCHES), plain(x, y), endless(feed), strict=False):
                np.testing.assert_array_equal(batch["x"], expected_x)
                np.testing.assert_array_equal(batch["y"], expected_y)
                across += batch.ids[0] > batch.ids[-1]
            assert across == BATCHES * BATCH // IMAGES
    print(f"{BATCHES} batches of {BATCH} images, {across} of them over the end of the data: just the plain reader's")


if __name__ == "__main__":
    main()
