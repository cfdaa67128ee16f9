"""cast, scale, normalise, one_hot: operations of the wire, done here; the trainer does those of `late` transforms."""

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import ElementwiseTransform
from feedline_server.sources.ragged import Ragged, values_of, with_values
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Transform
from feedline_wire.elementwise import Misfit
from feedline_wire.tensors import Array, Column


class ValueByValue(Transform):
    """One of the wire's operations on some columns."""

    def __init__(self, config: ElementwiseTransform, _declaration: Declaration) -> None:
        super().__init__(config.columns)
        self._operation = config.operation

    def spec(self, spec: Spec) -> Spec:
        """See Transform."""
        return Spec(self._operation.column(spec.column), spec.longest)

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array | Ragged:
        """See Transform."""
        values = values_of(column)
        comes_out = self._operation.column(Column(name, values.dtype, values.shape[1:]))
        out = rows.space(name, comes_out.dtype, (len(values), *comes_out.shape))
        try:
            return with_values(column, self._operation.apply(values, out))
        except Misfit as error:
            raise rows.bad_values(column, np.array(error.rows, np.int64), f"column {name!r}: {error}") from None
