"""A batch: how it is made of the arrays that arrived, and what its user sees.

A batch owns its memory: its arrays do not change while they are held, whatever is fetched after. It is shorter than its
step only by the samples that it names as bad; each remaining row keeps the weight of its own position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from feedline.connection.description import DatasetInfo
from feedline.reading.plan import Step
from feedline_wire import BAD, IDS
from feedline_wire.errors import BadSample, InvalidRequest, ProtocolMismatch
from feedline_wire.key import Key, to_text
from feedline_wire.tensors import Array

NOTHING_BAD = np.empty((0, 2), np.int64)
"""Of datasets whose batches carry no list of bad samples."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch:
    """One batch of numpy arrays. `x, y = batch` unpacks it; `batch["name"]` is one column, of shape `(rows, ...)`.

    Its memory belongs to the caller and is never reused while an array of it is held.
    """

    data: Any  # Any: as nested as the dataset declares
    """The arrays, in the structure that the dataset declares: for example `(x, y)`."""
    ids: NDArray[np.int64]
    """The id of each row's sample; of a batch that the dataset's own code made, the number of that batch."""
    weights: NDArray[np.float32] | None
    """Shape `(rows,)`: under `remainder="pad"` 1 for each real row and 0 for padding, else None."""
    step: Step
    """Its place in the plan."""
    columns: dict[str, Array]
    """The same arrays by column name."""
    bad: NDArray[np.int64]
    """Ids of samples that cannot be read and were left out, or replaced by others; mostly none."""
    identity: Key
    """What the loader was asked for."""

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {array.dtype.name}{array.shape}" for name, array in self.columns.items())
        bad = f" bad={len(self.bad)}" if len(self.bad) else ""
        return f"<Batch epoch={self.epoch} index={self.index} rows={self.rows}{bad} columns=({columns})>"

    @property
    def key(self) -> str:
        """What this batch is, as `feedline peek --batch-key` takes it: from any loader, also when the run is over."""
        return to_text(self.identity)

    @property
    def epoch(self) -> int:
        """The epoch it belongs to."""
        return self.step.epoch

    @property
    def index(self) -> int:
        """Its number in the epoch, from 0."""
        return self.step.index

    @property
    def offset(self) -> int:
        """Position of the first row in the epoch's order."""
        return self.step.offset

    @property
    def rows(self) -> int:
        """Rows of its arrays, padding included."""
        return len(next(iter(self.columns.values()), self.ids))

    @property
    def positions(self) -> int:
        """Positions of the order that it answers; more than its ids where bad samples were left out."""
        return len(self.ids) + (len(self.bad) if len(self.ids) < self.step.rows else 0)

    def __len__(self) -> int:
        """How many parts unpacking it gives: 2 of `x, y = batch`. Its rows are `rows`."""
        return len(self._parts()) + (self.weights is not None)

    @overload
    def __getitem__(self, part: str) -> Array: ...
    @overload
    def __getitem__(self, part: int | slice) -> Any: ...  # noqa: ANN401  # as nested as the dataset declares
    def __getitem__(self, part: str | int | slice) -> Any:
        """A column by its name, or a part by its place, as of the tuple that unpacking gives. Raises IndexError."""
        if not isinstance(part, str):
            return tuple(self)[part]
        try:
            return self.columns[part]
        except KeyError:
            raise InvalidRequest(
                f"the batch has no column {part!r}; it has: {', '.join(self.columns)}; `x, y = batch` unpacks it"
            ) from None

    def __iter__(self) -> Iterator[Any]:
        """The parts of `data`, then the weights where there are any."""
        yield from self._parts()
        if self.weights is not None:
            yield self.weights

    def as_tuple(self) -> tuple[Any, ...]:
        """What Keras takes: `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Raises InvalidRequest if it is none of these.

        Padding is marked by a sample weight of 0.
        """
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


def from_arrays(arrays: dict[str, Array], step: Step, key: Key, dataset: DatasetInfo, *, is_padded: bool) -> Batch:
    """The batch of a step, of the arrays that arrived for it: after its deferred transforms, with weights if padded.

    Takes `ids` and `bad` out of `arrays`. Raises BadSample, naming them, if samples have values that a deferred
    transform cannot take; ProtocolMismatch if the rows that are missing are not those named as bad.
    """
    ids = arrays.pop(IDS)
    bad = arrays.pop(BAD, NOTHING_BAD)
    columns = _transformed(arrays, dataset, ids) if dataset.deferred else arrays
    present = None if len(ids) == step.rows else rows_present(bad[:, 0], step.rows, len(ids))
    weights: NDArray[np.float32] | None = None
    if is_padded:
        weights = np.ones(step.rows, np.float32)
        weights[step.rows - step.padding :] = 0
        if dataset.is_batched:  # one position is all rows of a batch
            weights = np.repeat(weights, max((len(array) for array in columns.values()), default=1))
        elif present is not None:
            weights = weights[present]
    return Batch(dataset.build(columns), ids, weights, step, columns, bad[:, 1], key)


def rows_present(left_out: NDArray[np.int64], wanted: int, arrived: int) -> NDArray[np.int64] | None:
    """Which of the `wanted` rows are in a batch of `arrived` rows, where some were left out; None if all are.

    Raises ProtocolMismatch if the rows left out are not those missing.
    """
    if arrived == wanted:
        return None
    rows = np.setdiff1d(np.arange(wanted), left_out)
    if len(rows) != arrived or len(left_out) != wanted - arrived:
        raise ProtocolMismatch(
            f"a batch of {wanted} rows came with {arrived}, and rows {left_out.tolist()} are named as left out"
        )
    return rows


def _transformed(arrays: dict[str, Array], dataset: DatasetInfo, ids: NDArray[np.int64]) -> dict[str, Array]:
    """The columns after the dataset's deferred transforms; those that none touches are the same arrays."""
    from feedline_wire.elementwise import Misfit  # as in connection.description

    columns = dict(arrays)
    for name, transform in dataset.deferred:
        values = columns[name]
        try:
            columns[name] = transform.apply(values)
        except Misfit as misfit:
            # Of batches made by the dataset's own code the ids are of batches, and the rows say nothing about them.
            samples = ids[list(misfit.rows)] if len(values) == len(ids) else ids
            named = ", ".join(map(str, samples.tolist()))
            raise BadSample(
                f"column {name!r} of {dataset.name!r}, sample {named}: {misfit} (the deferred transform is "
                f"{transform}); correct the data or the loader's declaration",
                samples=samples,
            ) from misfit
    return columns
