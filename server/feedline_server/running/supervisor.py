"""Several loaders on one host from one command: started, watched, replaced, ended together.

For hosts with more cores than one front process can send for. Each loader has a port of its own and knows nothing of
the others; a trainer names all of them. This process holds no data and speaks no gRPC.
"""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from pydantic import ByteSize

from feedline_server.host.addresses import beside, with_port
from feedline_server.host.child_process import ChildProcess, Exit
from feedline_server.host.signals import StopSignals
from feedline_server.running.sizing import Cores, Sizing, shares
from feedline_server.settings.settings import LEAST_MEMORY, Settings
from feedline_wire.errors import InvalidRequest

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
"""Pauses before a loader is started again that ended before it served: such an end is likely to come again."""

KILL_AFTER_S = 2.0
"""A loader stops in under a second, one that drains in under a second more than its drain_timeout_s. One
that takes this much longer is stuck."""

INTERRUPTED = 130
"""What a loader that is interrupted while it starts ends with: 128 + SIGINT, as shells have it."""

log = structlog.get_logger()


SUPERVISED = ("-m", "feedline_server.running.supervised")
"""What Python runs as one of the loaders."""


@dataclass(eq=False, slots=True)
class SupervisedLoader:
    """One loader, over its lives: its place among the others, and the process it is now."""

    settings: Settings
    cores: Cores = ()
    """Which it and all that it starts keep to; empty: any."""
    child: ChildProcess | None = None
    is_serving: bool = False
    is_to_reload: bool = False
    """As soon as it serves."""
    start_at: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S

    @property
    def address(self) -> str:
        """Where it serves; with port 0 until it has served for the first time."""
        return self.settings.listen


def divide(settings: Settings, sizing: Sizing | None = None) -> list[Settings]:
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
                "metrics_listen": settings.metrics_listen and beside(settings.metrics_listen, index),
                "tcp_port": settings.tcp_port and settings.tcp_port + index,
                "workers": workers,
                "memory": ByteSize(settings.memory // count),
            }
        )
        for index, workers in enumerate(shares(sizing or Sizing(count, settings.workers)))
    ]


def exit_code(codes: Sequence[int]) -> int:
    """The command's exit code, of those of its loaders: the worst, negative ones being signals."""
    asked = {0, -signal.SIGTERM, -signal.SIGINT}  # negative: the signal came before they had a handler for it
    failed = [code for code in codes if code not in asked]
    # Those that were stopped while they started end with 130; one that failed by itself is the reason for it.
    by_themselves = [code for code in failed if code != INTERRUPTED] or failed
    return 0 if not failed else max(code if code > 0 else 1 for code in by_themselves)


def serve_replicas(
    settings: Settings, sizing: Sizing, stop: StopSignals, listening: Callable[[Sequence[int]], None]
) -> int:
    """Serve until a signal asks for the end; the exit code. `listening` gets all ports once all of them serve."""
    return Supervisor(divide(settings, sizing), sizing.cores, stop, listening).run()


