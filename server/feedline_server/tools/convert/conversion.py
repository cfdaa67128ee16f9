"""A dataset's samples written out as columns, by all cores, each once.

The law: what is written is what the source gives, and it is there whole or not at all: everything happens in a folder
beside the destination, which takes its name at the very end. A conversion that was killed goes on where it was.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration
from feedline_server.host.die_with_parent import end_with
from feedline_server.sources.source import GeneratedSource, SampleRequest
from feedline_server.tools.convert import columns
from feedline_server.tools.convert.description import write_description
from feedline_server.tools.convert.journal import Journal
from feedline_wire.errors import BadSample, InvalidRequest
from feedline_wire.tensors import VARIES, Array

PIECE_NBYTES = 8 << 20
"""Of samples that are written together: large enough that starting costs nothing, small enough to see it move."""

SYNC_S = 5.0
"""Between two times that what is done is put on the disk and written down: what a loss of power costs."""

AHEAD = 4
"""Pieces that a worker is given beside the one it is at, so that it never waits for the journal."""

UNFINISHED = ".converting"
"""What the folder's name ends with until all is written."""

BAD_SAMPLES = "bad-samples.json"
"""Which samples were left out, and why; it stays beside the columns."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did."""

    folder: Path
    samples: int
    nbytes: int
    continued: int
    """Samples that an earlier run, which was ended, had written."""
    bad: Mapping[int, str] = field(default_factory=dict)
    """Samples that cannot be read, and why: no view has them."""


def convert(
    name: str,
    config: Declaration,
    folder: Path,
    *,
    workers: int,
    skip_bad: bool,
    show: Callable[[int, int], None],
) -> Converted:
    """Write every sample of a dataset to `folder`, which must not be there, as columns with a loader.toml.

    `show` is told how many samples of how many are written. DataError if a sample cannot be read, unless `skip_bad`
    leaves it out of all views; InvalidRequest if the folder is there, or another process converts to it.
    """
    dataset = open_dataset(name, config)
    _check(dataset, folder)
    rows = max(1, PIECE_NBYTES // max(1, sum(column.row_nbytes for column in dataset.source.columns)))
    samples = dataset.source.samples
    names = [column.name for column in dataset.source.columns]
    with unfinished(folder) as place:
        journal_path = place / "journal"
        with Journal(journal_path, fingerprint(dataset, config), rows) as journal:
            if not journal.is_continued:
                columns.create(place, dataset.source.columns, samples)
            begun = min(samples, len(journal.done) * rows)
            left = [piece for piece in range(-(-samples // rows)) if piece not in journal.done]
            bad = _written(config, place, journal, left, rows, samples, workers, skip_bad, show)
        columns.finish(place, names)
        write_description(place, name, config, dataset, bad)
        journal_path.unlink()
        os.rename(place, folder)  # noqa: PTH104 - takes no other folder's place
    return Converted(folder, samples, sum(c.row_nbytes for c in dataset.source.columns) * samples, begun, bad)


def _check(dataset: Dataset, folder: Path) -> None:
    if folder.exists():
        raise InvalidRequest(f"{folder}: is there already; name a folder that is not, or move this one away")
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


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """The folder that the work is done in, locked against a second conversion to the same place."""
    place = folder.with_name(folder.name + UNFINISHED)
    place.mkdir(parents=True, exist_ok=True)
    lock = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequest(f"{place}: another process is converting to it; wait for it, or end it") from error
        yield place
    finally:
        os.close(lock)


# ---- the pieces ----


def _written(  # noqa: PLR0917
    config: Declaration,
    place: Path,
    journal: Journal,
    left: list[int],
    rows: int,
    samples: int,
    workers: int,
    skip_bad: bool,
    show: Callable[[int, int], None],
) -> dict[int, str]:
    """Have all pieces written that are left; the samples that cannot be read, and why."""
    names = [path.name.removesuffix(".npy" + columns.PART) for path in place.glob("*.npy" + columns.PART)]
    bad = _known_bad(place)
    done: list[int] = []
    synced = time.monotonic()
    written = min(samples, len(journal.done) * rows)
    show(written, samples)
    waiting = iter(left)
    running: dict[Future[dict[int, str]], int] = {}
    pool = _workers(workers, config, str(place))
    try:
        while True:
            while len(running) < workers * AHEAD and (piece := next(waiting, None)) is not None:
                start = piece * rows
                running[pool.submit(_write, start, min(start + rows, samples), skip_bad)] = piece
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                piece = running.pop(future)
                bad |= future.result()
                done.append(piece)
                written += min(rows, samples - piece * rows)
            show(written, samples)
            if time.monotonic() - synced > SYNC_S:
                _settle(place, names, journal, done, bad)
                done, synced = [], time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        _settle(place, names, journal, done, bad)
    return bad


def _settle(place: Path, names: Iterable[str], journal: Journal, done: list[int], bad: Mapping[int, str]) -> None:
    """Put on the disk what is done, then say so."""
    columns.sync(place, names)
    if bad:
        (place / BAD_SAMPLES).write_text(json.dumps(bad, indent=2) + "\n")
    journal.add(done)


def _known_bad(place: Path) -> dict[int, str]:
    path = place / BAD_SAMPLES
    return {int(sample): reason for sample, reason in json.loads(path.read_text()).items()} if path.exists() else {}


# ---- in the workers ----

_working: tuple[Dataset, Path] | None = None
"""What this process converts, and where to."""


def _workers(count: int, config: Declaration, place: str) -> Executor:
    """So many processes, which end with this one; for one, a thread does as well and is there at once."""
    if count == 1:
        return ThreadPoolExecutor(1, initializer=_begin, initargs=(config, place))
    return ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin_process, initargs=(config, place, os.getpid())
    )


def _begin_process(config: Declaration, place: str, parent: int) -> None:
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    _begin(config, place)


def _begin(config: Declaration, place: str) -> None:
    global _working  # noqa: PLW0603 - a worker of an executor has no other memory between its tasks
    _working = (open_dataset_in_worker("converted", config), Path(place))


def _write(start: int, end: int, skip_bad: bool) -> dict[int, str]:
    assert _working is not None
    dataset, place = _working
    ids = np.arange(start, end, dtype=np.int64)
    try:
        columns.write(place, start, _samples(dataset, ids))
    except BadSample as error:
        if not skip_bad:
            raise
        if len(ids) == 1:
            return {start: str(error)}
        middle = (start + end) // 2
        return _write(start, middle, skip_bad) | _write(middle, end, skip_bad)
    return {}


def _samples(dataset: Dataset, ids: Ids) -> Mapping[str, Array]:
    source = dataset.source
    if isinstance(source, GeneratedSource):
        drawn = source.draw(SampleRequest(ids, np.zeros_like(ids), 0))
        return {name: column for name, column in drawn.items() if isinstance(column, np.ndarray)}
    out = {c.name: np.empty((len(ids), *c.shape), c.dtype) for c in source.columns}
    source.gather(ids, out)
    return out
