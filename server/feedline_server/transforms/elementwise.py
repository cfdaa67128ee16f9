"""cast, scale, normalise, one_hot: what the wire knows how to do, done here."""

import numpy as np

from feedline_server.declared.transforms import ElementwiseTransform
from feedline_server.sources.ragged import Ragged
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Trial, changed, chosen
from feedline_wire.elementwise import Misfit
from feedline_wire.tensors import Array, Column


class ValueByValue:
    """One of the wire's operations on some columns."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: ElementwiseTransform) -> None:
        self._names = config.columns
        self._operation = config.operation

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = chosen(specs, self._names).items()
        return changed(specs, {name: Spec(self._operation.column(spec.column), spec.longest) for name, spec in found})

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            column = rows.columns[name]
            if isinstance(column, Ragged):
                rows.columns[name] = column.with_values(self._applied(rows, name, column.values, column))
            else:
                rows.columns[name] = self._applied(rows, name, column, None)

    def _applied(self, rows: Rows, name: str, values: Array, ragged: Ragged | None) -> Array:
        out = self._space(rows, name, values)
        try:
            return self._operation.apply(values, out)
        except Misfit as error:
            bad = np.array(error.rows, np.int64)
            if ragged is not None:  # a step of which sample?
                bad = np.searchsorted(ragged.offsets, bad, side="right") - 1
            raise rows.bad(bad, f"column {name!r}: {error}") from None

    def _space(self, rows: Rows, name: str, values: Array) -> Array:
        spec = self._operation.column(_as_column(name, values))
        return rows.space(name, spec.dtype, (len(values), *spec.shape))


def _as_column(name: str, values: Array) -> Column:
    return Column(name, values.dtype, values.shape[1:])
