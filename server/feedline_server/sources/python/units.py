"""Ready batches that the operator's code made: units, with any number of rows each.

The law: all arrays of a unit have the same number of rows, and the rows of every unit have the shape and dtype of the
first unit's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from feedline_server.sources.python.returned import Form, Unfit, form_of
from feedline_server.sources.ragged import Ragged, joined
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column


class Units:
    """What units are made of, known from the first of them."""

    def __init__(self, first: Any, name: str, wanted: Sequence[str] | None) -> None:  # noqa: ANN401 - the operator's
        self._first_name = name
        self._columns: dict[str, Column] = {}
        try:
            self.form: Form = form_of(first, wanted)
            arrays = self._arrays(first)
        except Unfit as error:
            raise DataError(f"{name} {error}") from error
        self._columns = {name: Column(name, array.dtype, array.shape[1:]) for name, array in arrays.items()}
        self.longest = {name: len(array) for name, array in arrays.items()}

    @property
    def columns(self) -> tuple[Column, ...]:
        """A row of a unit."""
        return tuple(self._columns.values())

    def checked(self, value: Any, name: str) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        """A unit's arrays. Unfit if it is unlike the first."""
        arrays = self._arrays(value)
        for column in self.columns:
            array = arrays[column.name]
            if array.dtype != column.dtype or array.shape[1:] != column.shape:
                found = Column(column.name, array.dtype, array.shape[1:])
                raise Unfit(
                    f"has rows of {found}, {self._first_name} has {column}; give the rows of all batches one shape and "
                    "dtype: pad or cut them to one length where they are made"
                )
        return arrays

    def _arrays(self, value: Any) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        dtypes = {name: column.dtype for name, column in self._columns.items()} or None
        arrays = self.form.arrays(value, dtypes)
        for name, array in arrays.items():
            if not array.ndim:
                raise Unfit(f"holds the single number {array} in {name}; return arrays with a row for each sample")
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise Unfit(f"has columns of different numbers of rows ({rows}); give each as many as it has samples")
        return arrays


def together(units: Sequence[dict[str, Array]]) -> dict[str, Array | Ragged]:
    """Units as the columns of a batch, one sample a unit."""
    if len(units) == 1:  # nearly always: not copied
        offsets = {name: np.array([0, len(array)], np.int64) for name, array in units[0].items()}
        return {name: Ragged(array, offsets[name]) for name, array in units[0].items()}
    return {name: joined([unit[name] for unit in units]) for name in units[0]}


def kept(unit: dict[str, Array]) -> dict[str, Array]:
    """A unit that stays what it is: code may fill the same array for each batch."""
    return {name: array.copy() for name, array in unit.items()}
