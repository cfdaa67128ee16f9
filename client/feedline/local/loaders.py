"""Loaders of this process's own: one for equal data and options, started for its first user, ended with its last.

A loader is a child process, and ends with this one however that ends. One that dies is started again by the next look
at its address.
"""

import _thread
import atexit
import contextlib
import logging
import os
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

from feedline.local.data import is_object
from feedline.local.process import LoaderProcess, own_folders
from feedline.local.server import need_server
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

HERE = ("--listen", "127.0.0.1:0", "--log-level", "warning", "--log-format", "text")
"""Options of every one of them."""

log = logging.getLogger("feedline")


class LocalLoader:
    """A loader that this process started. Thread-safe. As a target, it says where it is now."""

    def __init__(self, name: str, words: tuple[str, ...]) -> None:
        self._name = name
        self._words = words
        self._lock = threading.Lock()
        self._process: LoaderProcess | None = None
        self._address = ""
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<LocalLoader {self._name} {self._address or 'not started'}>"

    def __str__(self) -> str:
        return self._name

    def __call__(self) -> list[str]:
        """Its address. Blocks while it starts; raises LoaderUnavailable, with what it said, if it ends instead."""
        with self._lock:
            if self._is_closed:
                raise LoaderUnavailable(f"the loader of {self._name} was closed")
            if self._process is None or self._process.ended() is not None:
                if (ended := self._process) is not None:
                    log.warning("the loader of %s ended with code %s; starting it again", self, ended.ended())
                    ended.end()
                self._start()
            return [self._address]

    def close(self) -> None:
        """End it. Blocks until it has ended, STOP_S at most. Idempotent."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.end()

    def _start(self) -> None:
        process = LoaderProcess(self._name, self._words, folders=own_folders())
        try:
            self._address = f"127.0.0.1:{process.port()}"
        except BaseException:
            process.end()
            raise
        self._process = process


class _Running:
    """All loaders of a process, by the words that they were started with. A forked process has its own."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.loaders: dict[tuple[str, ...], tuple[LocalLoader, set[Use]]] = {}


_running = _Running()


class Use:
    """One of those that use a loader. It ends with the last of them."""

    def __init__(self, loader: LocalLoader, words: tuple[str, ...], running: _Running) -> None:
        self.loader = loader
        self._words = words
        self._running = running

    def release(self) -> None:
        """Use it no more. Blocks, where this was the last, until it has ended. Idempotent."""
        if self._running.owner != os.getpid():
            return  # it is the parent's
        with self._running.lock:
            _, users = self._running.loaders.get(self._words, (None, set[Use]()))
            if self not in users:
                return
            users.remove(self)
            if users:
                return
            del self._running.loaders[self._words]
        self.loader.close()

    def drop(self) -> None:
        """Release, called by the garbage collector: it may run on a thread that holds a lock, so another one does.

        As `Fleet.abandon`: `threading.Thread` takes a lock of its own to begin.
        """
        with contextlib.suppress(RuntimeError):  # the process is ending, and ends them all
            _thread.start_new_thread(self.release, ())


def acquire(data: "str | os.PathLike[str]", *options: str, workers: int | None = None) -> Use:
    """Use the loader of this data, which is started if there is none. `options` are those of `feedline serve`.

    Blocks until it serves. Raises NotHere or ExtraMissing where no loader can run, LoaderUnavailable if one ends
    instead.
    """
    global _running  # noqa: PLW0603 - a fact of the process
    need_server()
    if _running.owner != os.getpid():
        _running = _Running()
    words = (*_words(data), *_workers(data, workers), *options)  # of an option that is there twice the last holds
    with _running.lock:
        loader, users = _running.loaders.setdefault(words, (LocalLoader(os.fspath(data), (*words, *HERE)), set()))
        use = Use(loader, words, _running)
        users.add(use)
    try:
        use.loader()
    except BaseException:
        use.release()
        raise
    return use


@contextlib.contextmanager
def serve(data: "str | os.PathLike[str]", *options: str, workers: int | None = None) -> Iterator[str]:
    """A loader of this data on this host, as long as the context lasts: `with feedline.serve("./digits") as target:`.

    `data` is a folder, a file, a `loader.toml`, or `module:name` of your own Python. `options` are those of `feedline
    serve`, such as `"--steps-per-epoch", "500"`; `workers` None is as many as cores less one. Gives the target for
    `connect` and `RemoteSequence`. It listens on 127.0.0.1 alone, on any free port, and ends with the process too.
    `connect("./digits")` starts one by itself.

    Blocks until it serves. Raises LoaderUnavailable, with what the loader says, if it cannot.
    """
    use = acquire(data, *options, workers=workers)
    try:
        yield use.loader()[0]
    finally:
        use.release()


def _words(data: "str | os.PathLike[str]") -> tuple[str, ...]:
    """What is served, absolute where it is a path: equal data has equal words."""
    text = os.fspath(data)
    if not text:
        raise InvalidRequest("an empty path names no data; write for example './digits'")
    return (text,) if is_object(text) else (str(Path(text).expanduser().absolute()),)


def _workers(data: "str | os.PathLike[str]", workers: int | None) -> tuple[str, ...]:
    """As many as cores less one, the trainer's; what a loader.toml or the environment says comes first."""
    path = Path(data)
    file = path / "loader.toml" if path.is_dir() else path
    if workers is None:
        with contextlib.suppress(OSError, ValueError):  # the loader says what is wrong with it
            if "FEEDLINE_WORKERS" in os.environ:
                return ()
            if file.suffix == ".toml" and "workers" in tomllib.loads(file.read_text()):
                return ()
        workers = max(len(os.sched_getaffinity(0)) - 1, 1)
    return ("--workers", str(workers))


@atexit.register
def _end_all() -> None:
    if _running.owner == os.getpid():
        for loader, _ in list(_running.loaders.values()):
            loader.close()
