"""Samples out of their source: into scratch, or straight to where they belong.

Which way a source is read is decided once, when its dataset is opened.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np

from feedline_server.sources.ragged import Ragged, values_of
from feedline_server.sources.source import AnySource, GeneratedSource, RaggedSource, SampleRequest, Source
from feedline_server.transforms.rows import Rows, Scratch
from feedline_wire.errors import DataError
from feedline_wire.tensors import VARIES, Array

Reader: TypeAlias = Callable[[SampleRequest, Collection[str], Mapping[str, Array], Scratch], Rows]
"""Reads the named columns of some samples; those of the mapping are written where it says."""


def reader(source: AnySource, *, is_batched: bool) -> Reader:
    """How this source is read."""
    if isinstance(source, GeneratedSource):
        return _units(source) if is_batched else _whole(source.draw)
    if isinstance(source, RaggedSource):
        ragged = source
        return _whole(lambda request: ragged.read(request.ids))
    return _gathered(source)


def _gathered(source: Source) -> Reader:
    columns = {column.name: column for column in source.columns}

    def read(request: SampleRequest, names: Collection[str], ends: Mapping[str, Array], scratch: Scratch) -> Rows:
        out = {name: ends[name] for name in names if name in ends}
        for name in names:
            if name not in ends:
                column = columns[name]
                out[name] = scratch.take(name, 0, column.dtype, (len(request.ids), *column.shape))
        source.gather(request.ids, out)
        return Rows({name: out[name] for name in names}, request, scratch)

    return read


def _whole(read_all: Callable[[SampleRequest], Mapping[str, Array | Ragged]]) -> Reader:
    def read(request: SampleRequest, names: Collection[str], ends: Mapping[str, Array], scratch: Scratch) -> Rows:
        found = read_all(request)
        return Rows({name: found[name] for name in names}, request, scratch)

    return read


def _units(source: GeneratedSource) -> Reader:
    varying = {column.name for column in source.columns if VARIES in column.shape}

    def rows_of(name: str, units: Array) -> Array | Ragged:
        if name not in varying:
            return units
        rows, steps = units.shape[:2]
        return Ragged(units.reshape(rows * steps, *units.shape[2:]), np.arange(rows + 1) * steps)

    def read(request: SampleRequest, names: Collection[str], ends: Mapping[str, Array], scratch: Scratch) -> Rows:
        found = {name: column for name, column in source.draw(request).items() if name in names}
        lengths = _unit_rows(found, request)
        rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        within = SampleRequest(np.repeat(request.ids, lengths), np.repeat(request.epochs, lengths), request.seed, rows)
        return Rows({name: rows_of(name, values_of(found[name])) for name in names}, within, scratch)

    return read


def _unit_rows(
    found: Mapping[str, Array | Ragged], request: SampleRequest
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many rows each unit has; DataError if its columns do not agree."""
    lengths = {name: column.lengths for name, column in found.items() if isinstance(column, Ragged)}
    (first, one), *others = lengths.items()
    for name, other in others:
        if (one != other).any():
            at = int(np.flatnonzero(one != other)[0])
            raise DataError(
                f"unit {request.ids[at]} has {one[at]} rows of {first!r} and {other[at]} of {name!r}; "
                "a batch has as many of each",
                samples=request.ids[at : at + 1],
            )
    return one
