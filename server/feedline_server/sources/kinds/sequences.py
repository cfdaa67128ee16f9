"""The kind `sequences`, of different length: arrays of all their steps laid end to end, and where each sequence ends.

A sequence is exactly its own steps. What pads or cuts it is declared as a transform; where none does, the end of the
batch pads it, visibly in its shape.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import SequencesConfig
from feedline_server.sources.arrays.formats import find_column
from feedline_server.sources.arrays.mapped import is_large
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Stored
from feedline_server.sources.kinds.columns import column_folders
from feedline_server.sources.ragged import Ragged, offsets_of
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import Opened, gathered, of_samples
from feedline_server.sources.tables.boundaries import Boundaries, open_boundaries
from feedline_server.sources.tables.table import Columns, with_views
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import VARIES, Array, Column

Ids = NDArray[np.int64]


class Sequences:
    """Columns of steps, each sample some consecutive ones, and columns with one value a sequence."""

    def __init__(self, boundaries: Boundaries, steps: Columns, singles: Columns | None) -> None:
        self._boundaries = boundaries
        self._steps = steps
        self._singles = singles
        self.samples = boundaries.samples
        varying = [Column(column.name, column.dtype, (VARIES, *column.shape)) for column in steps.columns]
        self.columns = (*varying, *(singles.columns if singles is not None else ()))

    def __repr__(self) -> str:
        return f"<Sequences {', '.join(map(str, self.columns))}: {self.samples} samples, {self._steps.samples} steps>"

    @property
    def most_ahead(self) -> int:
        """See Announcing: by their average length."""
        return self._steps.most_ahead * self.samples // self._steps.samples

    @property
    def longest(self) -> Mapping[str, int]:
        """See RaggedSource."""
        return {column.name: self._boundaries.longest for column in self._steps.columns}

    def lengths(self, ids: Ids) -> Ids:
        """See RaggedSource: steps."""
        check_ids(ids, self.samples)
        starts, ends = self._boundaries.of(ids)
        return ends - starts

    def gather(self, ids: Ids, out: Mapping[str, Array]) -> None:
        """See Source: of the columns with one value a sequence."""
        check_ids(ids, self.samples)
        if out and self._singles is not None:
            self._singles.gather(ids, out)

    def announce(self, ids: Ids, names: Collection[str]) -> None:
        """See Announcing."""
        starts, ends = self._boundaries.of(ids)
        steps = _steps(starts, offsets_of(ends - starts))
        self._steps.announce(steps, [column.name for column in self._steps.columns if column.name in names])
        if self._singles is not None:
            self._singles.announce(ids, [column.name for column in self._singles.columns if column.name in names])

    def read(self, ids: Ids) -> dict[str, Array | Ragged]:
        """See RaggedSource."""
        check_ids(ids, self.samples)
        starts, ends = self._boundaries.of(ids)
        offsets = offsets_of(ends - starts)
        steps = _steps(starts, offsets)
        try:
            values = gathered(self._steps, steps, self._steps.columns)
        except BadSample as error:
            concerned = np.searchsorted(offsets, np.flatnonzero(np.isin(steps, error.samples)), side="right") - 1
            raise of_samples(error, np.unique(ids[concerned])) from error
        found: dict[str, Array | Ragged] = {name: Ragged(array, offsets) for name, array in values.items()}
        if self._singles is not None:
            found.update(gathered(self._singles, ids, self._singles.columns))
        return found

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        for part in (self._boundaries, self._steps, self._singles):
            if part is not None:
                yield from part.files()

    def content(self) -> Iterator[bytes]:
        """See Source."""
        yield from self._boundaries.content()
        yield b"steps"
        yield from self._steps.content()
        if self._singles is not None:
            yield b"one a sequence"
            yield from self._singles.content()


def _steps(starts: Ids, offsets: Ids) -> Ids:
    """The steps of all sequences, laid end to end."""
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], np.diff(offsets))


def opened(config: SequencesConfig) -> Opened:
    """The folder's sequences, with views as declared, or everything as one. Raises DataError."""
    folder = config.path
    boundaries, file = open_boundaries(folder, config)
    arrays = _arrays(folder, aside=(file, *config.views.values()))
    try:
        steps, singles = _parted(arrays, boundaries, config, folder, file)
    except DataError:
        boundaries.check()  # if boundaries are out of order, nothing else can be right
        raise
    large = is_large(sum(array.header.nbytes for array in arrays.values()))
    source = Sequences(boundaries, Columns(steps, large=large), Columns(singles, large=large) if singles else None)
    found = with_views(source, {"": source.samples}, config.views, folder)

    def notes() -> Iterator[str]:
        boundaries.check()
        yield from found.notes()

    return replace(found, notes=notes, files=[folder / file, *(array.stamp.path for array in arrays.values())])


def _arrays(folder: Path, aside: tuple[str, ...]) -> dict[str, Stored]:
    files = column_folders(folder, aside).get("", {})
    if not files:
        raise DataError(
            f"{folder}: found no .npy file beside {aside[0]}; wanted the steps of all sequences, like x.npy"
        )
    return {name: find_column(path, name) for name, path in files.items()}


def _parted(
    arrays: Mapping[str, Stored], boundaries: Boundaries, config: SequencesConfig, folder: Path, file: str
) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """The arrays of steps, and those with one row a sequence; DataError for one that is neither, or could be both."""
    samples, total = boundaries.samples, boundaries.steps
    if unknown := [name for name in config.steps or () if name not in arrays]:
        raise DataError(f"{folder}: there is no {unknown[0]}.npy for steps; there is: {', '.join(arrays)}")
    parted: tuple[dict[str, Stored], dict[str, Stored]] = ({}, {})
    for name, array in arrays.items():
        rows = array.header.shape[0]
        if config.steps is None and samples == total == rows:
            raise DataError(
                f"{folder}: there are as many steps as sequences; say which arrays are of steps, such as "
                f'steps = ["{name}"]'
            )
        is_steps = rows == total if config.steps is None else name in config.steps
        if rows != (total if is_steps else samples):
            raise DataError(
                f"{array.named}: has {rows} rows; wanted {total}, the steps of all sequences by {file}, "
                f"or {samples}, one a sequence" + (f" ({name} is declared in steps)" if is_steps else "")
            )
        parted[0 if is_steps else 1][name] = array
    if not parted[0]:
        raise DataError(
            f"{folder}: none of {', '.join(arrays)} has {total} rows, the steps of all sequences by {file}; "
            "declare kind = columns if samples are rows"
        )
    return parted
