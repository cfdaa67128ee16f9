"""What of a bad sample can be shown where the operator's code made it, or was to make it.

What was returned and does not fit is shown as it is. Where the code raised, the sample is nowhere but among the
variables of its functions. Only arrays of numbers, images and tensors are looked at, never text or objects: a variable
may hold a password, and the page is for who may read the data.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from feedline_server.host.user_code import users_frames
from feedline_server.sources.evidence import MOST_ARRAYS, PICTURES, Evidence, is_shown, of_arrays
from feedline_server.sources.python.returned import Found, leaves, written
from feedline_wire.tensors import Array

MOST_NBYTES = 16 << 20
"""Of a variable that is looked at: more is the data as a whole, not a sample, and may have to be read from a disk."""

ARRAYS_OF = frozenset({"PIL", "torch"})
"""Modules whose objects are asked for their array; what those of others do is not known."""


def held(raised: BaseException) -> Evidence | None:
    """The variables of the functions that were running when it was raised."""
    found = _arrays(_variables(raised))
    if not found:
        return Evidence("Nothing to show: the code raised before it returned anything, and no variable held an array.")
    title = "It returned nothing; what the code held in its variables when it raised"
    return of_arrays(title, ((name, value[np.newaxis]) for name, value in found.items()))


def returned(value: Found, *, is_batch: bool = False) -> Evidence | None:
    """What was returned and does not fit."""
    found = _arrays((written(path), leaf) for path, leaf in leaves(value, None))
    if not found:
        return Evidence("Nothing to show: what was returned holds no array of numbers.")
    if is_batch:
        rows = {name: array for name, array in found.items() if array.ndim}
        return of_arrays("The first rows of the batch as it was returned", ((n, a[:PICTURES]) for n, a in rows.items()))
    return of_arrays("The sample as it was returned", ((name, array[np.newaxis]) for name, array in found.items()))


def _variables(raised: BaseException) -> Iterator[tuple[str, Any]]:
    for frame in users_frames(raised):
        for name, value in frame.f_locals.items():
            yield f"{name} in {frame.f_code.co_name}", value


def _arrays(values: Iterable[tuple[str, Any]]) -> dict[str, Array]:
    """Those that are arrays, each once, by name."""
    found: dict[str, Array] = {}
    seen: set[int] = set()
    with suppress(Exception):  # keys that are no text, objects with ideas of their own
        for name, value in values:
            if id(value) not in seen and (array := _as_array(value)) is not None:
                seen.add(id(value))
                found[name] = array
                if len(found) == MOST_ARRAYS:
                    break
    return found


def _as_array(value: Any) -> Array | None:  # noqa: ANN401 - whatever a variable holds
    """The value as an array of numbers; None if it is none, or more than a sample."""
    if type(value).__module__.partition(".")[0] in ARRAYS_OF and hasattr(value, "__array__"):
        try:
            size = value.shape if hasattr(value, "shape") else value.size
            value = np.asarray(value) if math.prod(size) <= MOST_NBYTES else None
        except Exception:  # a file that is damaged, memory of a GPU
            return None
    if not is_shown(value) or not 0 < value.nbytes <= MOST_NBYTES:
        return None
    array: Array = value
    return array
