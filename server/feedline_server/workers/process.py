"""One worker process as its pool sees it: given tasks, read from, ended."""

import math
import operator
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from feedline_server.host import descriptors
from feedline_server.host.child_process import USER_CODE_ENVIRONMENT, WORKER, ChildProcess, Exit
from feedline_server.workers.messages import (
    CELL_NBYTES,
    CannotOpen,
    DatasetId,
    Done,
    Failed,
    MapMemory,
    OfferDatasets,
    OpenDataset,
    Opened,
    Outcome,
    ProgressCell,
    Ready,
    SlotTooSmall,
    StartWork,
    Task,
    UnmapMemory,
    WithdrawDataset,
)

WEIGHT: Callable[[Task], float] = operator.attrgetter("weight")

ToWorker = StartWork | OfferDatasets | OpenDataset | WithdrawDataset | MapMemory | UnmapMemory | tuple[Task, ...]

FromWorker = Ready | Opened | CannotOpen | tuple[Outcome, ...]

HELD = 2
"""Tasks a worker holds: the one it works on and the next, so that it never waits for the pool; more of those that take
no time (`Task.weight`). A death redoes all of them."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker."""

    child: ChildProcess
    cell: ProgressCell
    number: int = 0
    ready: bool = False
    held: deque[Task] = field(default_factory=deque)
    """Tasks that it was given and has not answered, in the order that it does them."""
    open: set[DatasetId] = field(default_factory=set)
    """Datasets that it has open."""
    paths: dict[DatasetId, Path | None] = field(default_factory=dict)
    """Where it was told that a dataset lies, when it was told to open it."""
    opening: deque[DatasetId] = field(default_factory=deque)
    """Those that it was told to open and has not answered; after what it holds."""
    busy_since: float = 0.0
    """When it was given the first of `held` or `opening`, or answered last (time.monotonic)."""
    unsent: list[Task] = field(default_factory=list)
    """The last of `held`, which `flush` will send."""
    mapped: set[int] = field(default_factory=set)
    """Trainers' memories that it was sent."""
    is_overdue: bool = False
    """It was killed because one batch took it too long."""
    has_broken: bool = False
    """It said what no worker says, and was killed for it."""
    _arrived: select.poll = field(default_factory=select.poll)
    """Whether there are messages: `Connection.poll` makes a selector for each look, 20 us, twice a batch."""

    def __post_init__(self) -> None:
        self._arrived.register(self.child.connection.fileno(), select.POLLIN)

    def messages(self) -> list[FromWorker]:
        """What it has sent and was not read yet; empty also when it has ended. What makes no sense ends it."""
        found: list[FromWorker] = []
        try:
            while not self.has_broken and self._arrived.poll(0):
                message = self.child.connection.recv()
                said, known = (message, _OUTCOMES) if isinstance(message, tuple) else ((message,), _ALONE)
                if not set(map(type, said)) <= known:
                    raise TypeError(f"{type(message).__name__} is none of a worker's messages")
                found.append(message)
        except Exception as error:  # bytes that are no pickle raise anything
            # The ends of a connection are ends of its worker, which its pidfd tells; a message may also stop half way.
            if isinstance(error, BlockingIOError) or not isinstance(error, EOFError | OSError):
                log.exception("a worker broke the protocol, ending it", pid=self.child.pid)
                self.has_broken = True
                self.child.signal(signal.SIGKILL)
        return found

    def pair(self, outcomes: Iterable[Outcome]) -> list[tuple[Task, Outcome]]:
        """The tasks that these answer, which it holds no longer. What it was not asked for is left out, and logged."""
        answers = []
        for outcome in outcomes:
            for task in self.held:  # nearly always the first
                if task.number == outcome.number:
                    self.held.remove(task)
                    answers.append((task, outcome))
                    break
            else:
                log.warning("a worker answered what it was not asked", pid=self.child.pid, task=outcome.number)
        return answers

    @property
    def load(self) -> float:
        """What it holds, in tasks that take long."""
        return sum(map(WEIGHT, self.held))

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
            self.send_fd(fd)

    def tell_to_open(self, which: DatasetId, path: Path | None, now: float) -> None:
        """Have it open a dataset that it was offered, and that lies at `path`."""
        if not self.held and not self.opening:
            self.busy_since = now
        self.open.discard(which)
        self.opening.append(which)
        self.paths[which] = path
        self.send(OpenDataset(which, path))

    def overdue_at(self, batch_timeout_s: float, opening_s: Callable[[DatasetId], float]) -> float:
        """When it is ended if it has not answered."""
        if self.held:
            return self.busy_since + batch_timeout_s
        return self.busy_since + opening_s(self.opening[0]) if self.opening else math.inf

    def end_opening(self, which: DatasetId, now: float) -> None:
        """It has answered."""
        if which in self.opening:
            self.opening.remove(which)
        self.busy_since = now

    def offer(self, offers: OfferDatasets, records_fd: int) -> None:
        """What it may be told to open; what is open of it is to be opened anew."""
        self.open.difference_update(one.id for one in offers.datasets)
        self.send(offers)
        self.send_fd(records_fd)

    def withdraw(self, which: DatasetId) -> None:
        """It was given the last task of this dataset."""
        self.open.discard(which)
        self.paths.pop(which, None)
        self.send(WithdrawDataset(which))

    def unmap_memory(self, memory: int) -> None:
        """It was given the last task that names this memory."""
        if memory in self.mapped:
            self.mapped.discard(memory)
            self.send(UnmapMemory(memory))

    def send(self, message: ToWorker) -> None:
        """Send a message; if the worker is dying, its end is noticed elsewhere."""
        try:
            self.child.connection.send(message)
        except BlockingIOError:  # it was sent a part, and reads no more
            self.child.signal(signal.SIGKILL)
        except OSError:
            pass

    def send_fd(self, fd: int) -> None:
        """Send the descriptor that the last message announced."""
        try:
            descriptors.give(self.child.connection, fd)
        except OSError:  # it is dying, or it waits for a descriptor that does not come and would misread the rest
            self.child.signal(signal.SIGKILL)

    def close(self) -> Exit:
        """End it if it has not ended, with all that it has started."""
        self.cell.close()
        return self.child.close()


def least_loaded(workers: Sequence[WorkerProcess], which: DatasetId) -> WorkerProcess | None:
    """The worker that holds least of those that have the dataset open, None if all hold enough."""
    found, least = None, float(HELD)
    for worker in workers:
        if which in worker.open and not worker.opening and (load := worker.load) < least:
            found, least = worker, load
    return found


_ALONE, _OUTCOMES = {Ready, Opened, CannotOpen}, {Done, SlotTooSmall, Failed}
"""What a worker says: one of the first, or several of the others in a tuple."""


def start_worker() -> ChildProcess:
    """Start a worker, which loads what it needs and waits for datasets. The calling thread must live as long as it."""
    return ChildProcess(WORKER, USER_CODE_ENVIRONMENT)


def give_work(child: ChildProcess, start: StartWork, *, arena_fd: int, decoded_fd: int) -> WorkerProcess:
    """Make a worker of a child that `start_worker` gave, with the memory of these descriptors."""
    cell_fd = os.memfd_create("feedline-progress", os.MFD_CLOEXEC)
    try:
        os.ftruncate(cell_fd, CELL_NBYTES)
        worker = WorkerProcess(child, ProgressCell(cell_fd), start.worker)
        worker.send(start)
        for fd in (arena_fd, decoded_fd, cell_fd):
            worker.send_fd(fd)
    finally:
        os.close(cell_fd)
    return worker
