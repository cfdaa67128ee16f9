"""embed: each number becomes its row of a table, which may be larger than memory."""

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import EmbedTransform
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.mapped import is_large
from feedline_server.sources.arrays.stored import check_rows
from feedline_server.sources.ragged import Ragged
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Trial, changed, chosen
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column, wire_dtype


class Embed:
    """A look-up in an `.npy`, memory-mapped as columns are."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: EmbedTransform, declaration: Declaration) -> None:
        self._names = config.columns
        folder = declaration.path if declaration.path.is_dir() else declaration.path.parent
        with open_file(folder / config.table) as file:
            table = file.stored("x")
        check_rows(table)
        self._named = table.named
        self._size = table.header.shape[0]
        self._row = table.header.shape[1:]
        self._dtype = wire_dtype(table.header.dtype)
        self._rows = table.open(large=is_large(table.header.nbytes))
        self.content = (f"{table.header}".encode(), *table.content(content.COLUMN))
        """What stands for the table in the dataset's identity."""

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        return changed(specs, {name: self._spec(spec) for name, spec in chosen(specs, self._names).items()})

    def _spec(self, spec: Spec) -> Spec:
        column = spec.column
        if column.dtype.kind not in "iu":
            raise DataError(
                f"column {column} cannot be embedded: it wants whole numbers, rows of {self._named}; cast it before"
            )
        return Spec(Column(column.name, self._dtype, (*column.shape, *self._row)), spec.longest)

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            column = rows.columns[name]
            values = column.values if isinstance(column, Ragged) else column
            self._check(rows, name, column, values)
            out = rows.space(name, self._dtype, (*values.shape, *self._row))
            wanted = values.reshape(-1).astype(np.int64)
            if len(wanted):
                self._rows.announce(wanted)
                self._rows.gather(wanted, out.reshape(-1, *self._row))
            rows.columns[name] = column.with_values(out) if isinstance(column, Ragged) else out

    def _check(self, rows: Rows, name: str, column: Array | Ragged, values: Array) -> None:
        outside = (values < 0) | (values >= self._size)
        if not outside.any():
            return
        at = np.flatnonzero(outside.reshape(len(values), -1).any(1))
        if isinstance(column, Ragged):
            at = np.searchsorted(column.offsets, at, side="right") - 1
        found = values[outside].reshape(-1)[0]
        raise rows.bad(at, f"column {name!r} has {found}, but {self._named} has the rows 0..{self._size - 1}")
