"""A contiguous random block for each batch: `x[i * b : (i + 1) * b]` for another i, each block once an epoch."""

import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

SAMPLES, STEPS, CHANNELS = 1003, 50, 8
BATCH = 32


def make(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A long recording, cut into samples, with a label each."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SAMPLES, STEPS, CHANNELS), np.float32)
    y = rng.integers(0, 4, SAMPLES)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return x, y


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = make(folder)
        with served(folder) as address, feedline.connect(address) as loader:
            feed = loader.feed(order=f"blocks:{BATCH}:in-order", batch_size=BATCH, remainder="drop", seed=5)
            epochs = []
            for _ in range(2):
                blocks = []
                for batch in feed:
                    i = int(batch.ids[0]) // BATCH
                    block = slice(i * BATCH, (i + 1) * BATCH)
                    np.testing.assert_array_equal(batch["x"], x[block])
                    np.testing.assert_array_equal(batch["y"], y[block])
                    blocks.append(i)
                assert sorted(blocks) == list(range(SAMPLES // BATCH))
                epochs.append(blocks)
            assert epochs[0] != epochs[1]
    print(f"{SAMPLES // BATCH} blocks of {BATCH} samples as they lie, each once an epoch, in a new order every epoch")


if __name__ == "__main__":
    main()
