"""A loader from start to end: open, listen, drain, stop.

Nothing is left when it ends, however it ends: workers and all that they have started end with it (`child_process`), and
the arena has no name anywhere.
"""

import contextlib
import errno
import gc
import importlib.metadata
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext

import structlog

from feedline_server.access import bind_policy
from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import hot_reloaded_tls
from feedline_server.access.tokens import Tokens, hot_reloaded_tokens, unknown_datasets
from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.records import Records
from feedline_server.declared.datasets import Declaration
from feedline_server.host import descriptors, threads
from feedline_server.host.addresses import check_free, with_port
from feedline_server.host.child_process import ChildProcess
from feedline_server.host.logs import is_text
from feedline_server.host.progress import watched
from feedline_server.host.signals import StopSignals
from feedline_server.lanes.lane import listeners
from feedline_server.memory.arena import Arena
from feedline_server.memory.shared_cache import new_memory
from feedline_server.rpc.interceptor import AccessInterceptor
from feedline_server.rpc.service import Service
from feedline_server.running.versions import Versions, offer, serve_dataset, summary
from feedline_server.scheduling.catalog import Catalog, Served
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.settings.settings import Settings
from feedline_server.sources.arrays.decompressed import DECODED
from feedline_server.sources.source import took_too_long
from feedline_server.watching import page
from feedline_server.watching.events import MOST_PAGES, Events
from feedline_server.watching.http import MOST_CONNECTIONS, HttpServer, Reply, Route, hot_reloaded_context
from feedline_server.watching.metrics import scrape
from feedline_server.watching.observer import Observer
from feedline_server.workers.messages import StartWork
from feedline_server.workers.pool import Pool
from feedline_server.workers.process import start_worker
from feedline_wire import compression
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderBroken, LoaderUnavailable
from feedline_wire.listing import listed, numbered
from feedline_wire.memory import keep_freed_memory
from feedline_wire.prometheus import CONTENT_TYPE
from feedline_wire.status import for_log
from feedline_wire.text import unpacked

LEAVE_S = 3.0
"""The end takes under a second; what hangs in it, a worker that waits for a dead disk for instance, is left."""

STOP_S = 0.3
"""How long streams may take to end when the loader stops without draining; Ctrl-C must leave in under a second."""

log = structlog.get_logger()


