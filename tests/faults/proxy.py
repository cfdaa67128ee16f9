"""A line between trainers and loaders that can be long, slow, damaged, held up and cut.

Bytes pass unchanged and in order, but for what it is told to spoil. A user-space proxy: it needs no privileges and
touches nothing else on the host. It cannot drop single packets; a route that vanished is a line that holds.

    with Proxy("127.0.0.1:50051", delay_s=0.02) as line:
        feedline.connect(line.address)
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

READ_NBYTES = 128 << 10
"""Read at once: at 1 GB/s that is a read each 0.13 ms, which is how exact a delay can be."""

ON_THE_LINE_NBYTES = 256 << 20
"""Held for one direction of one connection, if nobody says otherwise: 2 GB/s over a line of 100 ms. Then the sender is
held up."""

START_S = 10.0
"""For what takes milliseconds: a test that waits so long should fail and say so."""


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_down: bool
    """From the loader to the trainer."""
    line: deque[tuple[float, bytes]] = field(default_factory=deque)
    """(when it arrives, what); empty bytes are the end."""
    nbytes: int = 0
    passed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Listens at `address` for as long as the context lasts; each connection goes to the next of `targets` in turn.

    Every method may be called from any thread, and has taken effect when it returns.
    """

    def __init__(
        self,
        *targets: str,
        delay_s: float = 0.0,
        address: str = "127.0.0.1:0",
        holds_nbytes: int = ON_THE_LINE_NBYTES,
    ) -> None:
        self.address = address
        self._holds_nbytes = holds_nbytes
        self._targets = itertools.cycle(targets)
        self._delay_s = delay_s
        self._bytes_per_s: float | None = None
        self._damage_after: int | None = None
        self._cut_after: int | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._ways: list[_Way] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._seen = threading.Condition()
        self._passed = 0
        self._connections = 0
        self._damaged = 0

    def __repr__(self) -> str:
        return f"<Proxy {self.address} connections={self._connections} passed={self._passed} damaged={self._damaged}>"

    # ---- what it has seen ----

    @property
    def passed(self) -> int:
        """Bytes that arrived at trainers."""
        return self._passed

    @property
    def damaged(self) -> int:
        """Bytes that arrived damaged."""
        return self._damaged

    @property
    def connections(self) -> int:
        """Trainers' connections that are open."""
        return self._connections

    def wait_until(self, holds: Callable[["Proxy"], bool], timeout_s: float = START_S) -> None:
        """Wait until something was seen: `line.wait_until(lambda line: line.passed > 1_000_000)`."""
        with self._seen:
            if not self._seen.wait_for(lambda: holds(self), timeout_s):
                raise TimeoutError(f"what was waited for did not come to hold within {timeout_s} s: {self!r}")

    # ---- what a test commands ----

    def delay(self, seconds: float) -> None:
        """From now on everything takes so long, each way."""
        self._do(self._set(delay_s=seconds))

    def limit(self, bytes_per_s: float | None) -> None:
        """From now on no more than this arrives at a trainer, for each connection; None ends it."""
        self._do(self._set(bytes_per_s=bytes_per_s))

    def damage(self, after: int = 0) -> None:
        """Change one bit of what comes from a loader, `after` bytes from now."""
        self._do(self._set(damage_after=after))

    def cut_after(self, nbytes: int | None) -> None:
        """Break each connection off when so much has arrived over it at a trainer; None ends it."""
        self._do(self._set(cut_after=nbytes))

    def hold(self) -> None:
        """Let nothing pass either way, and end nothing: a route that vanished, or a process that was stopped."""
        self._do(self._hold())

    def go_on(self) -> None:
        """Let pass what was held, and everything after it."""
        self._do(self._go_on())

    def cut(self) -> None:
        """Break every connection off; new ones are accepted."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Accept no new connection: the kernel refuses it. What is open stays."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Accept connections again, at the same address."""
        self._do(self._listen())

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    # ---- in the loop ----

    def _do(self, command: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(command, self._loop).result(START_S)

    async def _set(self, **changes: float | None) -> None:
        for name, value in changes.items():
            setattr(self, f"_{name}", value)

    async def _hold(self) -> None:
        self._passing.clear()

    async def _go_on(self) -> None:
        self._passing.set()

    async def _cut(self) -> None:
        for way in self._ways:
            way.writer.transport.abort()

    async def _refuse(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)  # what was accepted becomes a connection, as of a closed server it cannot
            self._server.close()
            self._server = None

    async def _listen(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._server = await asyncio.start_server(self._connected, host, int(port), limit=READ_NBYTES)
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def _end(self) -> None:
        await self._refuse()
        own = asyncio.current_task()
        # What was accepted a moment ago has no task of ours yet: its socket would stay open.
        while asyncio.all_tasks() - {own}:
            await self._cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Also here the handshake of TCP is not held: it is the kernel's, and was over before this is called.
        own = asyncio.current_task()
        assert own is not None, "a server calls this in a task"
        self._tasks.add(own)  # ended with the others: where it still connects it would begin more of them
        own.add_done_callback(self._tasks.discard)
        host, _, port = next(self._targets).rpartition(":")
        try:
            there, back = await asyncio.open_connection(host, int(port), limit=READ_NBYTES)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        ways = [_Way(reader, back, is_down=False), _Way(there, writer, is_down=True)]
        self._ways += ways
        self._see(connections=1)
        tasks = [asyncio.create_task(run(way)) for way in ways for run in (self._take_in, self._let_out)]
        self._tasks.update(tasks)
        try:
            await asyncio.gather(*tasks)
        except (OSError, asyncio.CancelledError):
            pass  # one side broke it off, so the other finds it broken off as well; or the proxy ends
        finally:
            for task in tasks:
                task.cancel()
            for way in ways:
                way.writer.transport.abort()
                self._ways.remove(way)
            self._tasks.difference_update(tasks)
            self._see(connections=-1)

    async def _take_in(self, way: _Way) -> None:
        """Read whatever comes, and note when it is to arrive."""
        while True:
            data = await way.reader.read(READ_NBYTES)
            way.line.append((self._loop.time() + self._delay_s, data))
            way.nbytes += len(data)
            way.changed.set()
            if not data:
                return
            while way.nbytes > self._holds_nbytes:
                way.changed.clear()
                await way.changed.wait()

    async def _let_out(self, way: _Way) -> None:
        """Write what has arrived, when it has."""
        while True:
            while not way.line:
                way.changed.clear()
                await way.changed.wait()
            due, data = way.line[0]
            if (early := due - self._loop.time()) > 0:
                await asyncio.sleep(early)
            await self._passing.wait()
            way.line.popleft()
            way.nbytes -= len(data)
            way.changed.set()
            if not data:
                if way.writer.can_write_eof():
                    way.writer.write_eof()
                return
            way.writer.write(self._spoil(data) if way.is_down else data)
            await way.writer.drain()
            if way.is_down:
                self._see(passed=len(data))
                way.passed += len(data)
                if self._cut_after is not None and way.passed >= self._cut_after:
                    way.writer.transport.abort()
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_s)

    def _spoil(self, data: bytes) -> bytes:
        if self._damage_after is None:
            return data
        if self._damage_after >= len(data):
            self._damage_after -= len(data)
            return data
        at, self._damage_after = self._damage_after, None
        self._see(damaged=1)
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    def _see(self, *, passed: int = 0, connections: int = 0, damaged: int = 0) -> None:
        with self._seen:
            self._passed += passed
            self._connections += connections
            self._damaged += damaged
            self._seen.notify_all()
