"""Sliding windows over rows in time order: pure arithmetic.

The law: window w is the rows w·stride .. w·stride + length - 1, and what stands at its end is the last of them. Rows
that fill no window are in none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows over so many rows."""

    rows: int
    length: int
    stride: int

    def __len__(self) -> int:
        return max(0, (self.rows - self.length) // self.stride + 1)

    def steps(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of these windows, one window after the other."""
        return ((windows * self.stride)[:, np.newaxis] + np.arange(self.length)).reshape(-1)

    def ends(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last row of each of these windows."""
        return windows * self.stride + (self.length - 1)
