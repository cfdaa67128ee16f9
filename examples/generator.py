"""A generator function, as an endless stream: `feedline serve code/my_generator.py:load --steps-per-epoch 30`."""

import os
import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

LENGTH, BATCH, STEPS, PER_EPOCH = 5000, 16, 20, 30

CODE = Path(__file__).parent / "code" / "my_generator.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # the generator reads `series.npy` of the folder in which the loader is started
        series = np.random.default_rng(0).permutation(LENGTH).astype(np.float32)  # each value tells where it is
        np.save("series.npy", series)
        at = {value: place for place, value in enumerate(series.tolist())}
        said = ["--steps-per-epoch", str(PER_EPOCH), "--log-level", "error"]  # not what a stream cannot promise
        with served(f"{CODE}:load", *said) as address, feedline.connect(address) as loader:
            assert dict(loader.dataset().views) == {"train": PER_EPOCH}
            starts: list[int] = []
            for epoch in range(2):
                batches = list(loader.epoch(epoch))
                assert len(batches) == PER_EPOCH
                for x, y in batches:
                    assert x.shape == (BATCH, STEPS, 1)
                    for window, following in zip(x[..., 0], y, strict=True):
                        start = at[float(window[0])]
                        np.testing.assert_array_equal(window, series[start : start + STEPS])
                        assert following == series[start + STEPS]
                        starts.append(start)
            # Two workers that drew the same numbers would send everything twice.
            assert len(set(starts)) > 0.85 * len(starts)
            assert "is a stream" in refusal(loader)
    print(f"{len(starts)} windows of a series, each as in its file, in {2 * PER_EPOCH} batches")


def refusal(loader: feedline.Loader) -> str:
    """A stream cannot be continued where it was left."""
    try:
        return f"a state: {loader.feed().state_dict()}"
    except feedline.InvalidRequest as error:
        return str(error)


if __name__ == "__main__":
    main()
