"""A way to a loader on which everything takes a while.

Everything passes unchanged, in order, and so long after it came. Python never sees a byte: they go from one socket into
a pipe and from there into the other socket (splice), so that the way takes little of the machine, and for a long way as
much as for none. tests/faults/proxy.py can do more, and copies each byte several times: it took more than feedline did,
and more the longer bytes waited in it (docs/design.md, 2026-11-26), which a comparison of ways must not measure.

    python -m benchmarks.way 127.0.0.1:50051 --delay-ms 20 --listen 127.0.0.2:50051

Prints where it listens, answers each line of its standard input with what has passed, and ends with it. Linux only.
"""

import argparse
import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from benchmarks.consumer import ROOT, FailedError, piped, quiet

PIECE_NBYTES = 1 << 20
"""What a pipe takes: the most that everybody may ask for (pipe(7)). With a new one's 64 KiB it took a quarter more."""

PIPES = 1024
"""For each direction of a connection, then the sender is held up. In small pieces of 64 KiB 3 GB/s over 20 ms."""

END_S = 10.0


@dataclass(frozen=True, slots=True)
class Passed:
    """What a way has done until now."""

    nbytes: int
    """Both directions."""
    cpu_s: float

    def __sub__(self, earlier: "Passed") -> "Passed":
        return Passed(self.nbytes - earlier.nbytes, self.cpu_s - earlier.cpu_s)


class Way:
    """A way's process, seen from the one that compares."""

    def __init__(self, target: str, delay_ms: float, listen: str = "127.0.0.1:0") -> None:
        command = [sys.executable, "-m", "benchmarks.way", target, "--delay-ms", str(delay_ms), "--listen", listen]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet()
        )
        self._told = piped(self._process.stdin)
        self._says = piped(self._process.stdout)
        self.address = self._answer()

    def passed(self) -> Passed:
        self._told.write("\n")
        self._told.flush()
        return Passed(**json.loads(self._answer()))

    def close(self) -> None:
        self._told.close()
        self._process.wait(END_S)
        self._says.close()

    def _answer(self) -> str:
        if not (line := self._says.readline()):
            raise FailedError(f"a way ended with code {self._process.wait(END_S)}: {self._process.args!r}")
        return line.strip()


@contextmanager
def way(target: str, delay_ms: float, listen: str = "127.0.0.1:0") -> Iterator[Way]:
    """A way to `target` for as long as the context lasts."""
    one = Way(target, delay_ms, listen)
    try:
        yield one
    finally:
        one.close()


def free_port() -> int:
    """For a server at the end of a way, whose port must be known before."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# ---- inside the process ----


@dataclass(frozen=True, slots=True)
class Pipe:
    """Its two ends."""

    out: int
    into: int

    @classmethod
    def make(cls) -> "Pipe":
        out, into = os.pipe()
        with suppress(PermissionError):  # this user has as much in pipes as it may; it is slower then
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIECE_NBYTES)
        return cls(out, into)


@dataclass(eq=False)
class Direction:
    """One direction of one connection: full pipes in the order in which they are due."""

    source: socket.socket
    sink: socket.socket
    delay_s: float
    nbytes: int = 0
    line: deque[tuple[float, Pipe, int]] = field(default_factory=deque)
    """(when it is due, where it is, how much it is); no bytes are the end."""
    free: list[Pipe] = field(default_factory=list)
    made: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        for run in (self.take_in, self.let_out):
            threading.Thread(target=run, daemon=True).start()

    def take_in(self) -> None:
        """Move whatever comes into a pipe, and note when it is due."""
        taken = 1
        while taken:
            pipe = self._lend()
            try:
                taken = os.splice(self.source.fileno(), pipe.into, PIECE_NBYTES)
            except OSError:
                taken = 0
            with self.changed:
                self.line.append((time.monotonic() + self.delay_s, pipe, taken))
                self.changed.notify_all()

    def let_out(self) -> None:
        """Move what is due into the other socket, until one of the two ends it."""
        with suppress(OSError):
            while (due := self._next())[2]:
                when, pipe, left = due
                if (early := when - time.monotonic()) > 0:
                    time.sleep(early)
                while left:
                    moved = os.splice(pipe.out, self.sink.fileno(), left)
                    left -= moved
                    self.nbytes += moved
                self._take_back(pipe)
            self.sink.shutdown(socket.SHUT_WR)
            return
        # Whoever sends to a side that is gone is told so.
        with suppress(OSError):
            self.source.shutdown(socket.SHUT_RDWR)

    def _next(self) -> tuple[float, Pipe, int]:
        with self.changed:
            while not self.line:
                self.changed.wait()
            return self.line.popleft()

    def _lend(self) -> Pipe:
        with self.changed:
            while not self.free and self.made == PIPES:
                self.changed.wait()
            if self.free:
                return self.free.pop()
            self.made += 1
        return Pipe.make()

    def _take_back(self, pipe: Pipe) -> None:
        with self.changed:
            self.free.append(pipe)
            self.changed.notify_all()


class Connections:
    """All that came in. Their pipes are closed by the process' end: it lives for as long as one comparison."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
        self._listener = listener
        self._target = target
        self._delay_s = delay_s
        self._directions: list[Direction] = []

    def accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.create_connection(self._target)
            for each in (here, there):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            both = [Direction(*ends, self._delay_s) for ends in ((here, there), (there, here))]
            self._directions += both
            for direction in both:
                direction.start()

    def passed(self) -> Passed:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Passed(sum(one.nbytes for one in self._directions), used.ru_utime + used.ru_stime)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=address, metavar="HOST:PORT")
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way")
    asked = parser.parse_args()
    # Two for each pipe, and common limits are 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(asked.listen)
    connections = Connections(listener, asked.target, asked.delay_ms / 1000)
    threading.Thread(target=connections.accept, daemon=True).start()
    host, port = listener.getsockname()
    print(f"{host}:{port}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(connections.passed())), flush=True)


if __name__ == "__main__":
    main()
