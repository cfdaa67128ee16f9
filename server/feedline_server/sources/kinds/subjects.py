"""The kind `subjects`: many big files, one or a few a subject, each with samples in time order and their labels.

A sample belongs to one subject, so views that are split by subject share nothing, and a window never runs from
one subject into the next. Files are opened when they are first read from, so many at once and no more.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import SubjectsConfig
from feedline_server.host import machine
from feedline_server.sources.arrays.content import Sampling, one_of
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.mapped import is_large, most_ahead
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Rows, Stored, check_rows, costs
from feedline_server.sources.files.patterns import FilePattern
from feedline_server.sources.selection import check_ids, join, leaks
from feedline_server.sources.source import Opened, of_samples
from feedline_server.sources.tables.concatenated import Concatenated
from feedline_server.sources.tables.subject_names import find_subjects, patterns_of, view_subjects
from feedline_server.sources.tables.table import EVERYTHING, check_lengths
from feedline_server.sources.validation import Identities
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import counted
from feedline_wire.tensors import Array, Column, wire_dtype

OPEN_AT_ONCE = 128
"""Arrays a process holds open, with two descriptors each; many systems allow 1,024 a process."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Sliding windows over rows in time order: window w is the rows w·stride .. w·stride + length - 1.

    Rows that fill no window are in none.
    """

    rows: int
    length: int
    stride: int

    def __len__(self) -> int:
        return max(0, (self.rows - self.length) // self.stride + 1)

    def steps(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of these windows, one window after the other."""
        return ((windows * self.stride)[:, np.newaxis] + np.arange(self.length)).reshape(-1)

    def ends(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last row of each of these windows."""
        return windows * self.stride + (self.length - 1)


class Subject:
    """One subject's arrays: a sample is a row, or a window over them.

    `open_rows` keeps what it opened; `memory_nbytes` are those of the machine if the data is large, else 0.
    """

    def __init__(
        self,
        arrays: Mapping[str, Stored],
        windows: Windows | None,
        at_end: frozenset[str],
        *,
        sampling: Sampling,
        open_rows: Callable[[str], Rows],
        memory_nbytes: int,
    ) -> None:
        self._arrays = arrays
        self._windows = windows
        self._at_end = at_end
        self._sampling = sampling
        self._open_rows = open_rows
        self.samples = next(iter(arrays.values())).header.shape[0] if windows is None else len(windows)
        nbytes = sum(array.header.nbytes for array in arrays.values())
        self.most_ahead = most_ahead(self.samples, nbytes, memory_nbytes)
        self.columns = tuple(
            Column(name, wire_dtype(array.header.dtype), (*self._length(name), *array.header.shape[1:]))
            for name, array in arrays.items()
        )

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        for name, target in out.items():
            array = self._arrays[name]
            rows = self._rows(name, ids)
            try:
                self._open_rows(name).gather(rows, target.reshape(len(rows), *array.header.shape[1:]))
            except BadSample as error:
                bad = np.isin(rows, error.samples).reshape(len(ids), -1).any(axis=1)
                raise of_samples(error, ids[bad]) from error

    def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
        """See Announcing."""
        for name in names:
            self._open_rows(name).announce(self._rows(name, ids))

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        return (array.stamp for array in self._arrays.values())

    def content(self) -> Iterator[bytes]:
        """See Source. Whose they are is left out: a subject may be called otherwise elsewhere."""
        for column, array in zip(self.columns, self._arrays.values(), strict=True):
            yield str(column).encode()
            yield from array.content(self._sampling)

    def _length(self, name: str) -> tuple[int, ...]:
        return () if self._windows is None or name in self._at_end else (self._windows.length,)

    def _rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._windows is None:
            return ids
        return self._windows.ends(ids) if name in self._at_end else self._windows.steps(ids)


class Subjects(Concatenated):
    """All subjects as one."""

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source. A batch has a few samples of each subject: all are asked for before any is waited for."""
        check_ids(ids, self.samples)
        self.announce(ids, out)
        super().gather(ids, out)


def opened(config: SubjectsConfig) -> Opened:
    """All subjects as one dataset, with views by subject; DataError if the files do not fit together."""
    if config.stride is not None and config.window is None:
        raise DataError(f"{config.path}: stride = {config.stride} without a window; say how many rows make up one")
    places = patterns_of(config)
    arrays = {
        subject: {name: array for place in places for name, array in _find(config, place, subject).items()}
        for subject in find_subjects(config.path, places)
    }
    _check_alike(config, arrays)
    subjects = _subjects(config, arrays)
    source = Subjects(subjects)
    starts = np.cumsum([0, *(subject.samples for subject in subjects.values())]).tolist()
    ranges = {name: range(*ends) for name, ends in zip(subjects, pairwise(starts), strict=True)}
    names = list(subjects)
    chosen = {view: view_subjects(view, patterns, names, config.path) for view, patterns in config.views.items()}
    parts = chosen or {EVERYTHING: names}
    views = {view: join(ranges[name] for name in part) for view, part in parts.items()}
    empty = [view for view, selection in views.items() if not len(selection)]
    if empty:
        raise DataError(
            f"{config.path}: view {empty[0]!r} has no samples: "
            f"no subject in it has the {config.window} rows of a window"
        )
    files = {array.stamp.path for one in arrays.values() for array in one.values()}
    return Opened(
        source, views, lambda: _notes(config, arrays, subjects, chosen), files, identities=Identities(names, starts)
    )


def ends_of_windows(columns: Sequence[str], config: SubjectsConfig) -> frozenset[str]:
    """The columns of which a window has only the last row: labels and weights, as declared or by their names."""
    if config.inputs is not None:
        return frozenset(columns) - set(config.inputs)
    if config.targets is not None:
        targets, weight = config.targets, config.sample_weight
        return frozenset(name for name in columns if name in targets or name == weight)
    return frozenset(name for name in columns if name.lower().startswith("y") or name == config.sample_weight)


def _find(config: SubjectsConfig, place: FilePattern, subject: str) -> dict[str, Stored]:
    path = config.path / place.of(subject)
    with open_file(path) as file:
        return {column: check_rows(file.stored(name)) for column, name in place.columns(file).items()}


def _check_alike(config: SubjectsConfig, subjects: Mapping[str, Mapping[str, Stored]]) -> None:
    """DataError naming two arrays that do not fit together, if there are two."""
    (_, first), *_ = subjects.items()
    for subject, arrays in subjects.items():
        if arrays.keys() != first.keys():
            raise DataError(
                f"{config.path}: subject {subject!r} has the arrays {', '.join(arrays)}, the first one has "
                f"{', '.join(first)}; give all subjects the same, or choose them with arrays = {{x = …}}"
            )
        for name, array in arrays.items():
            one, other = array.header, first[name].header
            if one.shape[1:] != other.shape[1:] or wire_dtype(one.dtype) != wire_dtype(other.dtype):
                raise DataError(
                    f"{array.named} holds {one}, {first[name].named} holds {other}; "
                    "give all subjects one dtype, and one shape but for the number of rows"
                )
        check_lengths(arrays, config.path)


def _subjects(config: SubjectsConfig, arrays: Mapping[str, Mapping[str, Stored]]) -> dict[str, Subject]:
    every = [array for one in arrays.values() for array in one.values()]
    large = is_large(sum(array.header.nbytes for array in every))

    # Dropped, not closed, when it is another one's turn: a gather in another thread may be reading from it.
    @lru_cache(OPEN_AT_ONCE)
    def open_rows(subject: str, name: str) -> Rows:
        return arrays[subject][name].open(large=large)

    columns = tuple(next(iter(arrays.values())))
    at_end, sampling = ends_of_windows(columns, config), one_of(len(every))
    if config.window is not None and at_end == set(columns):
        raise DataError(f"{config.path}: no column is an input, so nothing has windows; say inputs = […]")

    def windows(one: Mapping[str, Stored]) -> Windows | None:
        rows = next(iter(one.values())).header.shape[0]
        return None if config.window is None else Windows(rows, config.window, config.stride or 1)

    memory_nbytes = machine.memory_nbytes() if large else 0  # once: there may be thousands
    return {
        name: Subject(
            one,
            windows(one),
            at_end,
            sampling=sampling,
            open_rows=partial(open_rows, name),
            memory_nbytes=memory_nbytes,
        )
        for name, one in arrays.items()
    }


def _notes(
    config: SubjectsConfig,
    arrays: Mapping[str, Mapping[str, Stored]],
    subjects: Mapping[str, Subject],
    chosen: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    yield from costs(array for one in arrays.values() for array in one.values())
    short = [name for name, subject in subjects.items() if not subject.samples]
    if short:
        have = "have" if len(short) > 1 else "has"
        yield f"{counted(short, 'subject')} {have} less than the {config.window} rows of a window, so no samples"
    names = list(subjects)
    number = {name: place for place, name in enumerate(names)}
    numbers = {view: np.array([number[name] for name in part]) for view, part in chosen.items()}
    yield from leaks(numbers, names.__getitem__, "subject")
    left = [name for name in names if name not in set().union(*chosen.values())]
    if chosen and left:
        yield f"{counted(left, 'subject')} in no view"
