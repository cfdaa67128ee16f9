"""One worker process as its pool sees it: given tasks, read from, ended."""

import contextlib
import os
import select
import signal
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.reduction import send_handle

from feedline_server.host.child_process import USER_CODE_ENVIRONMENT, WORKER, ChildProcess, Exit
from feedline_server.workers.messages import (
    CELL_NBYTES,
    CannotOpen,
    MapMemory,
    OpenDatasets,
    Outcome,
    ProgressCell,
    Ready,
    Task,
    UnmapMemory,
)

FromWorker = Ready | CannotOpen | tuple[Outcome, ...]


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker."""

    child: ChildProcess
    cell: ProgressCell
    ready: bool = False
    held: deque[Task] = field(default_factory=deque)
    """Tasks that it was given and has not answered, in the order that it does them."""
    busy_since: float = 0.0
    """When it was given the first of `held`, or answered last (time.monotonic)."""
    unsent: list[Task] = field(default_factory=list)
    """The last of `held`, which `flush` will send."""
    mapped: set[int] = field(default_factory=set)
    """Trainers' memories that it was sent."""
    is_overdue: bool = False
    """It was killed because one batch took it too long."""
    _arrived: select.poll = field(default_factory=select.poll)
    """Whether there are messages: `Connection.poll` makes a selector for each look, 20 us, twice a batch."""

    def __post_init__(self) -> None:
        self._arrived.register(self.child.connection.fileno(), select.POLLIN)

    def messages(self) -> list[FromWorker]:
        """What it has sent and was not read yet; empty also when it has ended."""
        found: list[FromWorker] = []
        with contextlib.suppress(EOFError, OSError):
            while self._arrived.poll(0):
                found.append(self.child.connection.recv())
        return found

    @property
    def load(self) -> float:
        """What it holds, in tasks that take long."""
        return sum(task.weight for task in self.held)

    @property
    def current(self) -> Task | None:
        """The task that it has begun and not answered; the first that it holds if its cell names none of them."""
        return next((task for task in self.held if task.number == self.cell.number), next(iter(self.held), None))

    def assign(self, task: Task) -> None:
        """Have it do a task; `flush` sends it."""
        self.held.append(task)
        self.unsent.append(task)

    def flush(self) -> None:
        """Send the tasks that it was assigned, in one message."""
        if self.unsent:
            self.send(tuple(self.unsent))
            self.unsent.clear()

    def map_memory(self, memory: int, fd: int) -> None:
        """Let it write to a trainer's memory, if it may not yet."""
        if memory not in self.mapped:
            self.mapped.add(memory)
            self.send(MapMemory(memory))
            try:
                send_handle(self.child.connection, fd, self.child.pid)
            except OSError:  # it is dying, or it waits for a descriptor that does not come and would misread the rest
                self.child.signal(signal.SIGKILL)

    def unmap_memory(self, memory: int) -> None:
        """It was given the last task that names this memory."""
        if memory in self.mapped:
            self.mapped.discard(memory)
            self.send(UnmapMemory(memory))

    def send(self, message: OpenDatasets | MapMemory | UnmapMemory | tuple[Task, ...]) -> None:
        """Send a message; if the worker is dying, its end is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self.child.connection.send(message)

    def close(self) -> Exit:
        """End it if it has not ended, with all that it has started."""
        self.cell.close()
        return self.child.close()


def start_worker() -> ChildProcess:
    """Start a worker, which loads what it needs and waits for datasets. The calling thread must live as long as it."""
    return ChildProcess(WORKER, USER_CODE_ENVIRONMENT)


def give_datasets(child: ChildProcess, datasets: OpenDatasets, arena_fd: int) -> WorkerProcess:
    """Have a worker open the datasets and work at them."""
    cell_fd = os.memfd_create("feedline-progress", os.MFD_CLOEXEC)
    os.ftruncate(cell_fd, CELL_NBYTES)
    worker = WorkerProcess(child, ProgressCell(cell_fd))
    with contextlib.suppress(OSError):  # it ended; that is noticed by its pidfd
        child.connection.send(datasets)
        for fd in (arena_fd, cell_fd):
            send_handle(child.connection, fd, child.pid)
    os.close(cell_fd)
    return worker
