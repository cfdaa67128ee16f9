"""embed: each number becomes its row of a table, which may be larger than memory."""

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import EmbedTransform
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.mapped import is_large
from feedline_server.sources.arrays.stored import check_rows
from feedline_server.sources.ragged import Ragged, values_of, with_values
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Transform
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column, wire_dtype


class Embed(Transform):
    """A look-up in an `.npy`, memory-mapped as columns are."""

    def __init__(self, config: EmbedTransform, declaration: Declaration) -> None:
        super().__init__(config.columns)
        folder = declaration.path if declaration.path.is_dir() else declaration.path.parent
        with open_file(folder / config.table) as file:
            self._table = check_rows(file.stored("x"))
        self._size, *self._row = self._table.header.shape
        self._dtype = wire_dtype(self._table.header.dtype)
        self._rows = self._table.open(large=is_large(self._table.header.nbytes))
        self.content = (f"{self._table.header}".encode(), *self._table.content(content.COLUMN))

    def spec(self, spec: Spec) -> Spec:
        """See Transform."""
        column = spec.column
        if column.dtype.kind not in "iu":
            raise DataError(
                f"column {column} cannot be embedded: it wants whole numbers, rows of {self._table.named}; "
                "cast it before"
            )
        return Spec(Column(column.name, self._dtype, (*column.shape, *self._row)), spec.longest)

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array | Ragged:
        """See Transform."""
        values = values_of(column)
        outside = (values < 0) | (values >= self._size)
        if outside.any():
            at = np.flatnonzero(outside.reshape(len(values), -1).any(1))
            found = f"column {name!r} has {values[outside].reshape(-1)[0]}"
            raise rows.bad_values(column, at, f"{found}, but {self._table.named} has the rows 0..{self._size - 1}")
        out = rows.space(name, self._dtype, (*values.shape, *self._row))
        wanted = values.reshape(-1).astype(np.int64)
        if len(wanted):
            self._rows.announce(wanted)
            self._rows.gather(wanted, out.reshape(-1, *self._row))
        return with_values(column, out)
