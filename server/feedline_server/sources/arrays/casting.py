"""Floats of other numbers, and which of them they cannot hold: rounding that changes a number that counts or names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline_wire.tensors import Array


def as_floats(values: Array, dtype: "np.dtype[Any]") -> tuple[Array, NDArray[np.int64]]:
    """The values as floats; and the rows with a whole number that is another there, or with what becomes infinite.

    Floats are rounded, as measurements may be; integers are not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(dtype)
        # Compared as integers: as floats 2^53 + 1 would be equal to 2^53.
        lost = (
            found.astype(values.dtype) != values if values.dtype.kind in "iu" else np.isinf(found) & ~np.isinf(values)
        )
    return found, np.flatnonzero(lost.any(axis=tuple(range(1, lost.ndim))))
