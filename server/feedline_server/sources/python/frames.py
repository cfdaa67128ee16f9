"""A pandas DataFrame as samples: each row is a dict of numbers. pandas is recognised by name and never imported here.

Columns are taken out of it once: a row of a DataFrame takes a hundred times as long as one of its arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from feedline_wire.errors import DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import Array

REMEDY = "make numbers of them or leave them out in the module, such as"


def is_frame(value: object) -> bool:
    """It is a pandas DataFrame."""
    return any(kind.__name__ == "DataFrame" and kind.__module__.startswith("pandas") for kind in type(value).__mro__)


class Rows:
    """The rows of a DataFrame."""

    def __init__(self, frame: Any, reference: str) -> None:  # noqa: ANN401 - pandas'
        """DataError naming the columns that are no numbers, or have no value, and what to do about them."""
        names = [str(name) for name in frame.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{reference}: the DataFrame has several columns {twice[0]!r}; give each a name of its own")
        series = {name: frame.iloc[:, place] for place, name in enumerate(names)}
        self.categories = {name: _categories(one) for name, one in series.items() if _is_coded(one)}
        """What the numbers of a categorical column stand for."""
        empty = {name: int(one.isna().sum()) for name, one in series.items() if one.dtype.kind != "f"}
        if missing := {name: count for name, count in empty.items() if count}:
            counts = listed(f"{name} in {count:,} of {len(frame):,} rows" for name, count in missing.items())
            name = next(iter(missing))
            raise DataError(
                f"{reference}: columns have no value: {counts}; {REMEDY} df[{name!r}] = df[{name!r}].fillna(0)"
            )
        arrays = {name: _array(one) for name, one in series.items()}
        if wrong := {name: series[name].dtype for name, array in arrays.items() if array.dtype.kind not in "biufc"}:
            name = next(iter(wrong))
            raise DataError(
                f"{reference}: columns are no numbers: {listed(f'{one} ({kind})' for one, kind in wrong.items())}; "
                f"{REMEDY} df[{name!r}] = df[{name!r}].astype('category'), or df = df.drop(columns={list(wrong)})"
            )
        self._arrays: Mapping[str, Array] = arrays
        self._length = len(frame)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: array[row] for name, array in self._arrays.items()}


def _is_coded(series: Any) -> bool:  # noqa: ANN401 - pandas'
    return hasattr(series, "cat")


def _categories(series: Any) -> tuple[str, ...]:  # noqa: ANN401 - pandas'
    return tuple(map(str, series.cat.categories))


def _array(series: Any) -> Array:  # noqa: ANN401 - pandas'
    if _is_coded(series):
        return np.asarray(series.cat.codes, np.int64)
    return np.asarray(series.to_numpy(getattr(series.dtype, "numpy_dtype", None)))
