"""A batch, as its user sees it.

It owns its memory: the arrays stay what they are for as long as anybody holds them, whatever is fetched after.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline.reading.plan import Step
from feedline_wire.errors import InvalidRequest
from feedline_wire.tensors import Array


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch:
    """One batch. `x, y = batch` unpacks it; `batch["name"]` is a column, `batch.ids` says which samples these are."""

    data: Any  # Any: as nested as the dataset declares
    """The arrays, in the structure that the dataset declares: for example `(x, y)`."""
    ids: NDArray[np.int64]
    """The id of each row's sample; of a batch that the dataset's own code made, the number of that batch."""
    weights: NDArray[np.float32] | None
    """Under `remainder="pad"` 1 for each real row and 0 for padding, else None."""
    step: Step
    """Which batch it is."""
    columns: dict[str, Array]
    """The same arrays by column."""
    bad: NDArray[np.int64]
    """Ids of samples that cannot be read and were left out, or replaced by others; mostly none."""

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {array.dtype.name}{array.shape}" for name, array in self.columns.items())
        bad = f" bad={len(self.bad)}" if len(self.bad) else ""
        return f"<Batch epoch={self.epoch} index={self.index} rows={self.rows}{bad} columns=({columns})>"

    @property
    def epoch(self) -> int:
        """The epoch it belongs to."""
        return self.step.epoch

    @property
    def index(self) -> int:
        """Its number in the epoch."""
        return self.step.index

    @property
    def offset(self) -> int:
        """Position of the first row in the epoch's order."""
        return self.step.offset

    @property
    def rows(self) -> int:
        """Samples in the batch, padding included."""
        return len(next(iter(self.columns.values()), self.ids))

    @property
    def positions(self) -> int:
        """Positions of the order that it answers; more than its ids where bad samples were left out."""
        return len(self.ids) + (len(self.bad) if len(self.ids) < self.step.rows else 0)

    def __getitem__(self, column: str) -> Array:
        try:
            return self.columns[column]
        except KeyError:
            raise InvalidRequest(
                f"the batch has no column {column!r}; it has: {', '.join(self.columns)}; `x, y = batch` unpacks it"
            ) from None

    def __iter__(self) -> Iterator[Any]:
        """The parts of `data`, then the weights where there are any."""
        yield from self._parts()
        if self.weights is not None:
            yield self.weights

    def as_tuple(self) -> tuple[Any, ...]:
        """What Keras takes: `(x,)`, `(x, y)` or `(x, y, sample_weight)`; InvalidRequest if it is none of these."""
        parts = self._parts()
        if len(parts) > 3 or not parts:
            raise InvalidRequest(
                f"Keras takes (x,), (x, y) or (x, y, sample_weight); this batch has {len(parts)} parts"
            )
        if self.weights is None:
            return parts
        match parts:
            case (x, y):
                return (x, y, self.weights)
            case (x, y, np.ndarray() as weights):
                return (x, y, weights * self.weights.reshape(-1, *[1] * (weights.ndim - 1)))
        raise InvalidRequest(
            "padding needs a sample weight beside (x, y), and the dataset has no y; "
            "use remainder='short', 'drop' or 'wrap'"
        )

    def _parts(self) -> tuple[Any, ...]:
        return self.data if isinstance(self.data, tuple) else (self.data,)


def weights(rows: int, padding: int) -> NDArray[np.float32]:
    """1 for each row, 0 for the trailing padding."""
    ones = np.ones(rows, np.float32)
    ones[rows - padding :] = 0
    return ones
