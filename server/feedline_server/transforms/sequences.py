"""pad, truncate: how many steps a sample has. A sample's first dimension is its steps, whether it varies or not."""

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import PadTransform, TruncateTransform
from feedline_server.sources.ragged import Ragged, offsets_of, pad_into
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Transform
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column


class Pad(Transform):
    """Zeros behind each sample."""

    def __init__(self, config: PadTransform, _declaration: Declaration) -> None:
        super().__init__(config.columns)
        self._length = config.length

    def spec(self, spec: Spec) -> Spec:
        """See Transform."""
        column, steps = spec.column, _steps(spec, "padded")
        if not spec.varies and steps > self._length:
            raise DataError(
                f"column {column} cannot be padded to {self._length}: it has {steps} steps; "
                "give pad a larger length, or truncate it before"
            )
        return Spec(Column(column.name, column.dtype, (self._length, *column.shape[1:])))

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array | Ragged:
        """See Transform."""
        if not isinstance(column, Ragged):
            out = rows.space(name, column.dtype, (len(column), self._length, *column.shape[2:]))
            out[:, : column.shape[1]] = column
            out[:, column.shape[1] :] = 0
            return out
        if column.longest > self._length:
            long = np.flatnonzero(column.lengths > self._length)
            raise rows.bad(
                long,
                f"column {name!r} has {column.lengths[long[0]]} steps, more than the {self._length} it is padded to; "
                "give pad a larger length, or truncate before",
            )
        out = rows.space(name, column.values.dtype, (len(column), self._length, *column.values.shape[1:]))
        pad_into(out, column)
        return out


class Truncate(Transform):
    """The first or last steps of each sample."""

    def __init__(self, config: TruncateTransform, _declaration: Declaration) -> None:
        super().__init__(config.columns)
        self._length = config.length
        self._keeps_first = config.keep == "first"

    def spec(self, spec: Spec) -> Spec:
        """See Transform."""
        column, steps = spec.column, _steps(spec, "truncated")
        if spec.varies:
            return Spec(column, min(spec.longest, self._length))
        return Spec(Column(column.name, column.dtype, (min(steps, self._length), *column.shape[1:])))

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array | Ragged:
        """See Transform."""
        if isinstance(column, Ragged):
            return self._ragged(column)
        steps = min(column.shape[1], self._length)
        kept = column[:, :steps] if self._keeps_first else column[:, column.shape[1] - steps :]
        out = rows.space(name, column.dtype, kept.shape)
        out[...] = kept
        return out

    def _ragged(self, column: Ragged) -> Ragged:
        if column.longest <= self._length:
            return column
        lengths = np.minimum(column.lengths, self._length)
        offsets = offsets_of(lengths)
        starts = column.offsets[:-1] if self._keeps_first else column.offsets[1:] - lengths
        steps = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(column.values[steps], offsets)


def _steps(spec: Spec, done: str) -> int:
    if not spec.column.shape:
        raise DataError(f"column {spec.column} cannot be {done}: a sample is one value and has no steps")
    return spec.column.shape[0]
