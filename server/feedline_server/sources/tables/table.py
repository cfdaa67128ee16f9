"""Columns of one length, and parts of such columns as views: what every kind of data with a row a sample ends as."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from feedline_server.host import machine
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.mapped import is_large, most_ahead
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Extent, Stored
from feedline_server.sources.selection import check_ids, declared, leaks
from feedline_server.sources.source import Opened, Source
from feedline_server.sources.tables.concatenated import Concatenated
from feedline_wire.errors import DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import Array, Column, wire_dtype

Part = TypeVar("Part")

EVERYTHING = "train"
"""The one view of data that says nothing about views."""


class Columns:
    """Columns of one length: arrays in files, by name."""

    def __init__(self, arrays: Mapping[str, Stored], *, large: bool) -> None:
        self._arrays = arrays
        self._rows = {name: array.open(large=large) for name, array in arrays.items()}
        headers = {name: array.header for name, array in arrays.items()}
        self.samples = next(iter(headers.values())).shape[0]
        nbytes = sum(header.nbytes for header in headers.values())
        self.most_ahead = most_ahead(self.samples, nbytes, machine.memory_nbytes()) if large else 0
        self.columns = tuple(
            Column(name, wire_dtype(header.dtype), header.shape[1:]) for name, header in headers.items()
        )

    def __repr__(self) -> str:
        return f"<Columns {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        self.announce(ids, out)
        for name, target in out.items():
            self._rows[name].gather(ids, target)

    def extents(self, name: str) -> tuple[Extent, ...] | None:
        """See HasExtents."""
        extent = self._rows[name].extent
        return None if extent is None else (extent,)

    def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
        """See Announcing."""
        for name in names:
            self._rows[name].announce(ids)

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        return (array.stamp for array in self._arrays.values())

    def content(self) -> Iterator[bytes]:
        """See Source."""
        for column, array in zip(self.columns, self._arrays.values(), strict=True):
            yield str(column).encode()
            yield from array.content(content.COLUMN)


def open_arrays(arrays: Mapping[str, Mapping[str, Stored]], place: Path, views: Mapping[str, str]) -> Opened:
    """Columns whose arrays were found, part by part: with the declared `views`, or one for each part.

    `place` is the folder where files of ids are, and what messages name. Raises DataError.
    """
    large = is_large(sum(array.header.nbytes for part in arrays.values() for array in part.values()))
    for part in arrays.values():
        check_lengths(part, place)
    parts = {name: Columns(part, large=large) for name, part in arrays.items()}
    source = next(iter(parts.values())) if len(parts) == 1 else concatenated(place, parts)
    return with_views(source, {name: part.samples for name, part in parts.items()}, views, place)


def check_lengths(arrays: Mapping[str, Stored], place: Path) -> None:
    """DataError naming two arrays of different length, if there are two."""
    (first, *others) = arrays.values()
    for other in others:
        if other.header.shape[0] != first.header.shape[0]:
            raise DataError(
                f"{place}: columns of different length, {_short(first, place)} has {first.header.shape[0]} samples and "
                f"{_short(other, place)} has {other.header.shape[0]}; wanted one row a sample in each"
            )


def concatenated(folder: Path, parts: Mapping[str, Columns]) -> Concatenated:
    """The parts laid end to end; DataError if their columns differ."""
    (first, one), *others = parts.items()
    for name, other in others:
        if other.columns != one.columns:
            raise DataError(
                f"{folder}: {first}/ has {listed(one.columns)}, but {name}/ has {listed(other.columns)}; "
                "give every part the same columns, or move away what is no view"
            )
    return Concatenated(parts)


def with_views(source: Source, parts: Mapping[str, int], views: Mapping[str, str], folder: Path) -> Opened:
    """The source with the declared `views`, or with a view for each part: names and samples of what is laid end to end.

    A part without a name is everything. Raises DataError.
    """
    if views:
        declared_views = {view: declared(view, text, source.samples, folder) for view, text in views.items()}
        return Opened(source, declared_views, partial(leaks, declared_views))
    ends = np.cumsum([0, *parts.values()]).tolist()
    return Opened(source, {name or EVERYTHING: range(*ends) for name, ends in zip(parts, pairwise(ends), strict=True)})


def train_first(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts by name, but the one to train from before all others."""
    return dict(sorted(parts.items(), key=lambda item: (item[0] != EVERYTHING, item[0])))


def _short(array: Stored, place: Path) -> str:
    return array.named.removeprefix(str(place)).lstrip("/:")