class Supervisor:
    """The loaders of one command. Main thread only: loaders end with the thread that started them."""

    def __init__(
        self,
        settings: Sequence[Settings],
        cores: Sequence[Cores],
        stop: StopSignals,
        listening: Callable[[Sequence[int]], None],
    ) -> None:
        """`cores` are those of each loader, or of none."""
        any_core: Cores = ()
        each = cores or [any_core] * len(settings)
        self._loaders = [SupervisedLoader(one, own) for one, own in zip(settings, each, strict=True)]
        self._stop = stop
        self._listening = listening
        self._selector = selectors.DefaultSelector()
        self._all_served = False
        self._sent: signal.Signals | None = None
        """The signal that asked all loaders to end."""
        self._kill_at = float("inf")
        self._codes: list[int] = []  # of loaders that ended when they were asked to, or that could not begin

    def __repr__(self) -> str:
        serving = sum(loader.is_serving for loader in self._loaders)
        return f"<Supervisor {','.join(loader.address for loader in self._loaders)} serving={serving}>"

    def run(self) -> int:
        """Start all, and keep them running until a signal asks for the end; the exit code."""
        self._stop.serving = True
        self._selector.register(self._stop, selectors.EVENT_READ)
        try:
            while self._sent is None or self._running():
                self._start_due()
                for key, _ in self._selector.select(self._next_due_s()):
                    if key.data is None:
                        self._forward_signal()
                    elif key.data.child is not None:  # else it was replaced a moment ago
                        if key.fd == key.data.child.pidfd:
                            self._on_exit(key.data)
                        else:
                            self._on_port(key.data, key.data.child)
                self._kill_overdue()
        finally:
            for loader in self._running():
                self._close(loader)
            self._selector.close()
        return exit_code(self._codes)

    # ---- what happens ----

    def _start_due(self) -> None:
        now = time.monotonic()
        for loader in self._loaders:
            if loader.child is None and loader.start_at <= now and self._sent is None:
                loader.child = ChildProcess(SUPERVISED)
                self._selector.register(loader.child.connection.fileno(), selectors.EVENT_READ, loader)
                self._selector.register(loader.child.pidfd, selectors.EVENT_READ, loader)
                with contextlib.suppress(OSError):  # it ended already; that is noticed by its pidfd
                    loader.child.connection.send_bytes(loader.settings.model_dump_json().encode())
                    loader.child.connection.send_bytes(" ".join(map(str, loader.cores)).encode())

    def _on_port(self, loader: SupervisedLoader, child: ChildProcess) -> None:
        """It sends its port: it serves."""
        try:
            port = int(child.connection.recv_bytes())
        except (EOFError, OSError):  # it is ending, see _on_exit
            self._selector.unregister(child.connection.fileno())
            return
        loader.is_serving = True
        loader.backoff_s = FIRST_BACKOFF_S
        self._reload(loader)
        # Over its next lives it keeps the port that trainers know.
        loader.settings = loader.settings.model_copy(update={"listen": with_port(loader.settings.listen, port)})
        if not self._all_served and all(one.is_serving for one in self._loaders):
            self._all_served = True
            addresses = [one.address for one in self._loaders]
            self._listening([int(address.rpartition(":")[2]) for address in addresses])
            log.info("all replicas serve", addresses=",".join(addresses), replicas=len(addresses), pid=os.getpid())

    def _on_exit(self, loader: SupervisedLoader) -> None:
        """It ended: as it was asked to, or it is started again, or it never could begin and all end."""
        had_served = loader.is_serving
        ended = self._close(loader)
        crash = {"traceback": ended.report} if ended.report else {}
        if self._sent is not None:
            self._codes.append(ended.code)
            if crash:
                log.error("a replica crashed while it ended", address=loader.address, cause=str(ended), **crash)
            return
        if not self._all_served:
            log.error("a replica cannot begin", address=loader.address, cause=str(ended), **crash)
            self._codes.append(ended.code if ended.code > 0 else 1)
            self._send_all(signal.SIGINT)
            return
        pause_s = 0.0 if had_served else loader.backoff_s
        loader.backoff_s = FIRST_BACKOFF_S if had_served else min(loader.backoff_s * 2, MAX_BACKOFF_S)
        loader.start_at = time.monotonic() + pause_s
        log.warning(
            "a replica ended, starting it again", address=loader.address, cause=str(ended), after_s=pause_s, **crash
        )

    def _forward_signal(self) -> None:
        self._stop.clear()
        if self._stop.take_reload():
            for loader in self._loaders:
                loader.is_to_reload = True
                self._reload(loader)
        if self._stop.is_requested:
            self._send_all(signal.SIGINT if self._stop.is_immediate else signal.SIGTERM)

    def _send_all(self, number: signal.Signals) -> None:
        self._sent = number
        limit_s = KILL_AFTER_S
        if number == signal.SIGTERM:
            limit_s += max(loader.settings.drain_timeout_s for loader in self._loaders)
        self._kill_at = time.monotonic() + limit_s
        for loader in self._running():
            if loader.child is not None:
                loader.child.signal(number)

    def _reload(self, loader: SupervisedLoader) -> None:
        """Pass it on. One that does not serve yet may have opened the data already."""
        if loader.is_to_reload and loader.is_serving and loader.child is not None:
            loader.is_to_reload = False
            loader.child.signal(signal.SIGUSR2)

    def _kill_overdue(self) -> None:
        if time.monotonic() >= self._kill_at:
            for loader in self._running():
                log.error("a replica did not end in time, killing it", address=loader.address)
                self._codes.append(self._close(loader).code)
            self._kill_at = float("inf")

    # ---- small things ----

    def _running(self) -> list[SupervisedLoader]:
        return [loader for loader in self._loaders if loader.child is not None]

    def _close(self, loader: SupervisedLoader) -> Exit:
        """End its process, if it has not ended."""
        assert loader.child is not None, "the loader has a process"
        for fd in (loader.child.pidfd, loader.child.connection.fileno()):
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        ended = loader.child.close()
        loader.child, loader.is_serving = None, False
        return ended

    def _next_due_s(self) -> float | None:
        """Seconds until something must be done although nothing happens; None if there is nothing."""
        starts = [] if self._sent else [loader.start_at for loader in self._loaders if loader.child is None]
        due = min([*starts, self._kill_at])
        return None if due == float("inf") else max(due - time.monotonic(), 0.0)
