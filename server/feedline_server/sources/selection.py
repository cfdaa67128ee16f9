"""Views, and which samples each holds: `start:stop`, or the ids in an `.npy` file.

A selection is not empty and lies inside the dataset; bounds are never clipped, because a view that is smaller than
declared is a mistake that must be an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.forms import SLICE
from feedline_server.sources.arrays import npy
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.listing import counted

FEW = 8
"""Views of which every two that share samples are named: at most 28 lines. Real datasets have three or four."""


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


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A named choice of a dataset's samples, in an order of its own."""

    name: str
    selection: Selection
    measure: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    """How long samples are, by id; None where no order needs it."""

    def __repr__(self) -> str:
        return f"<View {self.name} {self.samples} samples>"

    @property
    def samples(self) -> int:
        """How many samples the view has."""
        return len(self.selection)

    def ids(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample ids at these places (0..samples-1) of the view."""
        # Past the end of one view begins another: trained on what should be measured on, unnoticed.
        if len(indices) and int(indices.view(np.uint64).max()) >= len(self.selection):  # one below 0 is huge there
            raise InvalidRequest(
                f"view {self.name!r} has places 0..{self.samples - 1}; {indices.min()}..{indices.max()} were asked for"
            )
        return ids_at(self.selection, indices)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How long the samples at these places are: a Measure."""
        assert self.measure is not None, "samples that have an order by length are of different length"
        return self.measure(self.ids(indices))


def ids_at(selection: Selection, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sample ids at these places, all of them inside the selection."""
    return places + selection.start if isinstance(selection, range) else selection[places]


def check_ids(ids: NDArray[np.int64], samples: int) -> None:
    """InvalidRequest if an id is not one of 0..samples-1: a gather that clips would quietly give another sample."""
    if len(ids) and int(ids.view(np.uint64).max()) >= samples:  # one below 0 is huge there
        wrong = ids[(ids < 0) | (ids >= samples)]
        raise InvalidRequest(f"sample {wrong[0]} was asked for; ids are 0..{samples - 1}", samples=wrong[wrong >= 0])


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
    """Sentences about views that hold a sample twice, and about views that share samples: one of each for many views.

    n log n in views and ids.
    """
    doubled = {view: twice for view, selection in views.items() if len(twice := _twice(selection))}
    for view, twice in list(doubled.items())[: len(doubled) if len(doubled) <= FEW else 1]:
        more = f", and {len(doubled) - 1} more views hold some" if len(doubled) > FEW else ""
        yield f"view {view!r} holds {counted(twice, what, name)} more than once{more}"
    is_meant = "what is trained on is also measured on, unless that is meant"
    if len(views) <= FEW:
        for (first, one), (second, other) in combinations(views.items(), 2):
            if len(shared := _shared(one, other)):
                yield f"views {first!r} and {second!r} share {counted(shared, what, name)}: {is_meant}"
    elif pairs := overlaps(list(views.values())):
        names = list(views)
        sharing = {names[view] for pair in pairs for view in pair}
        first, second = (names[view] for view in pairs[0])
        some = counted(_shared(views[first], views[second]), what, name)
        yield (
            f"{len(sharing)} of {len(views)} views share samples with others, {first!r} and {second!r} {some} for "
            f"instance: {is_meant}"
        )


def overlaps(selections: Sequence[Chosen]) -> list[tuple[int, int]]:
    """Pairs that share samples, such that everyone that shares any is in one; n log n, however many pairs share."""
    runs = [_runs(selection) for selection in selections]
    starts, stops = (np.concatenate([one[end] for one in runs]) for end in (0, 1))
    owners = np.repeat(np.arange(len(runs)), [len(one[0]) for one in runs])
    order = np.lexsort((stops, starts))
    starts, stops, owners = starts[order], stops[order], owners[order]
    reach = np.maximum.accumulate(stops)
    # Of the runs until here, the one that reaches furthest: what begins before its end overlaps it.
    furthest = np.maximum.accumulate(np.where(stops == reach, np.arange(len(stops)), 0))
    into = np.flatnonzero(starts[1:] < reach[:-1])
    pairs = np.sort(np.stack([owners[furthest[into]], owners[into + 1]], axis=1), axis=1)
    return [(int(one), int(other)) for one, other in np.unique(pairs, axis=0)]


def _twice(selection: Chosen) -> NDArray[np.int64]:
    """The samples that it holds more than once."""
    if isinstance(selection, range):
        return np.zeros(0, np.int64)
    ids, counts = np.unique(selection, return_counts=True)
    return ids[counts > 1]


def _runs(selection: Chosen) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where its ids that follow each other begin, and where they end."""
    if isinstance(selection, range):
        return np.array([selection.start]), np.array([selection.stop])
    ids = np.unique(selection)
    edges = np.flatnonzero(np.diff(ids) != 1) + 1
    return ids[np.concatenate([[0], edges])], ids[np.concatenate([edges, [len(ids)]]) - 1] + 1


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
