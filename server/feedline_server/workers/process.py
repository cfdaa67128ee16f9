"""One worker process as its pool sees it: started, spoken to, ended.

Not through `multiprocessing.Process`: that imports the loader's main module again in every worker and starts a helper
process that outlives a kill -9 (docs/design.md).
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

from feedline_server.host.environment import ENVIRONMENT
from feedline_server.workers.messages import CannotOpen, MapMemory, OpenDatasets, Outcome, Ready, Task, UnmapMemory
from feedline_server.workers.progress_cell import MARK_NBYTES, Mark

WORKER = ("-m", "feedline_server.workers.worker")
"""What Python runs as a worker."""

Message = Ready | CannotOpen | tuple[Outcome, ...]


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker. `held` are the tasks it was given and has not answered, in the order that it does them."""

    process: "subprocess.Popen[bytes]"
    connection: "Connection[Any, Any]"
    pidfd: int
    mark: Mark
    """Where it says which of `held` it is at."""
    ready: bool = False
    held: deque[Task] = field(default_factory=deque)
    busy_since: float = 0.0
    """When it was given the first of `held`, or answered last (time.monotonic)."""
    unsent: list[Task] = field(default_factory=list)
    """The last of `held`, of which it has not been told."""
    lent: set[int] = field(default_factory=set)
    """Trainers' memories that it has been told of."""
    is_overdue: bool = False
    """It was ended here, because one batch took it too long."""
    _arrived: select.poll = field(default_factory=select.poll)
    """Whether it said something: `Connection.poll` makes a selector for each look, 20 us, twice a batch."""

    def __post_init__(self) -> None:
        self._arrived.register(self.connection.fileno(), select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def messages(self) -> list[Message]:
        """What it has said and nobody has read; empty also when it has ended."""
        found: list[Message] = []
        with contextlib.suppress(EOFError, OSError):
            while self._arrived.poll(0):
                found.append(self.connection.recv())
        return found

    @property
    def load(self) -> float:
        """What it holds, in tasks that take long."""
        return sum(task.weight for task in self.held)

    @property
    def at(self) -> Task | None:
        """The task that it has begun and not answered; if it says nothing of that kind, the first that it holds."""
        return next((task for task in self.held if task.number == self.mark.number), next(iter(self.held), None))

    def give(self, task: Task) -> None:
        """Have it do a task, when `tell` is called."""
        self.held.append(task)
        self.unsent.append(task)

    def tell(self) -> None:
        """Tell it what it was given, in one message."""
        if self.unsent:
            self.send(tuple(self.unsent))
            self.unsent.clear()

    def lend(self, memory: int, fd: int) -> None:
        """Let it write to a trainer's memory, if it may not yet."""
        if memory not in self.lent:
            self.lent.add(memory)
            self.send(MapMemory(memory))
            try:
                send_handle(self.connection, fd, self.pid)
            except OSError:  # it is dying, or it waits for a descriptor that does not come and would misread the rest
                self.kill()

    def withdraw(self, memory: int) -> None:
        """It has been given the last task that names this memory."""
        if memory in self.lent:
            self.lent.discard(memory)
            self.send(UnmapMemory(memory))

    def send(self, message: OpenDatasets | MapMemory | UnmapMemory | tuple[Task, ...]) -> None:
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
        self.mark.close()
        return code


def start_worker(opening: OpenDatasets, arena_fd: int) -> WorkerProcess:
    """Start one worker and tell it what to open.

    The calling thread must live as long as the worker: the worker is killed when it ends (PR_SET_PDEATHSIG).
    """
    ours, theirs = socket.socketpair()
    mark_fd = os.memfd_create("feedline-mark", os.MFD_CLOEXEC)
    os.ftruncate(mark_fd, MARK_NBYTES)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module, with numbers
            [sys.executable, *WORKER, str(theirs.fileno()), str(arena_fd), str(mark_fd), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), arena_fd, mark_fd),
            env=ENVIRONMENT | dict(os.environ),
        )
    mark = Mark(mark_fd)
    os.close(mark_fd)
    worker = WorkerProcess(process, Connection(ours.detach()), os.pidfd_open(process.pid), mark)
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
