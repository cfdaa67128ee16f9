"""One worker process as its pool sees it: started, spoken to, ended.

Not through `multiprocessing.Process`: that imports the loader's main module again in every worker and starts a helper
process that outlives a kill -9 (docs/design.md).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from feedline_server.environment import ENVIRONMENT
from feedline_server.tasks import Done, Failed, Opening, Outgrown, Ready, Task, Unfit

WORKER = ("-m", "feedline_server.worker")
"""What Python runs as a worker."""

Message = Ready | Unfit | Done | Outgrown | Failed


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker. `held` are the tasks it was given and has not answered, the one it works on first."""

    process: "subprocess.Popen[bytes]"
    connection: "Connection[Any, Any]"
    pidfd: int
    ready: bool = False
    held: deque[Task] = field(default_factory=deque)
    busy_since: float = 0.0
    """When it began the first of `held` (time.monotonic)."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def messages(self) -> list[Message]:
        """What it has said and nobody has read; empty also when it has ended."""
        found: list[Message] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                found.append(self.connection.recv())
        return found

    def send(self, message: Opening | Task) -> None:
        """Tell it something; if it is dying, its end is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def kill(self) -> None:
        """End it now, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def hang_up(self) -> None:
        """Close the socket: it ends by itself after the batch it works on."""
        self.connection.close()

    def reap(self) -> int:
        """Wait for its end, which was noticed or ordered before; its exit code, negative for a signal."""
        self.connection.close()
        code = self.process.wait()
        os.close(self.pidfd)
        return code


def start_worker(opening: Opening, arena_fd: int) -> WorkerProcess:
    """Start one worker and tell it what to open.

    The calling thread must live as long as the worker: the worker is killed when it ends (PR_SET_PDEATHSIG).
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module, with numbers
            [sys.executable, *WORKER, str(theirs.fileno()), str(arena_fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), arena_fd),
            env=ENVIRONMENT | dict(os.environ),
        )
    worker = WorkerProcess(process, Connection(ours.detach()), os.pidfd_open(process.pid))
    worker.send(opening)
    return worker


def cause_of_death(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    hints = {
        signal.SIGKILL: "killed, for instance for want of memory",
        signal.SIGBUS: "a file it had mapped became shorter",
        signal.SIGSEGV: "a crash in compiled code",
    }
    number = signal.Signals(-code)
    return f"signal {number.name}" + (f": {hints[number]}" if number in hints else "")
