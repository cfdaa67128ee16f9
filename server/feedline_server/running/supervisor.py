"""Several loaders on one host from one command: started, watched, replaced, ended together.

For hosts with more cores than one front process can send for. Each loader has a port of its own and knows nothing of
the others; a trainer names all of them. This process holds no data, speaks no gRPC, and when it ends, however it ends,
nothing of them is left.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import structlog
from pydantic import ByteSize

from feedline_server.host.addresses import beside, with_port
from feedline_server.host.signals import StopSignals
from feedline_server.settings.settings import LEAST_MEMORY, Settings
from feedline_server.workers.process import cause_of_death
from feedline_wire.errors import InvalidRequest

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
"""Pauses before a loader is started again that ended before it served: such an end is likely to come again."""

KILL_AFTER_S = 2.0
"""A loader that was told to stop at once is gone in under a second; one that was told to drain, that much after its own
drain_timeout_s and this. What runs on then is stuck."""

INTERRUPTED = 130
"""What a loader that is interrupted while it starts ends with: 128 + SIGINT, as shells have it."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class SupervisedLoader:
    """One loader, over its lives: its place among the others, and the process it is now."""

    settings: Settings
    process: "subprocess.Popen[bytes] | None" = None
    connection: "Connection[Any, Any] | None" = None
    pidfd: int = -1
    is_serving: bool = False
    start_at: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S

    @property
    def address(self) -> str:
        """Where it serves; with port 0 before it did for the first time."""
        return self.settings.listen


