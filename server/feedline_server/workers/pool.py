"""The pool of worker processes: every task submitted is answered once, whatever happens to the workers.

A worker that ends is replaced, and another does its batch. A batch that ends MAX_DEATHS workers is answered with
`KilledWorkers`. One thread owns all of this, so nothing here is locked but the inbox.
"""

import collections
import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from feedline_server.host.child_process import ChildProcess
from feedline_server.memory.arena import ARENA
from feedline_server.workers.messages import CannotOpen, Done, Failed, KilledWorkers, OpenDatasets, Outcome, Ready, Task
from feedline_server.workers.process import WorkerProcess, give_datasets, start_worker
from feedline_wire.errors import FeedlineError, LoaderUnavailable
from feedline_wire.status import LoaderCounters

HELD = 2
"""Tasks a worker holds: the one it works on and the next, so that it never waits for the pool; more of those that take
no time (`Task.weight`). A death redoes all of them."""

MAX_DEATHS = 3
"""Workers that one batch, or opening the datasets, may end before it is given up; one death may be bad luck."""

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
"""Pauses before a worker is replaced that died without having become ready: such a death is likely to come again."""

CLOSE_S = 0.5
"""Workers may finish their batch for so long when the pool closes; Ctrl-C must leave in under a second."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Memory:
    """A trainer's memory. Tasks may name it, or without a descriptor may not any more."""

    number: int
    fd: int | None

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


