"""What can be done to a column value by value: cast, scale, normalise, one_hot.

The same values come out wherever it is done. The loader does it, or the trainer after the batch arrived where the
dataset defers it, which spares the wire what only makes the bytes more. The list is closed: no name that arrives is
looked up and called.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import DataError, ProtocolMismatch
from feedline_wire.tensors import DTYPES, Array, Column

FLOATS = ("float16", "float32", "float64")
"""What scaled and normalised values may be."""

MOST_CLASSES = 1 << 20
"""Of a one-hot column: beyond it a single label takes megabytes of zeros."""

LONG_ROW = 4096
"""Values: 16 KiB of them stay in the processor's first cache, and a row's own cost is forgotten."""

ROWS_NAMED = 16
"""Rows that a Misfit names at most."""


class Misfit(ValueError):
    """Some values cannot become what they should; `rows` says where on the first axis, the first few.

    Not a FeedlineError: the caller knows column and samples, and raises one that names them.
    """

    def __init__(self, message: str, rows: Iterable[int]) -> None:
        super().__init__(message)
        self.rows = tuple(int(row) for row in rows)[:ROWS_NAMED]


@dataclass(frozen=True, slots=True)
class Cast:
    """Another dtype. Fractions are cut off; a value that the dtype cannot hold is a Misfit, never another value."""

    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise DataError(f"cast to {self.dtype!r}; there is: {', '.join(sorted(DTYPES))}")

    def column(self, column: Column) -> Column:
        """The column as it will be. DataError if it cannot be cast."""
        wanted = _little_endian(self.dtype)
        if column.dtype.kind == "c" and wanted.kind != "c":
            raise DataError(f"column {column} cannot be cast to {self.dtype}: of complex numbers half would be lost")
        return Column(column.name, wanted, column.shape)

    def apply(self, array: Array, out: Array | None = None) -> Array:
        """The values in the dtype, in `out` if it is given. Misfit if one does not fit."""
        wanted = _little_endian(self.dtype)
        outside = _outside(array, wanted)
        if outside is not None:
            raise _misfit(array, outside, f"cannot be {self.dtype}")
        out = np.empty(array.shape, wanted) if out is None else out
        np.copyto(out, array, casting="unsafe")
        return out


@dataclass(frozen=True, slots=True)
class Scale:
    """x * factor / divide_by + offset, computed in `dtype`; what changes nothing is left out, so x / 255 is exact."""

    factor: float = 1.0
    divide_by: float = 1.0
    offset: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_float("scale", self.dtype)
        _check_numbers("scale", (self.factor, self.divide_by, self.offset))
        if not self.divide_by:
            raise DataError("scale divides by 0; give divide_by another value, such as 255")

    def column(self, column: Column) -> Column:
        """The column as it will be. DataError if it cannot be scaled."""
        return _as_float("scaled", column, self.dtype)

    def apply(self, array: Array, out: Array | None = None) -> Array:
        """The scaled values, in `out` if it is given."""
        wanted = _little_endian(self.dtype)
        out = np.empty(array.shape, wanted) if out is None else out
        steps = [(np.multiply, self.factor, 1.0), (np.divide, self.divide_by, 1.0), (np.add, self.offset, 0.0)]
        with np.errstate(all="ignore"):  # infinities stay what they are; whether they may be is the dataset's to say
            values = array
            for step, number, nothing in steps:
                if number != nothing:
                    # Cast and computed in one pass over pieces that fit the cache.
                    values = step(values, wanted.type(number), out=out, dtype=wanted, casting="unsafe")
            if values is array:
                np.copyto(out, array, casting="unsafe")
        return out


@dataclass(frozen=True, slots=True)
class Normalise:
    """(x - mean) / std, computed in `dtype`; one number each, or one for each place on the last axis."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_float("normalise", self.dtype)
        _check_numbers("normalise", (*self.mean, *self.std))
        if not self.mean or not self.std or 1 not in {len(self.mean), len(self.std), len(self.mean) / len(self.std)}:
            raise DataError(
                f"normalise has {len(self.mean)} means and {len(self.std)} deviations; give as many of each"
            )
        if not all(_little_endian(self.dtype).type(deviation) > 0 for deviation in self.std):
            raise DataError(f"normalise divides by {min(self.std)}; every std must be more than 0 as {self.dtype}")

    def column(self, column: Column) -> Column:
        """The column as it will be. DataError if it cannot be normalised."""
        numbers = max(len(self.mean), len(self.std))
        last = column.shape[-1] if column.shape else None
        if numbers > 1 and last != numbers:
            raise DataError(
                f"column {column} cannot be normalised with {numbers} means or deviations: they are for the places on "
                f"the last axis, which {'there is none of' if last is None else 'has another size'}; give one number"
            )
        return _as_float("normalised", column, self.dtype)

    def apply(self, array: Array, out: Array | None = None) -> Array:
        """The normalised values, in `out` if it is given."""
        wanted = _little_endian(self.dtype)
        out = np.empty(array.shape, wanted) if out is None else out
        rows, out_rows = _in_long_rows(array, out) if max(len(self.mean), len(self.std)) > 1 else (array, out)
        mean, std = (_along(numbers, wanted, rows) for numbers in (self.mean, self.std))
        with np.errstate(all="ignore"):
            np.subtract(rows, mean, out=out_rows, dtype=wanted, casting="unsafe")
            np.divide(out_rows, std, out=out_rows)
        return out


