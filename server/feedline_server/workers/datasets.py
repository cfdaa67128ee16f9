"""The datasets of one worker: which it may open, and which are open.

A dataset that cannot be opened is an error of its own; the others are served. It may be tried again at any time.
"""

import gc
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from feedline_server.batches.dataset import Dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration, PythonConfig
from feedline_server.host.child_process import GRACE_S, give_up_after, leave, stay
from feedline_server.host.user_code import exception_line
from feedline_server.sources.arrays.stamp import REMEDY
from feedline_server.sources.source import Opened as BuiltSource
from feedline_server.sources.source import took_too_long
from feedline_server.workers.messages import CannotOpen, DatasetId, OfferedDataset, Opened
from feedline_wire.errors import DatasetChanged, FeedlineError, LoaderBroken


class WorkerDatasets:
    """What `offer` names can be opened.

    `built` are objects of the operator's code that are there already. `pool` is told of an opening that never ends.
    """

    def __init__(
        self, built: Iterable[tuple[Declaration, BuiltSource]], pool: "Connection[Any, Any]", worker: int, workers: int
    ) -> None:
        # A stream was begun before this process had its number.
        self._built = [one for one in built if not (one[1].is_stream and workers > 1)]
        self._pool = pool
        self._number = worker, workers
        self._offered: dict[DatasetId, tuple[OfferedDataset, memoryview]] = {}
        self.opened: dict[DatasetId, Dataset] = {}
        """Those that are open, by id."""
        self._paths: dict[DatasetId, Path | None] = {}

    def offer(self, offers: Iterable[OfferedDataset], records: memoryview) -> None:
        """These may be opened from now on, also in the place of others of the same id."""
        for one in offers:
            self._offered[one.id] = one, records[one.records]
            self._close(one.id)

    def withdraw(self, which: DatasetId) -> None:
        """It is not asked for any more. Idempotent."""
        self._offered.pop(which, None)
        self._close(which)

    def open(self, which: DatasetId, path: Path | None) -> Opened | CannotOpen:
        """Open it, if it is not open there; the answer to the pool. `path` is where it lies, None: where it did."""
        if which in self.opened and self._paths[which] == path:
            return Opened(which)
        self._close(which)
        offer, records = self._offered[which]
        config = offer.declaration if path is None else offer.declaration.at(path)
        source = next((one for known, one in self._built if known == config), None)
        try:
            if isinstance(config, PythonConfig):
                from feedline_server.sources.python.streams import be_worker

                be_worker(*self._number)
            with self._bounded(which, config):
                dataset = open_dataset_in_worker(offer.name, config, offer.kept, source, records)
                _check_unchanged(dataset, offer)
        except FeedlineError as error:
            error.elsewhere = True  # it was opened when the loader started, so another loader may well have it
            return CannotOpen(which, error)
        except Exception as error:  # whatever the dataset's code raises is reported, not lost with this process
            text = f"a worker cannot open the dataset {offer.name!r}: {exception_line(error)}"
            return CannotOpen(which, LoaderBroken(text, traceback=traceback.format_exc(), elsewhere=True))
        self.opened[which], self._paths[which] = dataset, path
        return Opened(which, None if offer.is_for_one_worker else _first(dataset))

    def _close(self, which: DatasetId) -> None:
        self.opened.pop(which, None)
        self._paths.pop(which, None)

    @contextmanager
    def _bounded(self, which: DatasetId, config: Declaration) -> Iterator[None]:
        """Opening that takes longer than its declaration allows is an error that says where it stands, and the end."""
        main = threading.get_ident()

        def give_up() -> None:
            gc.disable()  # a collection while frames of another thread are read may end Python 3.11
            where = "".join(traceback.format_stack(sys._current_frames()[main]))
            self._pool.send(CannotOpen(which, took_too_long(config, where)))
            leave(1)

        timer = threading.Timer(config.start_timeout_s, give_up)
        timer.daemon = True
        timer.start()
        give_up_after(config.start_timeout_s + GRACE_S)  # compiled code may let no other thread run
        try:
            yield
        finally:
            stay()
            timer.cancel()


def _first(dataset: Dataset) -> bytes | None:
    """What the first batch of a stream is told apart by."""
    first: bytes | None = dataset.source.first if dataset.is_stream else None  # type: ignore[union-attr]  # of Python
    return first


def _check_unchanged(dataset: Dataset, offer: OfferedDataset) -> None:
    found = fingerprint(dataset, offer.declaration)
    # A worker that takes another's place opens the files anew: it must not serve new data under the old identity.
    if found == offer.fingerprint:
        return
    if isinstance(offer.declaration, PythonConfig) and offer.content is not None:
        from feedline_server.sources.python.object_source import PythonSource

        assert isinstance(dataset.source, PythonSource), "only such are described by their content"
        if (error := dataset.source.unlike(offer.content)) is not None:
            raise error
    raise DatasetChanged(
        f"the files of dataset {dataset.name!r} changed while it is served: a worker opened it with the "
        f"fingerprint {found.hex()}, it is served as {offer.fingerprint.hex()}; {REMEDY}"
    )
