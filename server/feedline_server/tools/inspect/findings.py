"""What a dataset would be to a trainer, and what is wrong with it.

A dataset is opened just as a loader opens it, so what is well here is well there. Reading every sample, as `--read`
does, goes the way of a batch, transforms and all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from feedline_server.batches.assembly import Outgrown, assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration
from feedline_server.sources.source import GeneratedSource
from feedline_wire.errors import BadSample, DataError, FeedlineError
from feedline_wire.key import Key
from feedline_wire.structure import column_names
from feedline_wire.tensors import VARIES, Array

ROWS = 64
"""Samples read at once: a usual batch."""

COUNTED = 1 << 20
"""Samples whose classes are counted, if the data itself does not say: 8 MiB of labels."""

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
    classes: Mapping[str, int] = field(default_factory=dict)
    """Samples of each class; empty where there are none to be seen."""
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


def look(name: str, config: Declaration) -> Found:
    """Open one dataset as a loader would."""
    try:
        with closing(open_dataset(name, config)) as dataset:
            return Found(name, config.kind, dataset, fingerprint(dataset, config), _classes(dataset))
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


def _classes(dataset: Dataset) -> Mapping[str, int]:
    """The samples of each class: as the data says, else as its only target does, if that is one whole number."""
    source = dataset.source
    if dataset.classes or isinstance(source, GeneratedSource) or source.samples > COUNTED:
        return dataset.classes
    parts = dataset.structure if isinstance(dataset.structure, tuple) else ()
    targets = list(column_names(parts[1])) if len(parts) > 1 else []
    whole = [column for column in source.columns if column.name in targets and column.dtype.kind in "iu"]
    if len(targets) != 1 or not whole or whole[0].shape:
        return {}
    labels = np.empty(source.samples, whole[0].dtype)
    source.gather(np.arange(source.samples), {whole[0].name: labels})
    found, counts = np.unique(labels, return_counts=True)
    return (
        {str(label): int(count) for label, count in zip(found, counts, strict=True)}
        if len(found) <= MANY_CLASSES
        else {}
    )
