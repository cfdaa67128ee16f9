"""What all tests share: numbered data, and the real loader as a process.

What a test starts is gone when the test is over, however it ended; else the test fails and names what is left.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from ports import free_address

pytest_plugins = ["tiers", "alone", "ending", "certificates"]

START_S = 180.0
"""A loader that does not listen by then is stuck: it takes some seconds on two busy cores, a minute at a load of 60."""

STOP_S = 30.0
"""A loader that runs on for so long after SIGTERM is stuck: its own drain takes less."""

ORPHANS_S = 30.0
"""The kernel ends workers with their loader. The bound is for a busy machine."""

LOOK_S = 0.02
"""How often a starting loader is looked at: no event tells that a file has appeared."""

# On shared machines an example may take any time; a test that hangs is ended by pytest's own limit.
settings.register_profile("feedline", deadline=None)
settings.load_profile("feedline")


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """A command that a test runs in this process (`inspect`, `convert`) sets how it logs: for that test alone."""
    yield
    if (structlog := sys.modules.get("structlog")) is not None:
        structlog.reset_defaults()


@dataclass(slots=True)
class StartedLoader:
    """A loader in a process of its own, listening at `address`, or at several, for `--replicas`."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    """Everything it wrote to standard output and standard error."""

    _family: list[psutil.Process] = field(default_factory=list)
    """Its workers at the time of SIGTERM. None of them may outlive it."""

    def drain(self) -> None:
        """Send SIGTERM and do not wait. *Idempotent*: a loader takes a second SIGTERM as an order to end at once."""
        if not self._family and self.process.poll() is None:
            self._family = self.workers()
            self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """End it with SIGTERM; the exit code. *Idempotent.* Blocks until it and all its workers have ended."""
        self.drain()
        return self._wait(timeout_s)

    def kill(self) -> int:
        """End it with SIGKILL, as a crash would; the exit code. Blocks until its workers are gone too."""
        if self.process.poll() is None:
            self._family = self._family or self.workers()
            self.process.kill()
        return self._wait(STOP_S)

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _wait(self, timeout_s: float) -> int:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)
            raise AssertionError(f"the loader ran on for {timeout_s} s; its log:\n{self.log_text()}") from None
        _, left = psutil.wait_procs(self._family, timeout=ORPHANS_S)
        for orphan in left:
            orphan.kill()
        assert not left, f"the loader left processes behind: {left}; its log:\n{self.log_text()}"
        return code

    def log_text(self) -> str:
        """Its log, for messages of failing tests."""
        return self.log.read_text(errors="replace")


StartLoader = Callable[..., StartedLoader]


def _started(folder: Path, path: Path, *args: str) -> StartedLoader:
    """Start a loader. Blocks until it listens. `folder` takes its log and its port file."""
    port_file, log = folder / "port", folder / "log"
    listen = "127.0.0.1:0" if "--replicas" in args else free_address()
    command = [sys.executable, "-m", "feedline_server", "serve", str(path)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--listen", listen, "--port-file", str(port_file), *args],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    loader = StartedLoader("", process, log)
    try:
        loader.address = ",".join(f"127.0.0.1:{port}" for port in _ports(loader, port_file))
    except BaseException:
        loader.kill()
        raise
    return loader


def _ports(loader: StartedLoader, port_file: Path) -> list[int]:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if port_file.exists() and (text := port_file.read_text().strip()):
            return [int(line) for line in text.splitlines()]
        try:
            code = loader.process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the loader ended with code {code} before it listened; its log:\n{loader.log_text()}")
    raise AssertionError(f"the loader did not listen within {START_S} s; its log:\n{loader.log_text()}")


def _stop_what_runs(loader: StartedLoader) -> None:
    if loader.process.poll() is None:
        code = loader.stop()
        assert code == 0, f"the loader ended with code {code}; its log:\n{loader.log_text()}"


def _loaders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLoader]:
    with ExitStack() as running:

        def start(path: Path, *args: str) -> StartedLoader:
            loader = _started(tmp_path_factory.mktemp("loader"), path, *args)
            running.callback(_stop_what_runs, loader)
            return loader

        yield start


@pytest.fixture
def start_loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLoader]:
    """Start real loaders: `start_loader(path, *args)` gives a `StartedLoader` that listens.

    `args` are those of `python -m feedline_server serve`. All loaders are stopped after the test, the last one first.
    """
    yield from _loaders(tmp_path_factory)


@pytest.fixture(scope="module")
def start_module_loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLoader]:
    """Like `start_loader`, for loaders that the tests of one file only read from: stopped after them."""
    yield from _loaders(tmp_path_factory)


@pytest.fixture(scope="session")
def start_shared_loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLoader]:
    """Like `start_loader`, for loaders that many tests only read from: stopped at the end of the run."""
    yield from _loaders(tmp_path_factory)


@pytest.fixture(scope="session")
def numbered_columns() -> Callable[..., dict[str, NDArray]]:
    """Write a dataset in which row i holds the number i: `numbered_columns(folder, n, shape, dtype)`.

    Makes `folder` with `x.npy` (n rows of `shape` and `dtype`, each element of row i is i) and `y.npy` (int64, y[i] is
    i); returns both arrays by name. Refuses a dtype that cannot tell n rows apart.
    """

    def make(folder: Path, n: int, shape: tuple[int, ...] = (4,), dtype: str = "float32") -> dict[str, NDArray]:
        ids = np.arange(n, dtype=np.int64)
        x = np.empty((n, *shape), dtype)
        x[...] = ids.reshape(n, *(1 for _ in shape))
        assert len(np.unique(ids.astype(dtype))) == n, f"{dtype} cannot number {n} rows"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", ids)
        return {"x": x, "y": ids}

    return make