@dataclass(frozen=True, slots=True)
class OneHot:
    """An axis more, of `classes`: 1 at the place of the class number, 0 elsewhere. Another number is a Misfit."""

    classes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise DataError(f"one_hot as {self.dtype!r}; there is: {', '.join(sorted(DTYPES))}")
        if not 1 <= self.classes <= MOST_CLASSES:
            raise DataError(f"one_hot with {self.classes} classes; give 1..{MOST_CLASSES}, or leave the numbers")

    def column(self, column: Column) -> Column:
        """The column as it will be. DataError if it does not hold class numbers."""
        if column.dtype.kind not in "biu":
            raise DataError(f"column {column} cannot be one-hot: class numbers are integers; cast it to int64 first")
        return Column(column.name, _little_endian(self.dtype), (*column.shape, self.classes))

    def apply(self, array: Array, out: Array | None = None) -> Array:
        """Shape (*array.shape, classes), in `out` if it is given. Misfit if a number is no class."""
        outside = (array < 0) | (array >= self.classes) if array.dtype.kind != "b" else array & (self.classes < 2)
        if outside.any():
            raise _misfit(array, outside, f"is no class of 0..{self.classes - 1}")
        out = np.empty((*array.shape, self.classes), _little_endian(self.dtype)) if out is None else out
        out[...] = 0
        np.put_along_axis(out, array.astype(np.intp)[..., None], 1, axis=-1)
        return out


Elementwise: TypeAlias = Cast | Scale | Normalise | OneHot

Deferred: TypeAlias = tuple[str, Elementwise]
"""A column's name, and what the trainer does to it."""


# ---- on the wire ----


_NAMES: dict[type[Elementwise], str] = {Cast: "cast", Scale: "scale", Normalise: "normalise", OneHot: "one_hot"}
"""In `Deferred`; each message has the fields of its class."""


def to_messages(deferred: Iterable[Deferred]) -> list[pb.Deferred]:
    """Deferred operations, as they travel."""
    return [pb.Deferred(column=column, **{_NAMES[type(one)]: asdict(one)}) for column, one in deferred]


def from_messages(messages: Iterable[pb.Deferred]) -> tuple[Deferred, ...]:
    """The deferred operations that arrived. ProtocolMismatch if one cannot be done here."""
    return tuple([(message.column, _from_message(message)) for message in messages])


