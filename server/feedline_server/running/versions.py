"""The versions of the data that are served: the newest, and older ones for as long as a trainer is on them.

`reload` opens the data anew, beside what is served, and takes nothing from it: a dataset that cannot be opened stays as
it was. Trainers keep the fingerprint that they began with; what its files still give is served.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.batches.records import Records
from feedline_server.declared.datasets import Declaration
from feedline_server.host.held_path import hold
from feedline_server.host.progress import watched
from feedline_server.host.signals import StopSignals
from feedline_server.lanes.from_files import zero_copy_source
from feedline_server.scheduling.catalog import Catalog, Served
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.settings.settings import Settings
from feedline_server.sources.arrays.stamp import are_same
from feedline_server.workers.messages import DatasetId, OfferDatasets, OfferedDataset
from feedline_server.workers.openings import Offer
from feedline_server.workers.pool import Pool
from feedline_wire.errors import FeedlineError

KEEP_S = 600.0
"""How long an older version is served that no trainer is on. So long the loaders of a target may take, one after the
other, to be reloaded: a new trainer wants a version that all of them serve."""

LOOK_S = 10.0
"""How often it is looked whether a trainer is on an older version, while there is one."""

log = structlog.get_logger()


class Versions:
    """Of one loader. For its main thread."""

    def __init__(
        self, settings: Settings, catalog: Catalog, scheduler: Scheduler, pool: Pool, *, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._scheduler = scheduler
        self._pool = pool
        self._now = now
        self._thread: threading.Thread | None = None
        self._again = False
        self._unused_since: dict[DatasetId, float] = {}

    def keep_until(self, stop: StopSignals) -> None:
        """Do what signals ask for, until one asks for the end."""
        while not stop.is_requested:
            stop.wait(self.look())
            if stop.take_reload():
                self.reload()

    def reload(self) -> None:
        """Open the data anew, on a thread of its own. Asked for meanwhile, it is done once more afterwards."""
        if self._thread is not None and self._thread.is_alive():
            self._again = True
            log.info("the data is being opened, it is opened once more afterwards")
            return
        self._thread = threading.Thread(target=self._open, name="feedline-reload", daemon=True)
        self._thread.start()

    def look(self) -> float | None:
        """Let go of older versions that no trainer is on. Seconds until it is to be looked again; None: no need."""
        if self._again and self._thread is not None and not self._thread.is_alive():
            self._again = False
            self.reload()
        newest = {(name, one.fingerprint) for name, one in self._catalog.served.items()}
        old = [(name, one.fingerprint) for name, one in self._catalog.versions if (name, one.fingerprint) not in newest]
        used = self._scheduler.versions_in_use() if old else set()
        now = self._now()
        for which in old:
            if which in used:
                self._unused_since.pop(which, None)
            elif now - self._unused_since.setdefault(which, now) >= KEEP_S:
                del self._unused_since[which]
                self._catalog.drop(*which)
                self._pool.withdraw(which)
                log.info("an older version is served no longer", dataset=which[0], fingerprint=which[1].hex()[:12])
        return LOOK_S if old or (self._thread is not None and self._thread.is_alive()) else None

    def _open(self) -> None:
        log.info("opening the data anew")
        started = time.perf_counter()
        fresh: dict[str, Served] = {}
        try:
            for name, config in self._settings.datasets.items():
                if (found := self._opened(name, config)) is not None:
                    fresh[name] = found
            if fresh:
                records = Records({name: one.dataset for name, one in fresh.items()})
                self._pool.offer(offer(self._settings, fresh, records))
                records.close()
            for name, one in fresh.items():
                self._catalog.add(name, one)
        except Exception:  # what is served is not touched
            log.exception("the data could not be opened anew")
            return
        log.info(
            "reloaded",
            seconds=round(time.perf_counter() - started, 3),
            new={name: summary(one) for name, one in fresh.items()},
            unchanged=[name for name in self._settings.datasets if name not in fresh],
        )

    def _opened(self, name: str, config: Declaration) -> Served | None:
        """A dataset as it is now; None if it is as it was, or cannot be opened."""
        if config.kind == "python":
            log.warning("Python is not opened anew, restart the loader for other code or its data", dataset=name)
            return None
        try:
            with watched(name, config.start_timeout_s, partial(_warn_of_slowness, name)):
                dataset = open_dataset(name, config, self._settings.datasets.values())
                found = serve_dataset(dataset, config, self._settings)
        except FeedlineError as error:
            log.warning("a dataset cannot be opened anew, it is served as it was", dataset=name, error=str(error))
            return None
        newest = self._catalog.served[name]
        if found.fingerprint == newest.fingerprint and are_same(dataset.files, newest.dataset.files):
            return None
        if found.fingerprint == newest.fingerprint:
            log.warning("the files are others, what stands for them in the fingerprint is the same", dataset=name)
        for note in dataset.notes:
            log.warning("about the dataset", dataset=name, note=note)
        return found


def _warn_of_slowness(dataset: str, doing: str) -> None:
    log.warning("opening does not get on, what is served stays as it is", dataset=dataset, at=doing)


def serve_dataset(dataset: Dataset, config: Declaration, settings: Settings) -> Served:
    """A dataset that was opened, as it is served."""
    source = zero_copy_source(dataset) if settings.send_from_files else None
    held = None if config.kind == "python" else hold(config.path)
    return Served(dataset, fingerprint(dataset, config), source, held)


def offer(settings: Settings, served: Mapping[str, Served], records: Records) -> Offer:
    """What workers may open: a worker that opens it later opens what was opened here, wherever it lies by then."""
    datasets = OfferDatasets(
        tuple(
            OfferedDataset(
                name,
                config if config.kind == "python" else config.at(config.path.resolve()),
                one.fingerprint,
                records.places[name],
                {view.name: view.selection for view in one.dataset.views.values()} if config.filters else None,
                tuple(one.dataset.source.content()) if config.kind == "python" else None,
                one.dataset.is_for_one_worker,
            )
            for name, one in served.items()
            if (config := settings.datasets[name])
        )
    )
    held = {(name, one.fingerprint): one.held for name, one in served.items() if one.held is not None}
    return Offer(datasets, os.dup(records.fd), held)


def summary(served: Served) -> dict[str, object]:
    """A version, for the log."""
    dataset = served.dataset
    return {
        "views": {view.name: view.samples for view in dataset.views.values()},
        "columns": [str(column) for column in dataset.columns],
        "fingerprint": served.fingerprint.hex()[:12],
    }
