"""A dataset whose every byte says where it belongs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Data:
    """Columns in a folder: `x` (rows of random bytes) and `y` (a row's own number)."""

    folder: Path
    samples: int
    row_nbytes: int


def write(folder: Path, samples: int, row_nbytes: int) -> Data:
    """Make it; the same samples and sizes are the same bytes."""
    folder.mkdir(parents=True)
    random = np.random.Generator(np.random.Philox(samples))
    np.save(folder / "x.npy", random.integers(0, 256, (samples, row_nbytes), np.uint8))
    np.save(folder / "y.npy", np.arange(samples))
    return Data(folder, samples, row_nbytes)
