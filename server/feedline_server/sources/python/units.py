"""Ready batches that the operator's code makes, by number or as a stream: units, with any number of rows each.

All arrays of a unit have the same number of rows, and the rows of every unit have the shape and dtype of the first
unit's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.python.objects import Ids
from feedline_server.sources.python.returned import Form, Unfit, form_of, wanted
from feedline_server.sources.ragged import Ragged, joined
from feedline_wire.errors import BadSample
from feedline_wire.tensors import VARIES, Array, Column


class Units:
    """Units of objects that are laid end to end: what they are made of is known from the first of them."""

    def __init__(self, ids: Ids, config: PythonConfig) -> None:
        self._ids = ids
        self._config = config
        self.samples = len(ids)
        self.columns: tuple[Column, ...] = ()
        """A row of a unit."""

    def begin(self, first: Any, name: str) -> None:  # noqa: ANN401 - the operator's
        """Take the form of the first unit. BadSample if it has none."""
        self._first_name = name
        try:
            self.form: Form = form_of(first, wanted(self._config), self._config.drop)
            arrays = self._arrays(first)
        except Unfit as error:
            raise BadSample(f"{name} {error}") from error
        padded = {
            name for one in self._config.transforms if one.name in {"pad", "truncate"} for name in one.columns or ()
        }
        self.columns = tuple(
            Column(
                name, array.dtype, (VARIES, *array.shape[2:]) if name in padded and array.ndim > 1 else array.shape[1:]
            )
            for name, array in arrays.items()
        )
        self.unit_rows = 1
        self.longest: dict[str, int] = {}
        self._count(arrays)

    def vary(self, other: Any) -> None:  # noqa: ANN401 - the operator's
        """Let columns vary whose rows are of another length in this unit, as where each unit is padded by itself."""
        try:
            arrays = self._arrays(other)
        except Unfit:  # it is said when it is read
            return
        found = [(column, arrays[column.name]) for column in self.columns]
        self.columns = tuple(
            replace(column, shape=(VARIES, *column.shape[1:]))
            if column.shape and array.shape[1:2] != column.shape[:1] and array.shape[2:] == column.shape[1:]
            else column
            for column, array in found
        )
        self._count(arrays)

    def _count(self, arrays: Mapping[str, Array]) -> None:
        self.unit_rows = max([self.unit_rows, *map(len, arrays.values())])
        for column in self.columns:
            if VARIES in column.shape:
                steps = arrays[column.name].shape[1]
                self.longest[column.name] = max(steps, self.longest.get(column.name, 0))

    def forget(self) -> None:
        """Begin all epochs anew, as far as that can be."""

    def checked(self, value: Any) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        """A unit's arrays. Raises Unfit if it is unlike the first."""
        arrays = self._arrays(value)
        for column in self.columns:
            array = arrays[column.name]
            shape = array.shape[1:]
            fits = len(shape) == len(column.shape) and all(
                wanted in {VARIES, size} for wanted, size in zip(column.shape, shape, strict=True)
            )
            if array.dtype != column.dtype or not fits:
                found = Column(column.name, array.dtype, shape)
                raise Unfit(
                    f"has rows of {found}, {self._first_name} has {column}; give the rows of all batches one shape and "
                    "dtype: pad or cut them to one length where they are made, or have it done by transforms = "
                    f'[{{name = "pad", column = "{column.name}", length = {max([1, *shape[:1]])}}}] in loader.toml'
                )
        return arrays

    def _arrays(self, value: Any) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        arrays = self.form.arrays(value, {column.name: column.dtype for column in self.columns} or None)
        for name, array in arrays.items():
            if not array.ndim:
                raise Unfit(f"holds the single number {array} in {name}; return arrays with a row for each sample")
        rows = {name: len(array) for name, array in arrays.items()}
        if not max(rows.values()):
            raise Unfit("has no rows; give every batch at least one, and count in len() those that have some")
        if len(set(rows.values())) > 1:
            raise Unfit(f"has columns of different numbers of rows ({rows}); give each as many as it has samples")
        return arrays


def together(units: Sequence[dict[str, Array]]) -> dict[str, Array | Ragged]:
    """Units as the columns of a batch, one sample a unit."""
    if len(units) == 1:  # nearly always: not copied
        return {name: Ragged(array, np.array([0, len(array)], np.int64)) for name, array in units[0].items()}
    return {name: joined([unit[name] for unit in units]) for name in units[0]}


def copied(unit: dict[str, Array]) -> dict[str, Array]:
    """A unit that stays what it is: code may fill the same array for each batch."""
    return {name: array.copy() for name, array in unit.items()}
