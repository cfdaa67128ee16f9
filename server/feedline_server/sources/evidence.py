"""What people are shown of a bad sample: small pictures of its arrays, or a line of their values.

Made where the sample is at hand and kept beside the error, for the loader's page alone: it never travels to a trainer.
It is bounded whatever the sample is: at most NBYTES of pictures, and SCANNED values of an array are looked at. Making
it raises nothing: what is wrong with a sample must not be hidden by what is wrong with its picture.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feedline_server.sources.ragged import Ragged
from feedline_wire.tensors import Array

LEAST_SIDE, MOST_SIDE = 8, 128
"""Pixels of a picture: less is a table of numbers, more is left out, every second one or fewer being shown."""

PICTURES = 4
"""Samples of a batch that are drawn where it is not known which of them is the bad one."""

NBYTES = 64 << 10
"""Of the pictures of one error: one of MOST_SIDE in colour, and a mask. A loader keeps some 50 errors: 3 MiB."""

MOST_ARRAYS = 16
"""Of a sample: what a page can show beside each other."""

SCANNED = 1 << 14
"""Values of an array that are looked at for its smallest and largest: a fraction of a millisecond."""

VALUES = 12
"""That are written out, the first ones: a line."""

NAME_KEPT = 80
"""Characters of an array's name: code may name columns as it likes."""

NUMBERS = "buifc"
"""Kinds of dtypes that have values to show."""


@dataclass(frozen=True, slots=True)
class Picture:
    """uint8, C order: (height, width, 1 or 3)."""

    shape: tuple[int, ...]
    pixels: bytes


@dataclass(frozen=True, slots=True)
class ShownArray:
    """One array of a sample, or of a few."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    summary: str
    pictures: tuple[Picture, ...] = ()
    values: str = ""
    """The first ones; none where there are pictures."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is shown of one error."""

    title: str
    """What the arrays are, or why there are none."""
    arrays: tuple[ShownArray, ...] = ()
    id: str = field(default_factory=lambda: os.urandom(8).hex())
    """What a page asks for it by."""


def of_rows(title: str, columns: Mapping[str, Array | Ragged], first: int, count: int = 1) -> Evidence | None:
    """Of so many rows of a batch, the first PICTURES of them."""
    return of_arrays(title, ((name, _rows(column, first, min(count, PICTURES))) for name, column in columns.items()))


def of_sample(title: str, arrays: Mapping[str, Any]) -> Evidence | None:
    """Of one sample's arrays, or whatever else it holds, which is left out."""
    return of_arrays(title, ((name, value[np.newaxis]) for name, value in arrays.items() if is_shown(value)))


def of_arrays(title: str, arrays: Iterable[tuple[str, Array]]) -> Evidence | None:
    """Of arrays with a dimension of rows in front, by name; None if they cannot be looked at."""
    try:
        return Evidence(title, tuple(_shown(arrays)))
    except Exception:  # memory that is gone, a subclass of ndarray with ideas of its own
        return None


def is_shown(value: object) -> bool:
    """It is an array of numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS


def summary(values: Array, most: int = SCANNED) -> str:
    """The smallest, largest and mean of those that are finite, looking at `most` values."""
    step = -(-values.size // max(most, 1)) or 1
    finite = numbers(values.flat[::step])
    said = f"min {finite.min():g}, max {finite.max():g}, mean {finite.mean():.4g}" if finite.size else "no numbers"
    return f"{said} (of one value in {step})" if step > 1 else said


def numbers(values: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What can be drawn of values: those that are finite; of complex ones how large they are."""
    wide = np.abs(values).astype(np.float64) if values.dtype.kind == "c" else values.astype(np.float64)
    return wide[np.isfinite(wide)]


def pictures(values: Array, most_side: int = MOST_SIDE) -> Iterator[Picture]:
    """The rows, if they look like pictures: height, width and, if any, one or three colours, before them or behind."""
    if values.ndim == 3:
        values = values[..., np.newaxis]
    if values.ndim == 4 and values.shape[3] not in {1, 3} and values.shape[1] in {1, 3}:
        values = np.moveaxis(values, 1, 3)
    if values.ndim != 4 or values.shape[3] not in {1, 3} or values.dtype.kind not in "buif":
        return
    if min(values.shape[1:3]) < LEAST_SIDE:
        return
    step = -(-max(values.shape[1:3]) // most_side)
    for image in values[:, ::step, ::step]:
        pixels = image
        if image.dtype != np.uint8:
            wide = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
            low, high = wide.min(), wide.max()
            pixels = ((wide - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
        yield Picture(pixels.shape, np.ascontiguousarray(pixels).tobytes())


def _rows(column: Array | Ragged, first: int, count: int) -> Array:
    if isinstance(column, Ragged):  # as long as each is: only one of them is an array
        return column[first][np.newaxis]
    return column[first : first + count]


def _shown(arrays: Iterable[tuple[str, Array]]) -> Iterator[ShownArray]:
    left = NBYTES
    for place, (name, values) in enumerate(arrays):
        if place == MOST_ARRAYS:
            return
        of_array = []
        for picture in pictures(values, MOST_SIDE if len(values) == 1 else MOST_SIDE // 2):
            if len(picture.pixels) > left:
                break
            left -= len(picture.pixels)
            of_array.append(picture)
        shape = values.shape[1:] if len(values) == 1 else values.shape
        line = "" if of_array else _line(values)
        yield ShownArray(name[:NAME_KEPT], values.dtype.name, shape, summary(values), tuple(of_array), line)


def _line(values: Array) -> str:
    first = values.flat[:VALUES]
    form = "{:.5g}" if values.dtype.kind in "fc" else "{}"
    return " ".join(form.format(value) for value in first.tolist()) + (" …" if values.size > VALUES else "")