class Pool:
    """`size` workers that assemble batches into the arena; `answer` gets, on the pool's thread, each task's outcome."""

    def __init__(
        self,
        *,
        size: int,
        datasets: OpenDatasets,
        arena_fd: int,
        batch_timeout_s: float,
        answer: Callable[[Sequence[tuple[Task, Outcome]]], None],
        started: Iterable[ChildProcess] = (),
    ) -> None:
        """`started` are workers without datasets that run already. They become the pool's."""
        self._size = size
        self._datasets = datasets
        self._started = collections.deque(started)
        self._arena_fd = arena_fd
        self._batch_timeout_s = batch_timeout_s
        self._answer = answer
        self._inbox: collections.deque[Task | _Memory] = collections.deque()
        self._memories: dict[int, int] = {}  # trainers', each with a descriptor of our own
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._waiting: collections.deque[Task] = collections.deque()
        self._deaths: dict[int, int] = {}  # by task number
        self._start_at: list[float] = []  # when the missing workers are to be started
        self._backoff_s = FIRST_BACKOFF_S
        self._cannot_open: FeedlineError | None = None
        self._opening_deaths = 0  # in a row, of workers that ended before they were ready and without a word
        self._restarted = 0
        self._assembling_s = 0.0
        self._door = threading.Lock()  # guards _closing and writing to _wake, which close() closes
        self._closing = False
        self._all_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feedline-pool", daemon=True)

    def __repr__(self) -> str:
        workers = list(self._workers)
        ready, busy = sum(worker.ready for worker in workers), sum(bool(worker.held) for worker in workers)
        return f"<Pool ready={ready}/{self._size} busy={busy} restarted={self._restarted}>"

    def start(self) -> None:
        """Start the workers. Blocks until all have opened the datasets; raises the error of the first that cannot."""
        self._thread.start()
        self._all_ready.wait()
        if self._cannot_open is not None:
            self.close()
            raise self._cannot_open

    def submit(self, tasks: Sequence[Task]) -> None:
        """Have these assembled. Does not block; thread-safe. A closing pool answers nothing any more."""
        self._put(*tasks)

    def map_memory(self, memory: int, fd: int) -> None:
        """Tasks may name this memory of a trainer from now on. The descriptor stays the caller's. Thread-safe."""
        self._put(_Memory(memory, os.dup(fd)))

    def unmap_memory(self, memory: int) -> None:
        """No task will name this memory any more; one that does is answered with an error. Thread-safe."""
        self._put(_Memory(memory, None))

    def count(self, counters: LoaderCounters) -> LoaderCounters:
        """The counters with those of the workers filled in. Thread-safe; the numbers may be a moment apart."""
        return replace(
            counters,
            workers=self._size,
            workers_busy=sum(bool(worker.held) for worker in list(self._workers)),
            workers_restarted=self._restarted,
            assembling_s=self._assembling_s,
        )

    def close(self) -> None:
        """End all workers, within CLOSE_S those that work and at once the others. Idempotent."""
        with self._door:
            if self._closing:
                return
            self._closing = True
            os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        for child in self._started:
            child.close()
        self._selector.close()
        os.close(self._wake)

    def _put(self, *what: "Task | _Memory") -> None:
        with self._door:
            if not self._closing:
                self._inbox.extend(what)
                if threading.current_thread() is not self._thread:  # which is about to look by itself
                    os.eventfd_write(self._wake, 1)
                return
        for one in what:
            if isinstance(one, _Memory):
                one.close()

    # ---- the pool's thread ----

    def _run(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._start_at = [time.monotonic()] * self._size
        while not self._closing:
            self._start_missing()
            self._read_inbox()
            self._assign()
            for key, _ in self._selector.select(self._next_deadline()):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                elif key.fd == key.data.child.pidfd:
                    self._on_exit(key.data)
                else:
                    self._receive(key.data)
            self._kill_overdue()
        self._end_workers()

    def _start_missing(self) -> None:
        now = time.monotonic()
        due = [at for at in self._start_at if at <= now]
        self._start_at = [at for at in self._start_at if at > now]
        for _ in due:
            child = self._started.popleft() if self._started else start_worker()
            worker = give_datasets(child, self._datasets, self._arena_fd)
            self._workers.append(worker)
            self._selector.register(worker.child.connection.fileno(), selectors.EVENT_READ, worker)
            self._selector.register(worker.child.pidfd, selectors.EVENT_READ, worker)

    def _read_inbox(self) -> None:
        while self._inbox:
            match self._inbox.popleft():
                case _Memory(number, None):
                    if (fd := self._memories.pop(number, None)) is not None:
                        os.close(fd)
                        for worker in self._workers:
                            worker.unmap_memory(number)
                case _Memory(number, int() as fd):
                    self._memories[number] = fd
                case Task() as task:
                    self._waiting.append(task)

    def _assign(self) -> None:
        lost: list[Task] = []
        while self._waiting:
            worker = least_loaded(self._workers)
            if worker is None:
                break
            task = self._waiting.popleft()
            if task.memory != ARENA:
                if task.memory not in self._memories:
                    lost.append(task)
                    continue
                worker.map_memory(task.memory, self._memories[task.memory])
            if not worker.held:
                worker.busy_since = time.monotonic()
            worker.assign(task)
        for worker in self._workers:
            worker.flush()
        if lost:
            gone = LoaderUnavailable("the trainer whose memory this batch was for is gone", elsewhere=True)
            self._give([(task, Failed(task.number, gone)) for task in lost])
        if self._waiting and self._cannot_open is not None and not any(worker.ready for worker in self._workers):
            self._give([(task, Failed(task.number, self._cannot_open)) for task in self._waiting])
            self._waiting.clear()

    def _receive(self, worker: WorkerProcess) -> None:
        for message in worker.messages():
            match message:
                case Ready():
                    worker.ready = True
                    self._cannot_open = None
                    self._opening_deaths = 0
                    self._backoff_s = FIRST_BACKOFF_S
                    if sum(other.ready for other in self._workers) == self._size:
                        self._all_ready.set()
                case CannotOpen(error):
                    log.error("worker cannot open the datasets", pid=worker.child.pid, error=str(error))
                    self._cannot_open = error
                    self._all_ready.set()
                case outcomes:
                    answers = [(worker.held.popleft(), outcome) for outcome in outcomes]
                    worker.busy_since = time.monotonic()
                    self._assembling_s += sum(outcome.seconds for _, outcome in answers if isinstance(outcome, Done))
                    self._give(answers)

    def _on_exit(self, worker: WorkerProcess) -> None:
        """Read the last answers of a worker that ended, redo its tasks, have it replaced."""
        self._selector.unregister(worker.child.pidfd)
        self._selector.unregister(worker.child.connection.fileno())
        self._receive(worker)
        self._workers.remove(worker)
        culprit = worker.current  # the others that it held had not begun, or were well
        ended = worker.close()
        cause = str(ended)
        if worker.is_overdue:
            cause = f"being ended here: one batch took it longer than batch_timeout_s = {self._batch_timeout_s:g}"
        self._restarted += 1
        crash = {"traceback": ended.report} if ended.report else {}
        log.warning("worker ended", pid=worker.child.pid, cause=cause, redone=len(worker.held), **crash)
        self._replace(worker, cause)
        if culprit is not None:
            deaths = self._deaths[culprit.number] = self._deaths.get(culprit.number, 0) + 1
            if deaths >= MAX_DEATHS:
                worker.held.remove(culprit)
                self._give([(culprit, KilledWorkers(culprit.number, deaths, cause))])
        self._waiting.extendleft(reversed(worker.held))

    def _replace(self, worker: WorkerProcess, cause: str) -> None:
        """Plan the start of another; after several deaths in a row before one was ready, give up opening."""
        now = time.monotonic()
        if worker.ready:
            self._start_at.append(now)
            return
        self._start_at.append(now + self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        self._opening_deaths += 1
        if self._cannot_open is None and self._opening_deaths >= MAX_DEATHS:  # else `start` would wait for ever
            self._cannot_open = LoaderUnavailable(
                f"{self._opening_deaths} workers ended while they opened the datasets, the last by {cause}",
                elsewhere=True,
            )
            self._all_ready.set()

    def _give(self, answers: Sequence[tuple[Task, Outcome]]) -> None:
        """Answer tasks for good, and forget them."""
        for task, _ in answers:
            self._deaths.pop(task.number, None)
        self._answer(answers)

    def _next_deadline(self) -> float | None:
        """Seconds until something must be done although nothing happens; None if there is nothing."""
        ends = [worker.busy_since + self._batch_timeout_s for worker in self._workers if worker.held]
        soonest = min(ends + self._start_at, default=None)
        return None if soonest is None else max(soonest - time.monotonic(), 0.0)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.held and now >= worker.busy_since + self._batch_timeout_s:
                batch = worker.current and worker.current.key
                log.error("batch overdue, ending its worker", pid=worker.child.pid, batch=str(batch))
                worker.is_overdue = True
                worker.child.signal(signal.SIGKILL)
                worker.busy_since = now  # its end arrives through the pidfd

    def _end_workers(self) -> None:
        deadline = time.monotonic() + CLOSE_S
        for worker in self._workers:
            worker.child.connection.close()  # it ends after the batch that it works on
        for worker in self._workers:
            if worker.ready:  # else it imports or opens, which can take long and finishes nothing
                worker.child.has_ended(deadline - time.monotonic())
            worker.close()
        self._workers.clear()
        memories = [one for one in self._inbox if isinstance(one, _Memory)]
        memories += [_Memory(number, fd) for number, fd in self._memories.items()]
        for memory in memories:
            memory.close()


def least_loaded(workers: list[WorkerProcess]) -> WorkerProcess | None:
    """The ready worker that holds least, None if all hold enough."""
    able = [worker for worker in workers if worker.ready and worker.load < HELD]
    return min(able, key=lambda worker: worker.load, default=None)
