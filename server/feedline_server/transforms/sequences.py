"""pad, truncate: how many steps a sample has. A sample's first dimension is its steps, whether it varies or not."""

import numpy as np

from feedline_server.declared.transforms import PadTransform, TruncateTransform
from feedline_server.sources.ragged import Ragged, pad_into
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Trial, changed, chosen
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column


class Pad:
    """Zeros behind each sample."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: PadTransform) -> None:
        self._names = config.columns
        self._length = config.length

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = chosen(specs, self._names)
        return changed(specs, {name: self._spec(spec) for name, spec in found.items()})

    def _spec(self, spec: Spec) -> Spec:
        steps = _steps(spec, "padded")
        if not spec.varies and steps > self._length:
            raise DataError(
                f"column {spec.column} cannot be padded to {self._length}: it has {steps} steps; "
                "give pad a larger length, or truncate it before"
            )
        column = spec.column
        return Spec(Column(column.name, column.dtype, (self._length, *column.shape[1:])))

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            column = rows.columns[name]
            values = column.values if isinstance(column, Ragged) else column
            rest = values.shape[1:] if isinstance(column, Ragged) else values.shape[2:]
            lengths = column.lengths if isinstance(column, Ragged) else np.full(len(column), column.shape[1])
            if lengths.max(initial=0) > self._length:
                long = np.flatnonzero(lengths > self._length)
                raise rows.bad(
                    long,
                    f"column {name!r} has {lengths[long[0]]} steps, more than the {self._length} it is padded "
                    "to; give pad a larger length, or truncate before",
                )
            out = rows.space(name, values.dtype, (len(column), self._length, *rest))
            if isinstance(column, Ragged):
                pad_into(out, column)
            else:
                out[:, : column.shape[1]] = column
                out[:, column.shape[1] :] = 0
            rows.columns[name] = out


class Truncate:
    """The first or last steps of each sample."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: TruncateTransform) -> None:
        self._names = config.columns
        self._length = config.length
        self._keeps_first = config.keep == "first"

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        return changed(specs, {name: self._spec(spec) for name, spec in chosen(specs, self._names).items()})

    def _spec(self, spec: Spec) -> Spec:
        steps = _steps(spec, "truncated")
        if spec.varies:
            return Spec(spec.column, min(spec.longest, self._length))
        column = spec.column
        return Spec(Column(column.name, column.dtype, (min(steps, self._length), *column.shape[1:])))

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            column = rows.columns[name]
            if isinstance(column, Ragged):
                rows.columns[name] = self._ragged(column)
            else:
                out = rows.space(name, column.dtype, self._kept(column).shape)
                out[...] = self._kept(column)
                rows.columns[name] = out

    def _kept(self, column: Array) -> Array:
        steps = min(column.shape[1], self._length)
        return column[:, :steps] if self._keeps_first else column[:, column.shape[1] - steps :]

    def _ragged(self, column: Ragged) -> Ragged:
        if column.longest <= self._length:
            return column
        lengths = np.minimum(column.lengths, self._length)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        starts = column.offsets[:-1] if self._keeps_first else column.offsets[1:] - lengths
        steps = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(column.values[steps], offsets)


def _steps(spec: Spec, done: str) -> int:
    if not spec.column.shape:
        raise DataError(f"column {spec.column} cannot be {done}: a sample is one value and has no steps")
    return spec.column.shape[0]
