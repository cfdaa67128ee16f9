"""stack: columns of single numbers, or of vectors, side by side as one column."""

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import StackTransform
from feedline_server.sources.arrays.casting import as_floats
from feedline_server.sources.ragged import values_of
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Transform, Trial, chosen
from feedline_wire.errors import DataError
from feedline_wire.tensors import Column


class Stack(Transform):
    """Some columns become one, in the order in which they are named."""

    def __init__(self, config: StackTransform, _declaration: Declaration) -> None:
        super().__init__(config.columns)
        self._into = config.into
        self._dtype = np.dtype(config.dtype)

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = chosen(specs, self._names)
        if wrong := [spec.column for spec in found.values() if spec.varies or len(spec.column.shape) > 1]:
            raise DataError(
                f"column {wrong[0]} is no number or vector of one length, and stacks want those; leave it out"
            )
        if wrong := [spec.column for spec in found.values() if spec.column.dtype.kind == "c"]:
            raise DataError(f"column {wrong[0]} is complex, and a stack is of {self._dtype}; leave it out")
        others = {name: spec for name, spec in specs.items() if name not in found}
        if self._into in others:
            raise DataError(f"there is a column {self._into!r} already; name the new one otherwise, into = …")
        width = sum(spec.column.shape[0] if spec.column.shape else 1 for spec in found.values())
        return {self._into: Spec(Column(self._into, self._dtype, (width,))), **others}

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        parts = [values_of(rows.columns.pop(name)).reshape(len(rows), -1) for name in self._names]
        out = rows.space(self._into, self._dtype, (len(rows), sum(part.shape[1] for part in parts)))
        at = 0
        for name, part in zip(self._names, parts, strict=True):
            out[:, at : at + part.shape[1]], lost = as_floats(part, self._dtype)
            at += part.shape[1]
            if len(lost):
                raise rows.bad(lost, f"column {name!r} has {part[lost[0]].max()}, which {self._dtype} cannot hold")
        rows.columns[self._into] = out
