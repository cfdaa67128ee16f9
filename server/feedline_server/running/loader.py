"""A loader from start to end: open, listen, drain, stop.

Nothing is left when it ends, however it ends: workers and all that they have started end with it (`child_process`), and
the arena has no name anywhere.
"""

import importlib.metadata
import os
import secrets
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from feedline_server.access import bind_policy
from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import hot_reloaded_tls
from feedline_server.access.tokens import Tokens, hot_reloaded_tokens, unknown_datasets
from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.host.addresses import with_port
from feedline_server.host.child_process import ChildProcess
from feedline_server.host.signals import StopSignals
from feedline_server.lanes.from_files import ZeroCopySource, zero_copy_source
from feedline_server.lanes.lane import listeners
from feedline_server.memory.arena import Arena
from feedline_server.rpc.interceptor import AccessInterceptor
from feedline_server.rpc.service import Service
from feedline_server.scheduling.catalog import Catalog, Served
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.settings.settings import Settings
from feedline_server.workers.messages import OpenDatasets
from feedline_server.workers.pool import Pool
from feedline_server.workers.process import start_worker
from feedline_wire.memory import keep_freed_memory
from feedline_wire.status import for_log

STOP_S = 0.3
"""How long streams may take to end when the loader stops without draining; Ctrl-C must leave in under a second."""

log = structlog.get_logger()


def serve(settings: Settings, stop: StopSignals, listening: Callable[[int], None]) -> None:
    """Serve until a signal asks for the end. Blocks; raises a FeedlineError if it cannot begin.

    `listening` is called with the port once trainers can connect.
    """
    keep_freed_memory()
    # Workers load what they need while datasets are opened here. Those that are asked about the operator's objects are
    # started for that, one after the other: what a module downloads or builds when it is first imported, it does alone.
    asked = sum(config.kind == "python" for config in settings.datasets.values())
    children = [start_worker() for _ in range(settings.workers - asked)]
    try:
        _serve(settings, stop, listening, children)
    finally:
        for child in children:
            child.close()


def _serve(
    settings: Settings, stop: StopSignals, listening: Callable[[int], None], children: list[ChildProcess]
) -> None:
    version = importlib.metadata.version("feedline")
    replica = secrets.token_hex(4)
    tls = hot_reloaded_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    tokens = hot_reloaded_tokens(settings.tokens)
    catalog = _open_catalog(settings, children)
    for spare in children[settings.workers :]:
        spare.close()
    _warn(settings, catalog, tokens)
    arena = Arena(settings.memory)
    pool: Pool
    scheduler = Scheduler(
        catalog=catalog,
        arena=arena,
        workers=settings.workers,
        max_trainers=settings.max_trainers,
        max_streams_per_client=settings.max_streams_per_client,
        from_files=_zero_copy_sources(catalog) if settings.send_from_files else {},
        submit=lambda tasks: pool.submit(tasks),  # noqa: PLW0108 - the pool is made next, and needs scheduler
        now=time.monotonic,
    )
    pool = Pool(
        size=settings.workers,
        datasets=_to_open(settings, catalog),
        arena_fd=arena.fd,
        batch_timeout_s=settings.batch_timeout_s,
        answer=scheduler.answer,
        started=children[: settings.workers],
    )
    lanes = listeners(settings)
    service = Service(
        catalog=catalog,
        scheduler=scheduler,
        pool=pool,
        replica=replica,
        version=version,
        max_trainers=settings.max_trainers,
        tls=tls,
        interceptor=AccessInterceptor(tokens),
        lanes=lanes,
    )
    try:
        pool.start()
        for listener in lanes.values():
            listener.start(settings)
        port = service.start(settings.listen, settings.health_listen)
        stop.serving = True
        listening(port)
        log.info(
            "serving",
            address=with_port(settings.listen, port),
            datasets={name: _summary(served) for name, served in catalog.served.items()},
            workers=settings.workers,
            memory_bytes=arena.nbytes,
            tls="none" if tls is None else "server" if settings.tls_client_ca is None else "mutual",
            tokens=None if tokens is None else len(tokens.now()),
            version=version,
            replica=replica,
            pid=os.getpid(),
        )
        stop.wait()
        if not stop.is_immediate:
            _drain(service, scheduler, stop, settings.drain_timeout_s)
    finally:
        for listener in lanes.values():
            listener.close()
        service.stop(STOP_S)
        pool.close()
        arena.close()
        log.info("stopped", replica=replica, **for_log(service.counters()))


def _drain(service: Service, scheduler: Scheduler, stop: StopSignals, timeout_s: float) -> None:
    log.info("draining", timeout_s=timeout_s)
    service.drain()
    deadline = time.monotonic() + timeout_s
    while not scheduler.wait_until_empty(0.1):  # short, so that a second signal is answered at once
        if stop.is_immediate or time.monotonic() > deadline:
            log.warning("stopping with streams open", streams=len(scheduler.status().streams))
            return


def _warn(settings: Settings, catalog: Catalog, tokens: HotReloaded[Tokens] | None) -> None:
    for warning in bind_policy.warnings(settings.protection):
        log.warning(warning, listen=settings.listen)
    for note in () if tokens is None else unknown_datasets(tokens.now(), catalog.served):
        log.warning("about the tokens", note=note)


def _open_catalog(settings: Settings, children: list[ChildProcess]) -> Catalog:
    """Open the datasets; workers that were asked about them join the `children`, before the others."""
    served = {}
    for name, config in settings.datasets.items():
        started = time.perf_counter()
        with closing(open_dataset(name, config)) as dataset:
            served[name] = Served(dataset, fingerprint(dataset, config))
            if (child := dataset.release()) is not None:
                children.insert(0, child)
        log.debug("opened", dataset=name, seconds=round(time.perf_counter() - started, 3))
        for note in dataset.notes:
            log.warning("about the dataset", dataset=name, note=note)
    return Catalog(served, max_batch_nbytes=settings.memory // 2)


def _zero_copy_sources(catalog: Catalog) -> dict[str, ZeroCopySource]:
    """What can be sent from where it lies, by dataset."""
    found = {name: zero_copy_source(one.dataset) for name, one in catalog.served.items()}
    return {name: one for name, one in found.items() if one is not None}


def _to_open(settings: Settings, catalog: Catalog) -> OpenDatasets:
    """What every worker opens."""
    served = catalog.served
    return OpenDatasets(
        {name: (config, served[name].fingerprint) for name, config in settings.datasets.items()},
        kept={
            name: {view.name: view.selection for view in served[name].dataset.views.values()}
            for name, config in settings.datasets.items()
            if config.filters
        },
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


def _summary(served: Served) -> dict[str, object]:
    dataset = served.dataset
    return {
        "views": {view.name: view.samples for view in dataset.views.values()},
        "columns": [str(column) for column in dataset.columns],
        "fingerprint": served.fingerprint.hex()[:12],
    }