def serve(settings: Settings, stop: StopSignals, listening: Callable[[int], None]) -> None:
    """Serve until a signal asks for the end. Blocks; raises a FeedlineError if it cannot begin.

    `listening` is called with the port once trainers can connect.
    """
    for option in ("listen", "health_listen", "metrics_listen"):
        if (address := getattr(settings, option)) is not None:
            check_free(address, f"--{option.replace('_', '-')}")
    if settings.compression == "encrypted":
        compression.check_installed()
    keep_freed_memory()
    threads.watch(stop.fail)
    # Workers load what they need while datasets are opened here. Those that are asked about the operator's objects are
    # started for that, one after the other: what a module downloads or builds when it is first imported, it does alone.
    asked = sum(config.kind == "python" for config in settings.datasets.values())
    children: list[ChildProcess] = []
    try:
        children += [start_worker() for _ in range(settings.workers - asked)]
        _serve(settings, stop, listening, children)
    except (OSError, FeedlineError) as error:
        if not _is_of_descriptors(error):
            raise
        raise too_few_descriptors(str(error), 2 * descriptors.limit()) from error
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
    bounds = _divide_descriptors(settings)
    arena = Arena(settings.memory)
    records = Records({name: served.dataset for name, served in catalog.served.items()})
    decoded_fd = new_memory(DECODED.shared_nbytes(settings.workers))
    pool = Pool(
        size=settings.workers,
        work=StartWork(log_format=settings.log_format, log_level=settings.log_level),
        offer=offer(settings, catalog.served, records),
        decoded_fd=decoded_fd,
        arena_fd=arena.fd,
        batch_timeout_s=settings.batch_timeout_s,
        started=children[: settings.workers],
    )
    scheduler = Scheduler(
        catalog=catalog,
        arena=arena,
        workers=settings.workers,
        max_trainers=settings.max_trainers,
        max_streams_per_client=settings.max_streams_per_client,
        submit=pool.submit,
        now=time.monotonic,
    )
    observer = Observer(scheduler, pool, replica=replica, version=version)
    shown = {"/metrics": lambda datasets, _: Reply(scrape(observer, datasets), CONTENT_TYPE)}
    shown |= page.routes(observer, scheduler, catalog)
    http = http_server(shown, page.events(observer, catalog), settings, tokens)
    lanes = listeners(settings)
    service = Service(
        catalog=catalog,
        scheduler=scheduler,
        pool=pool,
        observer=observer,
        replica=replica,
        max_trainers=settings.max_trainers,
        max_connections=settings.max_trainers + bounds.strangers,
        tls=tls,
        interceptor=AccessInterceptor(tokens),
        lanes=lanes,
        compression=settings.compression,
    )
    try:
        pool.start(scheduler.answer, service.set_serving)
        observer.start()
        for listener in lanes.values():
            listener.most_greetings = min(listener.most_greetings, bounds.strangers // 8)
            listener.start(settings)
        port = service.start(settings.listen, settings.health_listen)
        metrics_port = None if settings.metrics_listen is None else http.start(settings.metrics_listen)
        stop.serving = True
        listening(port)
        if is_text(settings.log_format):
            for line in announced(settings, port, metrics_port, catalog):
                log.info(line)
        else:
            log.info(
                "serving",
                address=with_port(settings.listen, port),
                datasets={name: summary(served) for name, served in catalog.served.items()},
                **({} if metrics_port is None else {"metrics_port": metrics_port}),
                workers=settings.workers,
                memory_bytes=arena.nbytes,
                tls="none" if tls is None else "server" if settings.tls_client_ca is None else "mutual",
                tokens=None if tokens is None else len(tokens.now()),
                version=version,
                replica=replica,
                pid=os.getpid(),
            )
        Versions(settings, catalog, scheduler, pool, now=time.monotonic).keep_until(stop)
        if not stop.is_immediate:
            _drain(service, scheduler, stop, settings.drain_timeout_s)
    finally:
        stop.leave_within(LEAVE_S)
        with contextlib.ExitStack() as ending:  # what one of them raises keeps none of the others
            ending.callback(lambda: log.info("stopped", replica=replica, **for_log(observer.counters())))
            ending.callback(arena.close)
            ending.callback(records.close)
            ending.callback(os.close, decoded_fd)
            ending.callback(pool.close)
            ending.callback(observer.close)
            ending.callback(http.close)
            ending.callback(service.stop, STOP_S)
            for listener in lanes.values():
                ending.callback(listener.close)
    if stop.failure is not None:
        raise LoaderBroken(stop.failure)


def http_server(
    shown: Mapping[str, Route], events: Events, settings: Settings, tokens: HotReloaded[Tokens] | None
) -> HttpServer:
    """What is shown over HTTP; not started."""
    tls = hot_reloaded_context(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return HttpServer(shown, tokens=tokens, tls=tls, events=events)


def _drain(service: Service, scheduler: Scheduler, stop: StopSignals, timeout_s: float) -> None:
    log.info("draining", timeout_s=timeout_s)
    service.drain()
    deadline = time.monotonic() + timeout_s
    while not scheduler.wait_until_empty(0.1):  # short, so that a second signal is answered at once
        if stop.is_immediate or time.monotonic() > deadline:
            log.warning("stopping with streams open", streams=len(scheduler.status().streams))
            return


def _divide_descriptors(settings: Settings) -> descriptors.Division:
    """What descriptors are for, now that the data is open. LoaderUnavailable if they are too few."""
    opened = descriptors.count()
    shown = 0 if settings.metrics_listen is None else MOST_CONNECTIONS + MOST_PAGES
    division = descriptors.divide(
        limit=descriptors.limit(), opened=opened + shown, workers=settings.workers, trainers=settings.max_trainers
    )
    if division.limit < division.wanted:
        raise too_few_descriptors(
            f"it may have {division.limit}; {opened} are open for its data, and {settings.workers} workers and "
            f"max_trainers = {settings.max_trainers} need more",
            division.wanted,
        )
    return division


def _is_of_descriptors(error: OSError | FeedlineError) -> bool:
    """Whether it is for want of them."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EMFILE


def too_few_descriptors(found: str, wanted: int) -> LoaderUnavailable:
    """What the operator has to change."""
    return LoaderUnavailable(
        f"too few file descriptors: {found}; let it have {wanted} (`ulimit -n {wanted}`, LimitNOFILE= of systemd, "
        f"ulimits: nofile: of Compose), serve fewer datasets, or lower max_trainers"
    )


def _warn(settings: Settings, catalog: Catalog, tokens: HotReloaded[Tokens] | None) -> None:
    for warning in bind_policy.warnings(settings.protection):
        log.warning(warning, listen=settings.listen)
    for note in () if tokens is None else unknown_datasets(tokens.now(), catalog.served):
        log.warning("about the tokens", note=note)


def opening(name: str, config: Declaration) -> AbstractContextManager[None]:
    """While a dataset is opened at the start: what that is at is logged, and what does not get on ends the loader."""

    def give_up(doing: str) -> None:
        # The main thread may wait for a dead disk, in which nothing could interrupt it.
        print(f"feedline serve: {took_too_long(config, '')} It was at {doing}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)

    is_python = config.kind == "python"  # which is waited for, and given up, by the process that asks it
    return nullcontext() if is_python else watched(name, config.start_timeout_s, give_up)


def _open_catalog(settings: Settings, children: list[ChildProcess]) -> Catalog:
    """Open the datasets; workers that were asked about them join the `children`, before the others.

    Raises what is wrong with one, or InvalidRequest with what is wrong with each of several.
    """
    served: dict[str, Served] = {}
    failed: dict[str, FeedlineError] = {}
    held = dict.fromkeys(settings.datasets, 0)  # descriptors
    short = ""
    for name, config in settings.datasets.items():
        started, before = time.perf_counter(), descriptors.count()
        try:
            served[name] = _opened(name, config, settings, children)
        except FeedlineError as error:
            if _is_of_descriptors(error):
                short = str(error)
                break
            failed[name] = error
            continue
        held[name] = descriptors.count() - before
        dataset = served[name].dataset
        log.debug("opened", dataset=name, seconds=round(time.perf_counter() - started, 3))
        for column, names in dataset.categories.items():
            log.info("categories", dataset=name, column=column, names=numbered(names))
        for note in dataset.notes:
            log.warning("about the dataset", dataset=name, note=note)
        del dataset
    if short:
        served.clear()  # which closes what was opened, so that what the others need can be counted
        raise too_few_descriptors(short, _wanted_descriptors(settings, held))
    if len(failed) > 1:
        raise InvalidRequest("\n".join(f"datasets.{name}: {error}" for name, error in failed.items()))
    for only in failed.values():
        raise only
    return Catalog(served, max_batch_nbytes=settings.memory // 2)


def _opened(name: str, config: Declaration, settings: Settings, children: list[ChildProcess]) -> Served:
    with opening(name, config), closing(open_dataset(name, config, settings.datasets.values())) as dataset:
        found = serve_dataset(dataset, config, settings)
        if (child := dataset.release()) is not None:
            children.insert(0, child)
        return found


def _wanted_descriptors(settings: Settings, held: dict[str, int]) -> int:
    """How many a loader needs whose datasets could not all be opened; `held` has those of the ones that could."""
    gc.collect()
    for name, config in settings.datasets.items():
        if not held[name] and config.kind != "python":
            before = descriptors.count()
            try:
                one = serve_dataset(open_dataset(name, config, settings.datasets.values()), config, settings)
            except FeedlineError:  # it is said when there are enough of them, or it alone needs more than there are
                held[name] = descriptors.limit()
            else:
                held[name] = descriptors.count() - before
                del one
    opened = descriptors.count() + sum(held.values())
    return descriptors.divide(
        limit=descriptors.limit(), opened=opened, workers=settings.workers, trainers=settings.max_trainers
    ).wanted


def data_problems(datasets: Mapping[str, Declaration]) -> Iterator[str]:
    """What is wrong with the data of datasets whose loader cannot start anyhow; Python is not built for it."""
    for name, config in datasets.items():
        if config.kind != "python":
            try:
                open_dataset(name, config, datasets.values())
            except FeedlineError as error:
                yield f"datasets.{name}: {error}"


def announced(settings: Settings, port: int, metrics_port: int | None, catalog: Catalog) -> Iterator[str]:
    """What is served and how to train from it, for a person at the terminal."""
    for name, one in catalog.served.items():
        views = listed(f"{view.name} {view.samples:,}" for view in one.dataset.views.values())
        yield f"serving {name}: {views}; a batch is {unpacked(one.dataset.structure)} of {listed(one.dataset.columns)}"
    address, workers = with_port(settings.listen, port), settings.workers
    is_tls = settings.tls_certificate is not None
    secrets_of = [", ca='…'"] * is_tls + [", certificate='…', key='…'"] * (settings.tls_client_ca is not None)
    how = "".join([*secrets_of, *([", token_file='…'"] * (settings.tokens is not None))])
    which = "" if len(catalog.served) == 1 else f", dataset={next(iter(catalog.served))!r}"
    yield (
        f"{workers} worker{'s' if workers > 1 else ''} at {address}; train from it with "
        f"feedline.RemoteSequence({address!r}{which}{how}) in Keras, elsewhere with "
        f"feedline.connect({address!r}{how}); Ctrl-C ends it"
    )
    if settings.metrics_listen is not None and metrics_port is not None:
        scheme = "https" if is_tls else "http"
        yield f"metrics and a page at {scheme}://{with_port(settings.metrics_listen, metrics_port)}"
