"""What a dataset would be to a trainer, and what is wrong with it.

A dataset is opened just as a loader opens it, so what is well here is well there. Reading every sample, as `--read`
does, goes the way of a batch, transforms and all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from feedline_server.batches.assembly import Outgrown, assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration
from feedline_server.sources.files.sample_files import SampleFiles
from feedline_server.sources.source import GeneratedSource, gathered
from feedline_wire.errors import BadSample, DataError, FeedlineError
from feedline_wire.key import Key
from feedline_wire.structure import column_names
from feedline_wire.tensors import VARIES, Array

ROWS = 64
"""Samples read at once: a usual batch."""

COUNTED = 1 << 20
"""Samples whose classes are counted where their labels have to be read: 8 MiB of them."""

MANY_CLASSES = 1000
"""Different whole numbers from which on they are taken for something else than classes."""

NAMED = 20
"""Bad samples that are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A sample that cannot be served."""

    view: str
    sample: int
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """One dataset as it would be served, or why it would not be."""

    name: str
    kind: str
    dataset: Dataset | None = None
    fingerprint: bytes = b""
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Samples of each class, in the order of their numbers, by view; empty where there are none to be seen."""
    problem: str | None = None
    """Why it cannot be opened."""
    read: int | None = None
    """Samples that were read; None: none were."""
    bad: tuple[Bad, ...] = ()
    """The first of those that cannot be."""
    bad_samples: int = 0

    @property
    def nbytes(self) -> int | None:
        """Bytes of all samples as they are sent; None where their sizes vary."""
        if self.dataset is None or any(VARIES in column.shape for column in self.dataset.columns):
            return None
        return self.dataset.source.samples * sum(column.row_nbytes for column in self.dataset.columns)


def look(name: str, config: Declaration, others: Iterable[Declaration] = ()) -> Found:
    """Open one dataset as a loader would that serves the `others` beside it."""
    try:
        with closing(open_dataset(name, config, others)) as dataset:
            return Found(
                name,
                config.kind,
                dataset,
                fingerprint(dataset, config),
                class_counts(dataset, one_hot=getattr(config, "one_hot", False)),
            )
    except FeedlineError as error:
        return Found(name, config.kind, problem=str(error))


def read(found: Found, show: Callable[[int, int], None]) -> Found:
    """The same, after every sample of every view was read once; `show` gets how many of how many."""
    dataset = found.dataset
    if dataset is None or dataset.is_stream:
        return found
    with closing(dataset):
        bad = _bad(replace(dataset, on_bad_sample="error"), found.fingerprint, show)  # none is mended
        first = tuple(islice(bad, NAMED))
        return replace(
            found,
            read=sum(view.samples for view in dataset.views.values()),
            bad=first,
            bad_samples=len(first) + sum(1 for _ in bad),
        )


def _bad(dataset: Dataset, identity: bytes, show: Callable[[int, int], None]) -> Iterator[Bad]:
    """Every sample that cannot be served, view by view, gone through as through batches."""
    memory: Array = np.empty(most_nbytes(dataset, ROWS), np.uint8)

    def bad_of(key: Key) -> Iterator[Bad]:
        """What is bad in one batch; looked at sample by sample if something is."""
        nonlocal memory
        keys: list[Key] = []
        try:
            assemble(dataset, key, memory)
        except Outgrown as error:
            memory = np.empty(error.nbytes, np.uint8)
            keys = [key]
        except DataError as error:
            if key.rows == 1:
                if not isinstance(error, BadSample) and not error.samples:
                    raise  # of the dataset, not of a sample: every other would fail alike
                sample = int(dataset.views[key.view].ids(np.array([key.offset]))[0])
                yield Bad(key.view, sample, str(error))
                return
            keys = [replace(key, offset=key.offset + row, rows=1) for row in range(key.rows)]
        # Not while the first error is handled: the traceback of a sample would show it and these lines, too.
        for smaller in keys:
            yield from bad_of(smaller)

    whole, done = sum(view.samples for view in dataset.views.values()), 0
    for view in dataset.views.values():
        for offset in range(0, view.samples, ROWS):
            rows = min(ROWS, view.samples - offset)
            yield from bad_of(Key(dataset.name, identity, view.name, "sequential", 0, 0, offset, rows))
            done += rows
            show(done, whole)


def class_counts(dataset: Dataset, *, one_hot: bool = False) -> Mapping[str, Mapping[str, int]]:
    """Samples of each class by view, of the only target that is of classes; empty where there is none to be seen.

    `one_hot` says that classes are vectors.
    """
    source = dataset.source
    are_known = isinstance(source, SampleFiles) and source.has_labels
    if isinstance(source, GeneratedSource) or (source.samples > COUNTED and not are_known):
        return {}
    parts = dataset.structure if isinstance(dataset.structure, tuple) else ()
    targets = list(column_names(parts[1])) if len(parts) > 1 else []
    found = [column for column in source.columns if column.name in targets]
    if len(targets) != 1 or not found or VARIES in found[0].shape:
        return {}
    (column,) = found
    names = dataset.categories.get(column.name, ())
    if not one_hot and (column.dtype.kind not in "iu" or column.shape):
        return {}
    values = gathered(source, np.arange(source.samples), [column])[column.name]
    labels = values.argmax(axis=1) if one_hot else values
    if not names and len(np.unique(labels)) > MANY_CLASSES:
        return {}
    return {view.name: _counts(labels[view.ids(np.arange(view.samples))], names) for view in dataset.views.values()}


def _counts(labels: Array, names: Sequence[str]) -> Mapping[str, int]:
    """How many there are of each, by number and name: of all that have names, and else of those that are there."""
    found = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))
    numbers = range(len(names)) if names and not found.keys() - set(range(len(names))) else sorted(found)
    return {names[number] if number < len(names) else str(number): found.get(number, 0) for number in numbers}