def divide(settings: Settings) -> list[Settings]:
    """The settings of each replica: workers and memory of the command are divided, ports are counted up."""
    count = settings.replicas
    if settings.workers < count or settings.memory // count < LEAST_MEMORY:
        raise InvalidRequest(
            f"replicas is {count}, with {settings.workers} workers and {settings.memory} bytes of memory to divide; "
            f"each needs a worker and {LEAST_MEMORY} bytes: ask for fewer replicas, or for more of these"
        )
    return [
        settings.model_copy(
            update={
                "replicas": 1,
                "listen": beside(settings.listen, index),
                "health_listen": settings.health_listen and beside(settings.health_listen, index),
                "tcp_port": settings.tcp_port and settings.tcp_port + index,
                "workers": settings.workers // count + (index < settings.workers % count),
                "memory": ByteSize(settings.memory // count),
            }
        )
        for index in range(count)
    ]


def exit_code(codes: Sequence[int]) -> int:
    """The command's exit code, of those of its loaders: the worst, negative ones being signals."""
    as_told = {0, -signal.SIGTERM, -signal.SIGINT}  # told so early that they had not learnt to listen
    failed = [code for code in codes if code not in as_told]
    # Those that were told to stop while they started say 130; one that failed by itself is the reason for it.
    by_themselves = [code for code in failed if code != INTERRUPTED] or failed
    return 0 if not failed else max(code if code > 0 else 1 for code in by_themselves)


def serve_replicas(settings: Settings, stop: StopSignals, listening: Callable[[Sequence[int]], None]) -> int:
    """Serve until told to stop; the exit code. `listening` is called once, with all ports, when all of them serve."""
    return Supervisor(divide(settings), stop, listening).run()


class Supervisor:
    """The loaders of one command. Main thread only: loaders end with the thread that started them."""

    def __init__(
        self, settings: Sequence[Settings], stop: StopSignals, listening: Callable[[Sequence[int]], None]
    ) -> None:
        self._replicas = [SupervisedLoader(one) for one in settings]
        self._stop = stop
        self._listening = listening
        self._selector = selectors.DefaultSelector()
        self._all_served = False
        self._told: signal.Signals | None = None
        self._kill_at = float("inf")
        self._codes: list[int] = []  # of those that ended when they were told, or that could not begin

    def __repr__(self) -> str:
        serving = sum(replica.is_serving for replica in self._replicas)
        return f"<Supervisor {','.join(replica.address for replica in self._replicas)} serving={serving}>"

    def run(self) -> int:
        """Start all, and keep them running until a signal asks for the end; the exit code."""
        self._stop.serving = True
        self._selector.register(self._stop, selectors.EVENT_READ)
        try:
            while self._told is None or self._running():
                self._start_due()
                for key, _ in self._selector.select(self._next_due_s()):
                    if key.data is None:
                        self._pass_on()
                    elif key.fd == key.data.pidfd:
                        self._bury(key.data)
                    elif key.data.connection is not None:  # else it was buried a moment ago
                        self._hear(key.data)
                self._kill_overdue()
        finally:
            for replica in self._running():
                self._send(replica, signal.SIGKILL)
                self._let_go(replica)
            self._selector.close()
        return exit_code(self._codes)

    # ---- what happens ----

    def _start_due(self) -> None:
        now = time.monotonic()
        for replica in self._replicas:
            if replica.process is None and replica.start_at <= now and self._told is None:
                self._start(replica)

    def _start(self, replica: SupervisedLoader) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            replica.process = subprocess.Popen(  # noqa: S603 - our own module, with numbers
                [sys.executable, "-m", "feedline_server.running.supervised", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # A group of its own: Ctrl-C on the terminal comes to this process alone, which passes it on once.
                process_group=0,
            )
        replica.pidfd = os.pidfd_open(replica.process.pid)
        replica.connection = Connection(ours.detach())
        self._selector.register(replica.connection.fileno(), selectors.EVENT_READ, replica)
        self._selector.register(replica.pidfd, selectors.EVENT_READ, replica)
        with contextlib.suppress(OSError):  # it ended already; that is noticed by its pidfd
            replica.connection.send_bytes(replica.settings.model_dump_json().encode())

    def _hear(self, replica: SupervisedLoader) -> None:
        """It says its port: it serves."""
        assert replica.connection is not None, "who is heard runs"
        try:
            port = int(replica.connection.recv_bytes())
        except (EOFError, OSError):  # it is ending, see _bury
            self._selector.unregister(replica.connection.fileno())
            return
        replica.is_serving = True
        replica.backoff_s = FIRST_BACKOFF_S
        # Over its next lives it keeps the port that trainers know.
        replica.settings = replica.settings.model_copy(update={"listen": with_port(replica.settings.listen, port)})
        if not self._all_served and all(one.is_serving for one in self._replicas):
            self._all_served = True
            addresses = [one.address for one in self._replicas]
            self._listening([int(address.rpartition(":")[2]) for address in addresses])
            log.info("all replicas serve", addresses=",".join(addresses), replicas=len(addresses), pid=os.getpid())

    def _bury(self, replica: SupervisedLoader) -> None:
        """It ended: told to, or it is started again, or it never could begin and all is over."""
        had_served = replica.is_serving
        code = self._let_go(replica)
        if self._told is not None:
            self._codes.append(code)
            return
        cause = cause_of_death(code)
        if not self._all_served:
            log.error("a replica cannot begin", address=replica.address, cause=cause)
            self._codes.append(code if code > 0 else 1)
            self._tell(signal.SIGINT)
            return
        pause_s = 0.0 if had_served else replica.backoff_s
        replica.backoff_s = FIRST_BACKOFF_S if had_served else min(replica.backoff_s * 2, MAX_BACKOFF_S)
        replica.start_at = time.monotonic() + pause_s
        log.warning("a replica ended, starting it again", address=replica.address, cause=cause, after_s=pause_s)

    def _pass_on(self) -> None:
        """A signal came: all of them get it."""
        self._stop.clear()
        if self._stop.is_requested:
            self._tell(signal.SIGINT if self._stop.is_immediate else signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        self._told = number
        patience_s = KILL_AFTER_S
        if number == signal.SIGTERM:
            patience_s += max(replica.settings.drain_timeout_s for replica in self._replicas)
        self._kill_at = time.monotonic() + patience_s
        for replica in self._running():
            self._send(replica, number)

    def _kill_overdue(self) -> None:
        if time.monotonic() >= self._kill_at:
            for replica in self._running():
                log.error("a replica did not end in time, killing it", address=replica.address)
                self._send(replica, signal.SIGKILL)
            self._kill_at = float("inf")

    # ---- small things ----

    def _running(self) -> list[SupervisedLoader]:
        return [replica for replica in self._replicas if replica.process is not None]

    def _send(self, replica: SupervisedLoader, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(replica.pidfd, number)

    def _let_go(self, replica: SupervisedLoader) -> int:
        """Take leave of a process that ended, or is about to; its exit code."""
        assert replica.process is not None, "who ended ran"
        assert replica.connection is not None, "who ended ran"
        for fd in (replica.pidfd, replica.connection.fileno()):
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        code = replica.process.wait()
        replica.connection.close()
        os.close(replica.pidfd)
        replica.process, replica.connection, replica.pidfd, replica.is_serving = None, None, -1, False
        return code

    def _next_due_s(self) -> float | None:
        """Seconds until something must be done although nobody calls; None if there is nothing."""
        starts = [] if self._told else [replica.start_at for replica in self._replicas if replica.process is None]
        due = min([*starts, self._kill_at])
        return None if due == float("inf") else max(due - time.monotonic(), 0.0)
