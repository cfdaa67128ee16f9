"""Which samples the views keep, where filters are declared: decided once, when the dataset is opened.

A filter decides what is in a view, never what is in a batch. So positions, orders and epochs know nothing of
it, and an epoch is exactly once what was kept. Only the columns that a filter names are read.
"""

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import FilterConfig
from feedline_server.host.logs import log
from feedline_server.host.progress import OPENING
from feedline_server.host.user_code import exception_line, imported, users_traceback
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import Selection, compact, ids_at
from feedline_server.sources.source import AnySource, GeneratedSource, RaggedSource, Source, gathered
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import VARIES, Array, Column

PIECE_NBYTES = 4 << 20
"""What is read at once: larger reads are no faster."""

PIECE_ROWS = 1 << 16
"""Samples that are looked at together at most."""

LOG_EVERY_S = 5.0
"""How often a filter that takes long logs how far it is."""

Ids: TypeAlias = NDArray[np.int64]
Keeps: TypeAlias = Callable[[Ids, list[Array | Ragged]], NDArray[np.bool_]]
"""Ids and columns of some samples → which of them stay."""


def filtered(
    dataset: str, config: Declaration, source: AnySource, views: Mapping[str, Selection]
) -> dict[str, Selection]:
    """The views with what all filters keep of them; DataError naming the filter if it does not fit or keeps nothing."""
    found = dict(views)
    for number, one in enumerate(config.filters):
        named = f"dataset {dataset!r}, filters.{number} ({', '.join(one.columns)})"
        if isinstance(source, GeneratedSource):
            raise DataError(
                f"{named}: this dataset's samples are made by code, anew in every epoch, so they cannot be looked at "
                "beforehand; leave samples out there"
            )
        if one.views is not None and (unknown := [view for view in one.views if view not in views]):
            raise DataError(f"{named}: there is no view {unknown[0]!r}; the views are {', '.join(views)}")
        columns = _columns(named, one, source)
        keeps = _keeps(named, one, columns, config)
        for view in one.views or views:
            found[view] = _kept(named, view, found[view], source, columns, keeps)
    return found


def _columns(named: str, config: FilterConfig, source: Source) -> list[Column]:
    there = {column.name: column for column in source.columns}
    if unknown := [name for name in config.columns if name not in there]:
        raise DataError(f"{named}: there is no column {unknown[0]!r}; the columns are {', '.join(there)}")
    return [there[name] for name in config.columns]


def _keeps(named: str, config: FilterConfig, columns: list[Column], declaration: Declaration) -> Keeps:
    if config.code is not None:
        return _by_code(named, config.code, declaration)
    (column,) = columns
    if column.shape:
        raise DataError(f"{named}: {column} is no single value, so it cannot be one of a list; filter it by code")
    wanted = np.array(config.one_of)
    return lambda _ids, values: np.isin(np.asarray(values[0]), wanted)


def _by_code(named: str, code: str, declaration: Declaration) -> Keeps:
    keeps = imported(code, declaration.code_folders).value
    if not callable(keeps):
        raise DataError(f"{named}: {code} is of type {type(keeps).__name__}; wanted a function")

    def each(ids: Ids, columns: list[Array | Ragged]) -> NDArray[np.bool_]:
        found = np.empty(len(ids), bool)
        for row, sample in enumerate(ids.tolist()):
            try:
                found[row] = bool(keeps(*(column[row] for column in columns)))
            except Exception as error:
                raise BadSample(
                    f"{named}: sample {sample}: {exception_line(error)}",
                    traceback=users_traceback(error),
                    samples=[sample],
                ) from error
        return found

    return each


def _kept(  # noqa: PLR0917  # of one caller
    named: str, view: str, selection: Selection, source: Source, columns: list[Column], keeps: Keeps
) -> Selection:
    rows = max(1, min(PIECE_ROWS, PIECE_NBYTES // max(1, sum(column.row_nbytes for column in columns))))
    kept: list[Ids] = []
    started = logged = time.monotonic()
    for start in range(0, len(selection), rows):
        ids = ids_at(selection, np.arange(start, min(start + rows, len(selection)), dtype=np.int64))
        OPENING.note(f"{named}: sample {start} of {len(selection)} of view {view!r}")
        kept.append(ids[keeps(ids, _read(source, ids, columns))])
        if time.monotonic() > logged + LOG_EVERY_S:
            logged = time.monotonic()
            log.info("filtering", filter=named, view=view, looked_at=start + len(ids), samples=len(selection))
    ids = np.concatenate(kept)
    if not len(ids):
        raise DataError(f"{named}: keeps none of the {len(selection)} samples of view {view!r}")
    seconds = round(time.monotonic() - started, 3)
    log.info("filtered", filter=named, view=view, kept=len(ids), samples=len(selection), seconds=seconds)
    return compact(ids)


def _read(source: Source, ids: Ids, columns: list[Column]) -> list[Array | Ragged]:
    if isinstance(source, RaggedSource) and any(VARIES in column.shape for column in columns):
        found = source.read(ids)
        return [found[column.name] for column in columns]
    return list(gathered(source, ids, columns).values())
