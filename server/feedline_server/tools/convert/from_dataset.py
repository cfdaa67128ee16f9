"""A dataset's samples as columns, written by all cores, each once.

What is written is what the source gives. A conversion that was killed goes on where it was: a piece is written down in
the journal once its bytes are on the disk.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration, TableForm
from feedline_server.host.child_process import end_with
from feedline_server.sources.kinds.opening import describe_source
from feedline_server.sources.source import GeneratedSource, ReadElsewhere, SampleRequest
from feedline_server.tools.convert import destination
from feedline_server.tools.convert.columns import ColumnOptions
from feedline_server.tools.convert.description import write_description
from feedline_server.tools.convert.destination import JOURNAL, Converted, unfinished
from feedline_server.tools.convert.journal import Journal
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import VARIES, Array, Column, wire_dtype

PIECE_NBYTES = 8 << 20
"""Of samples that are written together: large enough that starting costs nothing, small enough to see it move."""

SYNC_S = 5.0
"""Between two times that what is done is put on the disk and written down: what a loss of power costs."""

AHEAD = 4
"""Pieces that a worker is given beside the one it is at, so that it never waits for the journal."""

BAD_SAMPLES = "bad-samples.json"
"""Which samples were left out, and why; it stays beside the columns."""

Bad = dict[int, str]
"""Samples that cannot be read, and why."""


def convert(
    name: str,
    config: Declaration,
    folder: Path,
    *,
    workers: int,
    skip_bad: bool,
    columns: ColumnOptions,
    show: Callable[[int, int], None],
) -> Converted:
    """Write every sample of a dataset to `folder`, which must not be there, as columns with a loader.toml.

    `show` gets how many samples of how many are written. Raises BadSample if a sample cannot be read, unless `skip_bad`
    leaves it out of all views; InvalidRequest if the folder is there, or another process converts to it.
    """
    config = _told(config, columns)
    with closing(open_dataset(name, config)) as dataset:
        _check(dataset)
    source = dataset.source
    written = _written(source.columns, columns, config.path)
    samples, row_nbytes = source.samples, sum(column.row_nbytes for column in written)
    rows = max(1, PIECE_NBYTES // max(1, row_nbytes))
    identity = fingerprint(dataset, config) + repr(columns).encode()
    with unfinished(folder, anew=False) as place:
        names = [column.name for column in written]
        bad_file = place / BAD_SAMPLES
        with closing(Journal(place / JOURNAL, identity, rows)) as journal:
            if not journal.is_continued:
                destination.create(place, written, samples)
                bad_file.unlink(missing_ok=True)
            bad = _read_bad(bad_file)
            left = (piece for piece in range(-(-samples // rows)) if piece not in journal.done)
            pieces = (range(piece * rows, min((piece + 1) * rows, samples)) for piece in left)
            done_rows = continued = sum(min(rows, samples - piece * rows) for piece in journal.done)
            done: list[int] = []

            def settle() -> None:
                """Put on the disk what is done, then write it down."""
                destination.sync(place, names)
                if bad:
                    bad_file.write_text(json.dumps(bad, indent=2) + "\n")
                journal.add(done)
                done.clear()

            show(done_rows, samples)
            pool = _workers(workers, config, columns, str(place))
            synced = time.monotonic()
            try:
                for piece, unread in _finished(pool, workers * AHEAD, pieces, skip_bad):
                    bad |= unread
                    done.append(piece.start // rows)
                    done_rows += len(piece)
                    show(done_rows, samples)
                    if time.monotonic() - synced > SYNC_S:
                        settle()
                        synced = time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
                settle()
        if len(bad) == samples:
            (place / JOURNAL).unlink()
            raise DataError(f"dataset {name!r}: none of {samples} samples can be read, the first because {bad[0]}")
        destination.finish(place, names, bad)
        write_description(place, config, dataset, columns, bad)
        (place / JOURNAL).unlink(missing_ok=True)
    return Converted(samples - len(bad), row_nbytes * (samples - len(bad)), continued, bad)


def _told(config: Declaration, columns: ColumnOptions) -> Declaration:
    """The declaration with what was said about columns; InvalidRequest if its kind or its data has no such."""
    dropped: tuple[str, ...] = ()
    if isinstance(config, TableForm):  # what is dropped need not be of a form that is served
        dropped = () if config.arrays is not None else columns.drop
        codes = {**dict.fromkeys(columns.codes, ()), **config.codes}
        config = replace(config, codes=codes, drop=(*config.drop, *dropped))
    elif columns.codes:
        raise InvalidRequest(
            f"--codes makes numbers of text, and a dataset of kind {config.kind} has none; leave it out"
        )
    source = describe_source(config).source
    if isinstance(source, ReadElsewhere):
        source.close()
    there = [column.name for column in source.columns]
    columns.check([*there, *dropped], config.path)
    if columns.target is None:
        return config
    inputs = tuple(column for column in there if column not in {*columns.drop, columns.target})
    return replace(config, inputs=inputs, targets=(columns.target,))


def _written(found: Sequence[Column], columns: ColumnOptions, path: Path) -> list[Column]:
    """The columns that are written of these."""
    none = {column.name: np.empty((0, *column.shape), column.dtype) for column in found}
    applied = columns.applied(none, path, "sample", 0)
    return [Column(name, wire_dtype(array.dtype), array.shape[1:]) for name, array in applied.items()]


def _read_bad(file: Path) -> Bad:
    known = json.loads(file.read_text()) if file.exists() else {}
    return {int(sample): why for sample, why in known.items()}


def _check(dataset: Dataset) -> None:
    if dataset.is_batched or dataset.is_stream:
        raise InvalidRequest(
            f"dataset {dataset.name!r} makes batches of its own, and columns hold samples; convert the files that its "
            "code reads"
        )
    varying = [column.name for column in dataset.source.columns if VARIES in column.shape]
    if varying:
        raise InvalidRequest(
            f"column {varying[0]!r} of dataset {dataset.name!r} has samples of different length, and lies end to end "
            "already, which is read where it lies: there is nothing to convert"
        )


def _finished(pool: Executor, ahead: int, pieces: Iterator[range], skip_bad: bool) -> Iterator[tuple[range, Bad]]:
    """Have all pieces written, `ahead` of them handed to the workers at a time; each as it is done."""
    running: dict[Future[Bad], range] = {}
    while True:
        while len(running) < ahead and (piece := next(pieces, None)) is not None:
            running[pool.submit(_write, piece.start, piece.stop, skip_bad)] = piece
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


# ---- in the workers ----

_working: tuple[Dataset, ColumnOptions, Path] | None = None
"""What this process converts, what of it, and where to."""


def _workers(count: int, config: Declaration, columns: ColumnOptions, place: str) -> Executor:
    """So many processes, which end with this one; for one, a thread does as well and is there at once."""
    if count == 1:
        return ThreadPoolExecutor(1, initializer=_begin, initargs=(config, columns, place))
    return ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin_process, initargs=(config, columns, place, os.getpid())
    )


def _begin_process(config: Declaration, columns: ColumnOptions, place: str, parent: int) -> None:
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    _begin(config, columns, place)


def _begin(config: Declaration, columns: ColumnOptions, place: str) -> None:
    global _working  # noqa: PLW0603 - a worker of an executor has no other memory between its tasks
    _working = (open_dataset_in_worker("converted", config), columns, Path(place))


def _write(start: int, end: int, skip_bad: bool) -> Bad:
    assert _working is not None, "a worker begins before it writes"
    dataset, columns, place = _working
    try:
        found = _samples(dataset, start, end)
        written = columns.applied(found, f"dataset {dataset.name!r}", "sample", start)
        destination.write(place, start, written)
    except BadSample as error:
        if not skip_bad:
            raise
        if end - start == 1:
            return {start: str(error)}
        middle = (start + end) // 2
        return _write(start, middle, skip_bad) | _write(middle, end, skip_bad)
    return {}


def _samples(dataset: Dataset, start: int, end: int) -> Mapping[str, Array]:
    source, ids = dataset.source, np.arange(start, end, dtype=np.int64)
    if isinstance(source, GeneratedSource):
        drawn = source.draw(SampleRequest(ids, np.zeros_like(ids), 0))
        return {name: column for name, column in drawn.items() if isinstance(column, np.ndarray)}
    out = {c.name: np.empty((len(ids), *c.shape), c.dtype) for c in source.columns}
    source.gather(ids, out)
    return out
