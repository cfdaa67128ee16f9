"""Loaders and trainers as processes of their own, and what is left of them when all should be gone.

Every process that a stage starts, and every process that those start, carries the stage's mark in its environment.
`close` finds all that still have it, those too that lost their parent.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from certificates import Authority
from ports import free_address

from breaking.lanes import TLS
from breaking.trainer import Spec

HERE = Path(__file__).resolve().parent

MARK = "BREAKING_STAGE"

SHM = "/dev/shm/"
"""Where memory with a name is. Others on this machine have some there too, so what is there at the end says nothing."""

START_S = 300.0
"""A loader that does not listen by then is stuck: it takes two seconds, and 80 on two cores at a load of 35."""

END_S = 180.0
"""A process that runs on for so long after SIGTERM is stuck: a drain takes 20 s at most."""

BATCH_S = 120.0
"""A trainer that has no batch for so long is stuck: its own deadline is shorter."""

GONE_S = 30.0
"""The kernel ends workers with their loader. The bound is for a busy machine."""

LOOK_S = 0.02
"""How often a port file is looked for: no event tells that a file has appeared."""


class Loader:
    """A loader, which can be started again at its address."""

    def __init__(
        self,
        stage: "Stage",
        data: Path,
        address: str,
        args: Sequence[str],
        output: Path | None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._stage = stage
        self._prefix = prefix
        self.data = data
        self.address = address
        self._args = args
        self._output = output
        self.log = stage.folder / f"loader-{secrets.token_hex(3)}.log"
        self.begin()

    def __repr__(self) -> str:
        return f"<Loader {self.address} pid={self.process.pid} log={self.log}>"

    def start(self) -> None:
        """Start it again and wait until it listens."""
        self.begin()
        self.wait_until_it_listens()

    def begin(self) -> None:
        """Start it, and do not wait."""
        self._port_file = port_file = self.log.with_suffix(f".{secrets.token_hex(3)}.port")
        command = [sys.executable, "-m", "feedline_server", "serve", str(self.data), "--listen", self.address]
        with (self._output or self.log).open("ab") as output:
            self.process = subprocess.Popen(
                [*self._prefix, *command, "--port-file", str(port_file), *self._args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._stage.environment(),
                process_group=0,  # Ctrl-C is for the test run, which ends the others in order
            )

    def wait_until_it_listens(self) -> None:
        """Wait for its port."""
        port_file = self._port_file
        until = time.monotonic() + START_S
        while not (port_file.exists() and (text := port_file.read_text().strip())):
            assert self.process.poll() is None, f"{self} ended with {self.process.returncode}:\n{self.log_text()}"
            assert time.monotonic() < until, f"{self} does not listen after {START_S} s:\n{self.log_text()}"
            time.sleep(LOOK_S)
        self.address = f"{self.address.rpartition(':')[0]}:{text}"

    @property
    def front(self) -> psutil.Process:
        """Its own process."""
        return psutil.Process(self.process.pid)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that assemble."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self.front.children()
        return children

    def end(self) -> int:
        """End it with SIGTERM; the exit code. *Idempotent.* Blocks until it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def log_text(self) -> str:
        """Its log, for messages."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Trainer:
    """A trainer, which can be started again where its record ends."""

    def __init__(self, stage: "Stage", spec: Spec, prefix: Sequence[str]) -> None:
        self._stage = stage
        self._prefix = prefix
        self.spec = spec
        self.log = stage.folder / f"{Path(spec.record).name}.log"
        self.batches = 0
        """Delivered since it was first started, as far as it has said."""
        self._changed = threading.Condition()
        self.start()

    def __repr__(self) -> str:
        return f"<Trainer {self.spec.record} pid={self.process.pid} batches={self.batches}>"

    def start(self) -> None:
        """Start it, again if it has ended. Does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "breaking.trainer", json.dumps(asdict(self.spec))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._stage.environment(),
                process_group=0,
            )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._count, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    @property
    def front(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(self.process.pid)

    @property
    def record(self) -> Path:
        """Where it writes what it consumed."""
        return Path(self.spec.record)

    def wait_for(self, more: int, timeout_s: float = BATCH_S) -> None:
        """Wait until it has consumed so many more batches, or has ended."""
        with self._changed:
            wanted = self.batches + more
            arrived = self._changed.wait_for(lambda: self.batches >= wanted or not self._reader.is_alive(), timeout_s)
        assert arrived, f"{self} did not get {more} more batches within {timeout_s} s; its log:\n{self.log_text()}"

    def end(self, timeout_s: float = BATCH_S) -> int:
        """Let it finish the epoch that it is in, and say with what code it ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already
            self.process.stdin.write(b"last\n")
            self.process.stdin.flush()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = BATCH_S) -> int:
        """Wait for its end, and say with what code it ended."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} runs on after {timeout_s} s; its log:\n{self.log_text()}") from None
        self._reader.join(END_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code

    def log_text(self) -> str:
        """Its log, for messages."""
        return self.log.read_text(errors="replace")

    def _count(self, output: IO[bytes]) -> None:
        with contextlib.suppress(ValueError):
            for _ in output:
                with self._changed:
                    self.batches += 1
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class Stage:
    """Starts loaders and trainers in `folder`; `close` ends them all and says what is left."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.loaders: list[Loader] = []
        self.trainers: list[Trainer] = []
        self._mark = secrets.token_hex(8)
        self._environment = environment
        self._authority: Authority | None = None

    def environment(self) -> dict[str, str]:
        """What every process of the stage runs in."""
        paths = [str(HERE / "inside"), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths), MARK: self._mark} | self._environment

    def loader(
        self,
        data: Path,
        *args: str,
        address: str | None = None,
        output: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> Loader:
        """Start one; it listens when this returns. `output` takes what it logs, instead of its own file.

        `prefix` is put before its command line.
        """
        address = address or free_address()
        loader = Loader(self, data, address, self._certified(args, address), output, prefix)
        self.loaders.append(loader)
        loader.wait_until_it_listens()
        return loader

    def fleet(self, number: int, data: Path, *args: str) -> list[Loader]:
        """Start several at the same time; they listen when this returns."""
        addresses = [free_address() for _ in range(number)]
        loaders = [Loader(self, data, address, self._certified(args, address), None) for address in addresses]
        self.loaders += loaders
        for loader in loaders:
            loader.wait_until_it_listens()
        return loaders

    @property
    def trust(self) -> dict[str, Any]:
        """What `feedline.connect` is told to connect to its loaders; its trainers know it by themselves."""
        return {} if self._authority is None else {"ca": self._authority.file}

    def _certified(self, args: Sequence[str], address: str) -> Sequence[str]:
        """The arguments, with a certificate for this host where they ask for TLS."""
        if TLS not in args:
            return args
        self._authority = self._authority or Authority(self.folder, "authority")
        self._environment["FEEDLINE_CA"] = str(self._authority.file)
        pair = self._authority.issue("loader", address.rpartition(":")[0], "127.0.0.1", "127.0.0.2", "127.0.0.3")
        return (*(arg for arg in args if arg != TLS), *pair.arguments)

    def trainer(self, target: str, name: str = "trainer", *, prefix: Sequence[str] = (), **options: object) -> Trainer:
        """Start one; the options are those of `Spec`. `prefix` is put before its command line."""
        spec = Spec(record=str(self.folder / name), target=target, **options)  # type: ignore[arg-type]
        self.trainers.append(Trainer(self, spec, prefix))
        return self.trainers[-1]

    def processes(self) -> Iterator[psutil.Process]:
        """All that carry the mark and live."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def close(self) -> list[str]:
        """End everything, loaders as they should be ended; what is left or went wrong, in words."""
        problems = [
            f"{process} has memory with a name, which would outlive it: {names}"
            for process in self.processes()
            if (names := named_memory(process))
        ]
        for trainer in self.trainers:
            if trainer.process.poll() is None:
                trainer.process.kill()
            trainer.wait()
        running = [loader for loader in self.loaders if loader.process.poll() is None]
        for loader in running:
            loader.process.send_signal(signal.SIGTERM)
        for loader in running:
            try:
                if code := loader.process.wait(END_S):
                    problems.append(f"{loader} was told to end and did so with code {code}:\n{loader.log_text()}")
            except subprocess.TimeoutExpired:
                problems.append(f"{loader} did not end within {END_S} s:\n{loader.log_text()}")
        for what, left in {
            "processes": lambda: set(self.processes()),
            "open ports": self._open_ports,
        }.items():
            if found := _what_stays(left):
                problems.append(f"{what} left behind: {found}")
        for process in self.processes():
            process.kill()
        return problems

    def _open_ports(self) -> set[str]:
        """Our addresses that are still listened on. A port that another program has taken since does not count."""
        ours = {loader.address for loader in self.loaders}
        marked = {process.pid for process in self.processes()}
        return {
            f"{one.laddr.ip}:{one.laddr.port}"
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and (one.pid is None or one.pid in marked)
        } & ours


def named_memory(process: psutil.Process) -> set[str]:
    """What of /dev/shm a process has mapped or open. Its memory should have no name, so that none can be left."""
    here = Path(f"/proc/{process.pid}")
    found = set()
    with contextlib.suppress(OSError):
        found |= {line[line.index(SHM) :] for line in (here / "maps").read_text().splitlines() if SHM in line}
        found |= {str(fd.readlink()) for fd in (here / "fd").iterdir() if str(fd.readlink()).startswith(SHM)}
    return found


def _what_stays(left: Callable[[], set[Any]]) -> set[Any]:
    """What is there, and still is after a while."""
    stays = left()
    until = time.monotonic() + GONE_S
    while stays and time.monotonic() < until:
        time.sleep(0.1)  # a process that ends tells only its parent, which may have ended
        stays &= left()
    return stays


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds that lives on."""

    fds: int
    rss: int

    @classmethod
    def by(cls, process: psutil.Process) -> "Held":
        """What it holds now."""
        return cls(process.num_fds(), process.memory_info().rss)
