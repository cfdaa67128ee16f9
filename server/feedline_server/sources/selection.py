"""Which samples a view holds: `start:stop`, or the ids in an `.npy` file.

A selection is not empty and lies inside the dataset; bounds are never clipped, because a view that is smaller than
declared is a mistake that must be an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.forms import SLICE
from feedline_server.sources.arrays import npy
from feedline_wire.errors import DataError
from feedline_wire.listing import counted


@dataclass(frozen=True, slots=True)
class Ranges:
    """Several ranges laid end to end: a view of some subjects costs nothing, however many samples they have."""

    parts: tuple[range, ...]
    starts: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """The place in the view at which each part begins, and the view's length."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.cumsum([0, *map(len, self.parts)], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        part = np.searchsorted(self.starts, places, side="right") - 1
        firsts = np.array([part.start for part in self.parts], np.int64)
        return places + (firsts - self.starts[:-1])[part]


Chosen: TypeAlias = range | NDArray[np.int64]
"""Sample ids in the view's order; a range where they are consecutive, so that a large view costs nothing."""

Selection: TypeAlias = Chosen | Ranges
"""The same; several ranges where that is what there is."""


def ids_at(selection: Selection, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sample ids at these places, all of them inside the selection."""
    return places + selection.start if isinstance(selection, range) else selection[places]


def declared(view: str, text: str, samples: int, folder: Path) -> Chosen:
    """The selection that a declared view means; DataError if it is empty or reaches outside the dataset."""
    if found := re.fullmatch(SLICE, text):
        return _slice(view, text, found.group(1), found.group(2), samples)
    return _ids_file(view, folder / text, samples)


def compact(ids: NDArray[np.int64]) -> Chosen:
    """The same ids; as a range if they are consecutive."""
    if len(ids) and ids[-1] - ids[0] == len(ids) - 1 and bool((np.diff(ids) == 1).all()):
        return range(int(ids[0]), int(ids[-1]) + 1)
    return ids


def join(parts: Iterable[range]) -> Selection:
    """The ranges laid end to end, those that follow each other as one."""
    joined: list[range] = []
    for part in parts:
        if joined and joined[-1].stop == part.start:
            joined[-1] = range(joined[-1].start, part.stop)
        elif part:
            joined.append(part)
    return joined[0] if len(joined) == 1 else Ranges(tuple(joined))


def leaks(views: Mapping[str, Chosen], name: Callable[[int], str] = str, what: str = "sample") -> Iterator[str]:
    """A sentence for every view that holds a sample twice and every two views that share samples."""
    for view, selection in views.items():
        if not isinstance(selection, range):
            ids, counts = np.unique(selection, return_counts=True)
            if len(ids) < len(selection):
                yield f"view {view!r} holds {counted(ids[counts > 1], what, name)} more than once"
    for (first, one), (second, other) in combinations(views.items(), 2):
        shared = _shared(one, other)
        if len(shared):
            yield (
                f"views {first!r} and {second!r} share {counted(shared, what, name)}: "
                "what is trained on is also measured on, unless that is meant"
            )


def _slice(view: str, text: str, first: str | None, last: str | None, samples: int) -> range:
    start, stop = int(first or 0), int(last) if last else samples
    start, stop = (bound + samples if bound < 0 else bound for bound in (start, stop))
    if not (0 <= start <= samples and 0 <= stop <= samples):
        raise DataError(f"view {view!r} is {text!r}, but there are {samples} samples; give bounds within 0..{samples}")
    if start >= stop:
        raise DataError(f"view {view!r} is {text!r} of {samples} samples, which is empty; give it samples or remove it")
    return range(start, stop)


def _ids_file(view: str, path: Path, samples: int) -> Chosen:
    with npy.opened(path) as file:
        header = npy.read_header(file, path)
        if header.dtype.kind not in "iu" or len(header.shape) != 1:
            raise DataError(f"{path}: found {header}; view {view!r} wants one row of whole numbers, the sample ids")
        ids = npy.read_array(file, path, header)
    if not len(ids):
        raise DataError(f"{path}: view {view!r} has no sample ids in it; give it some or remove the view")
    wrong = ids[(ids < 0) | (ids >= samples)]
    if len(wrong):
        raise DataError(f"{path}: view {view!r} names sample {wrong[0]}, but ids are 0..{samples - 1}")
    return compact(ids.astype(np.int64))


def _shared(one: Chosen, other: Chosen) -> Chosen:
    if isinstance(one, range) and isinstance(other, range):
        return range(max(one.start, other.start), min(one.stop, other.stop))
    if isinstance(one, range):
        one, other = other, one
    if isinstance(other, range):
        return np.unique(one[(one >= other.start) & (one < other.stop)])  # type: ignore[operator]  # an array here
    return np.intersect1d(one, other)