def _from_message(message: pb.Deferred) -> Elementwise:
    try:
        match message.WhichOneof("operation"):
            case "cast":
                return Cast(message.cast.dtype)
            case "scale":
                scale = message.scale
                return Scale(scale.factor, scale.divide_by, scale.offset, scale.dtype)
            case "normalise":
                normalise = message.normalise
                return Normalise(tuple(normalise.mean), tuple(normalise.std), normalise.dtype)
            case "one_hot":
                return OneHot(message.one_hot.classes, message.one_hot.dtype)
    except DataError as error:
        raise ProtocolMismatch(f"column {message.column!r} is to be finished here, wrongly: {error}") from error
    raise ProtocolMismatch(
        f"column {message.column!r} is to be finished here in a way that this side does not know; upgrade feedline"
    )


def columns_after(columns: Iterable[Column], deferred: Iterable[Deferred]) -> tuple[Column, ...]:
    """The columns after the deferred operations. DataError if something is for no column, or not for it."""
    after = {column.name: column for column in columns}
    for name, operation in deferred:
        if name not in after:
            raise DataError(f"there is no column {name!r} to finish; the columns are {', '.join(after)}")
        after[name] = operation.column(after[name])
    return tuple(after.values())


# ---- inside ----


def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _check_float(name: str, dtype: str) -> None:
    if dtype not in FLOATS:
        raise DataError(f"{name} to {dtype!r}; its values are one of: {', '.join(FLOATS)}")


def _check_numbers(name: str, numbers: Sequence[float]) -> None:
    strange = [number for number in numbers if not math.isfinite(number)]
    if strange:
        raise DataError(f"{name} with {strange[0]}; give numbers")


def _as_float(done: str, column: Column, dtype: str) -> Column:
    if column.dtype.kind == "c":
        raise DataError(f"column {column} cannot be {done}: of complex numbers half would be lost")
    return Column(column.name, _little_endian(dtype), column.shape)


def _in_long_rows(array: Array, out: Array) -> tuple[Array, Array]:
    """Both as tables with rows of some thousand values, or as they are where that would be a copy.

    numpy computes row by row: three numbers for the three colours of a pixel would cost eight times as much.
    """
    if not (array.size and array.flags.c_contiguous and out.flags.c_contiguous):
        return array, out
    axis, length = array.ndim - 1, array.shape[-1]
    while axis > 0 and length < LONG_ROW:
        axis -= 1
        length *= array.shape[axis]
    return array.reshape(-1, length), out.reshape(-1, length)


def _along(numbers: tuple[float, ...], dtype: np.dtype[Any], rows: Array) -> Any:  # noqa: ANN401  # what numpy broadcasts
    """One number, or those for the places of a last axis repeated as often as it lies in a row."""
    if len(numbers) == 1:
        return dtype.type(numbers[0])
    return np.tile(np.array(numbers, dtype), rows.shape[-1] // len(numbers))


def _outside(array: Array, wanted: np.dtype[Any]) -> Array | None:
    """Where values do not fit a dtype; None if all do. As good as free where the dtypes say so already."""
    if not array.size or wanted.kind in "bc" or np.can_cast(array.dtype, wanted, "safe"):
        return None
    least, most = array.min().item(), array.max().item()  # Python compares its numbers exactly; nan is never inside
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if limits.min <= least and most < limits.max + 1:
            return None
        if array.dtype.kind == "f":  # the ends are powers of two, so exact in float64
            wide = array.astype(np.float64)
            return ~((wide >= float(limits.min)) & (wide < float(limits.max + 1)))
        return (array < limits.min) | (array > limits.max)
    largest = float(np.finfo(wanted).max)
    if -largest <= least and most <= largest:
        return None
    outside = np.isfinite(array) & ((array > largest) | (array < -largest))  # what was infinite stays so
    return outside if outside.any() else None


def _misfit(array: Array, outside: Array, what: str) -> Misfit:
    first = array[outside].reshape(-1)[0].item()
    rows = np.flatnonzero(outside.reshape(len(array), -1).any(1)) if array.ndim else ()
    return Misfit(f"the value {first} {what}", rows)
