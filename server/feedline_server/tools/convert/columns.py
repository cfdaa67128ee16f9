"""Which columns are written: without those that are dropped, and all but a target together as `x`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feedline_server.sources.arrays.casting import as_floats
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.tensors import Array

INPUTS, TARGET = "x", "y"
"""What the columns are called that a target makes of all."""

INDEX = "__index_level_0__"
"""A column that pandas writes into Parquet files: the row's number, mostly."""


@dataclass(frozen=True, slots=True)
class ColumnOptions:
    """What was said about columns on the command line."""

    target: str | None = None
    """The column that is `y`; all others are `x` together, float32. None: each column by itself."""
    codes: tuple[str, ...] = ()
    """Columns of text that become numbers."""
    floats: tuple[str, ...] = ()
    """Columns of floats although their first values are whole."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""

    def check(self, columns: list[str], source: object) -> None:
        """InvalidRequest if one is named that is not there, or if nothing is left."""
        targets = () if self.target is None else (self.target,)
        if unknown := [name for name in (*self.codes, *self.floats, *self.drop, *targets) if name not in columns]:
            raise InvalidRequest(f"{source}: has no column {unknown[0]!r}; it has: {', '.join(columns)}")
        left = set(columns) - {*self.drop, *targets}
        if not left or self.target in self.drop:
            raise InvalidRequest(f"{source}: no column is left {'beside the target' if targets else ''}; drop fewer")
        if targets and INDEX in left:
            raise InvalidRequest(
                f"{source}: {INDEX!r} is the index of a pandas DataFrame and would be part of x; leave it out with "
                f"--drop {INDEX}, or give it a name of its own if it is data"
            )

    def applied(self, columns: Mapping[str, Array], source: object, unit: str, first: int) -> dict[str, Array]:
        """What is written of some rows of all columns, the `first` row of which is that `unit` of the source.

        DataError naming column and unit of what float32 cannot hold.
        """
        kept = {name: array for name, array in columns.items() if name not in self.drop}
        for name in self.floats:
            kept[name] = kept[name].astype(np.float64)
        if self.target is None:
            return kept
        target = kept.pop(self.target)
        found = []
        for name, array in kept.items():
            if array.ndim > 1:
                raise InvalidRequest(
                    f"{source}: column {name!r} has {array.shape[1:]} values a sample, and --target puts single ones "
                    f"side by side; leave it out with --drop {name}, or leave --target out"
                )
            values, lost = as_floats(array, np.dtype(np.float32))
            if len(lost):
                raise DataError(
                    f"{source}: column {name!r} has {array[lost[0]]} in {unit} {first + lost[0]}, which float32 cannot "
                    f"hold, and x is float32; let it be rounded with --float {name}, leave it out with --drop {name}, "
                    "or leave --target out: then each column keeps its type"
                )
            found.append(values)
        return {INPUTS: np.stack(found, axis=1), TARGET: target}
