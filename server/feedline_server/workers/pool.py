"""The pool of worker processes: every task submitted is answered once, whatever happens to the workers.

A worker that ends is replaced, and another does its batch. A batch that ends MAX_DEATHS workers is answered with
`KilledWorkers`. One thread owns all of this, so nothing here is locked but the inbox.
"""

import collections
import contextlib
import math
import os
import selectors
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import structlog

from feedline_server.host.child_process import ChildProcess
from feedline_server.host.threads import vital
from feedline_server.memory.arena import ARENA
from feedline_server.workers.memories import Memories, Memory
from feedline_server.workers.messages import (
    CannotOpen,
    DatasetId,
    Failed,
    KilledWorkers,
    Opened,
    Outcome,
    Ready,
    StartWork,
    Task,
    WithdrawDataset,
)
from feedline_server.workers.openings import MAX_DEATHS, Offer, Openings
from feedline_server.workers.process import WorkerProcess, give_work, least_loaded, start_worker
from feedline_server.workers.seconds import WorkerSeconds
from feedline_wire.errors import FeedlineError, LoaderBroken, LoaderUnavailable
from feedline_wire.status import LoaderCounters

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
"""Pauses before a worker is replaced that died without having become ready: such a death is likely to come again."""

CLOSE_S = 0.5
"""Workers may finish their batch for so long when the pool closes; Ctrl-C must leave in under a second."""

Answer: TypeAlias = Callable[[Sequence[tuple[Task, Outcome]]], None]

log = structlog.get_logger()


class Pool:
    """`size` workers that assemble batches into the arena."""

    def __init__(
        self,
        *,
        size: int,
        work: StartWork,
        offer: Offer,
        decoded_fd: int,
        arena_fd: int,
        batch_timeout_s: float,
        started: Iterable[ChildProcess] = (),
    ) -> None:
        """`offer` is what there is at the start. It and `started`, workers that run already, become the pool's."""
        self._is_serving = True
        self._size = size
        self._start_work = work
        self._started = collections.deque(started)
        self._fds = {"arena_fd": arena_fd, "decoded_fd": decoded_fd}
        self._batch_timeout_s = batch_timeout_s
        self._answer: Answer  # see start
        self._inbox: collections.deque[Task | Memory | Offer | WithdrawDataset] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._memories = Memories(self._workers)
        self._openings = Openings(self._workers, offer)
        self._waiting: collections.deque[Task] = collections.deque()
        self._deaths: dict[int, int] = {}  # by task number
        self._start_at: list[float] = []  # when the missing workers are to be started
        self._backoff_s = FIRST_BACKOFF_S
        self._failed_starts = 0  # in a row
        self._cannot_open: FeedlineError | None = None
        self._starting_deaths = 0  # in a row, of workers that ended before they were ready
        self._restarted = 0
        self.spent = WorkerSeconds()
        self._door = threading.Lock()  # guards _closing and writing to _wake, which close() closes
        self._closing = False
        self._all_ready = threading.Event()
        self._thread = vital(threading.Thread(target=self._run, name="feedline-pool", daemon=True))

    def __repr__(self) -> str:
        workers = list(self._workers)
        ready, busy = sum(worker.ready for worker in workers), sum(bool(worker.held) for worker in workers)
        return f"<Pool ready={ready}/{self._size} busy={busy} restarted={self._restarted}>"

    def start(self, answer: Answer, serving: Callable[[bool], None]) -> None:
        """Start the workers. Blocks until all have opened the datasets; raises the error of the first that cannot.

        `answer` gets, on the pool's thread, the outcome of each task. `serving` is told there when no worker is ready
        and none can be had for a while, and when one is ready again.
        """
        self._serving = serving
        self._answer = answer
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
        self._put(Memory(memory, os.dup(fd)))

    def unmap_memory(self, memory: int) -> None:
        """No task will name this memory any more; one that does is answered with an error. Thread-safe."""
        self._put(Memory(memory, None))

    def offer(self, offer: Offer) -> None:
        """Tasks may name these from now on. It becomes the pool's. Thread-safe."""
        self._put(offer)

    def withdraw(self, which: DatasetId) -> None:
        """No task will name this dataset any more. Thread-safe."""
        self._put(WithdrawDataset(which))

    def count(self, counters: LoaderCounters) -> LoaderCounters:
        """The counters with those of the workers filled in. Thread-safe; the numbers may be a moment apart."""
        counted = replace(
            counters,
            workers=self._size,
            workers_busy=sum(bool(worker.held) for worker in list(self._workers)),
            workers_restarted=self._restarted,
        )
        self.spent.count(counted)
        return counted

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

    def _put(self, *what: "Task | Memory | Offer | WithdrawDataset") -> None:
        with self._door:
            if not self._closing:
                self._inbox.extend(what)
                if threading.current_thread() is not self._thread:  # which looks before it waits
                    os.eventfd_write(self._wake, 1)
                return
        for one in what:
            if not isinstance(one, Task | WithdrawDataset):
                one.close()

    # ---- the pool's thread ----

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # it ends the loader (threads.watch); `start` must not wait for it
            self._cannot_open = LoaderBroken(f"the pool of workers ended: {error!r}", traceback=traceback.format_exc())
            self._all_ready.set()
            raise

    def _work(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._start_at = [time.monotonic()] * self._size
        while not self._closing:
            if self._start_at:
                self._start_missing()
            self._read_inbox()
            self._assign()
            due = self._next_deadline()
            for key, _ in self._selector.select(None if due == math.inf else max(due - time.monotonic(), 0.0)):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                elif key.fd == key.data.child.pidfd:
                    self._on_exit(key.data)
                else:
                    self._receive(key.data)
            if time.monotonic() >= due:
                self._kill_overdue()
        self._end_workers()

    def _start_missing(self) -> None:
        now = time.monotonic()
        due = [at for at in self._start_at if at <= now]
        self._start_at = [at for at in self._start_at if at > now]
        for number in range(len(due)):
            try:
                self._start_one()
            except OSError as error:  # a shortage of descriptors, processes or memory, which passes
                after_s = self._back_off()
                log.warning("cannot start a worker, trying again", reason=str(error), after_s=after_s)
                self._start_at += [now + after_s] * (len(due) - number)
                self._failed_starts += 1
                if self._failed_starts >= MAX_DEATHS:
                    self._fail_the_start(LoaderUnavailable(f"cannot start its workers: {error}", elsewhere=True))
                self._tell()
                return
            self._failed_starts = 0

    def _start_one(self) -> None:
        child = self._started.popleft() if self._started else start_worker()
        try:
            number = min(set(range(self._size)) - {worker.number for worker in self._workers})
            worker = give_work(child, replace(self._start_work, worker=number, workers=self._size), **self._fds)
            # What is wrong with a dataset shows at the start; later each is opened when it is asked for.
            self._openings.give(worker, open_all=not self._all_ready.is_set())
            self._selector.register(child.connection.fileno(), selectors.EVENT_READ, worker)
            self._selector.register(child.pidfd, selectors.EVENT_READ, worker)
        except BaseException:
            for fd in (child.connection.fileno(), child.pidfd):
                with contextlib.suppress(KeyError):
                    self._selector.unregister(fd)
            child.close()
            raise
        self._workers.append(worker)

    def _back_off(self) -> float:
        """The next pause, in seconds; the one after it is twice as long."""
        after_s, self._backoff_s = self._backoff_s, min(self._backoff_s * 2, MAX_BACKOFF_S)
        return after_s

    def _tell(self) -> None:
        """Say whether the loader can serve, where that has changed."""
        serves = any(worker.ready for worker in self._workers)
        if serves != self._is_serving:
            self._is_serving = serves
            self._serving(serves)

    def _read_inbox(self) -> None:
        while self._inbox:
            match self._inbox.popleft():
                case Memory() as memory:
                    self._memories.note(memory)
                case Offer() as offer:
                    self._openings.add(offer)
                case WithdrawDataset(which):
                    self._openings.withdraw(which)
                case Task() as task:
                    self._waiting.append(task)

    def _assign(self) -> None:
        answers: list[tuple[Task, Outcome]] = []
        left: collections.deque[Task] = collections.deque()
        now = time.monotonic()
        while self._waiting:
            task = self._waiting.popleft()
            if task.memory != ARENA and task.memory not in self._memories:
                gone = LoaderUnavailable("the trainer whose memory this batch was for is gone", elsewhere=True)
                answers.append((task, Failed(task.number, gone)))
            elif (worker := least_loaded(self._workers, task.dataset)) is not None:
                if task.memory != ARENA:
                    self._memories.let(worker, task.memory)
                if not worker.held:
                    worker.busy_since = now
                worker.assign(task)
            elif (error := self._refusal(task.dataset, now)) is not None:
                answers.append((task, Failed(task.number, error)))
            else:
                left.append(task)
        self._waiting = left
        for worker in self._workers:
            worker.flush()
        if left:
            self._openings.have_opened((task.dataset for task in left), now)
        if answers:
            self._give(answers)

    def _refusal(self, which: DatasetId, now: float) -> FeedlineError | None:
        """Why no worker will do what is asked of a dataset."""
        if self._cannot_open is not None and not any(worker.ready for worker in self._workers):
            return self._cannot_open
        return self._openings.refusal(which, now)

    def _receive(self, worker: WorkerProcess) -> None:
        for message in worker.messages():
            match message:
                case Ready():
                    worker.ready = True
                    self._cannot_open = None
                    self._starting_deaths = 0
                    self._backoff_s = FIRST_BACKOFF_S
                    self._tell()
                    self._look_whether_all_are_ready()
                case Opened(which, first):
                    self._openings.opened(worker, which, first)
                    self._look_whether_all_are_ready()
                case CannotOpen(which, error):
                    self._openings.failed(worker, which, error)
                    self._fail_the_start(error)
                case outcomes:
                    answers = worker.pair(outcomes)
                    worker.busy_since = time.monotonic()
                    self.spent.add(answers)
                    again = self._openings.moved(worker, answers) if Failed in map(type, outcomes) else []
                    self._waiting.extendleft(reversed(again))
                    self._give([answer for answer in answers if answer[0] not in again] if again else answers)

    def _look_whether_all_are_ready(self) -> None:
        if sum(worker.ready and not worker.opening for worker in self._workers) == self._size:
            self._all_ready.set()

    def _fail_the_start(self, error: FeedlineError) -> None:
        """What ends a start, and later concerns a dataset's own trainers, or passes."""
        if not self._all_ready.is_set():
            self._cannot_open = error
            self._all_ready.set()

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
        if (error := self._openings.ended(worker, cause)) is not None:
            self._fail_the_start(error)
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
        self._start_at.append(now + self._back_off())
        self._starting_deaths += 1
        if self._cannot_open is None and self._starting_deaths >= MAX_DEATHS:  # else `start` would wait for ever
            self._cannot_open = LoaderUnavailable(f"workers end before they are ready, by {cause}", elsewhere=True)
            self._all_ready.set()

    def _give(self, answers: Sequence[tuple[Task, Outcome]]) -> None:
        """Answer tasks for good, and forget them."""
        for task, _ in answers:
            self._deaths.pop(task.number, None)
        self._answer(answers)

    def _next_deadline(self) -> float:
        """When something must be done although nothing happens; inf if there is nothing."""
        due = -math.inf if self._inbox else min(self._start_at, default=math.inf)  # from within an answer
        for worker in self._workers:
            due = min(due, worker.overdue_at(self._batch_timeout_s, self._openings.limit_s))
        return due

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if now >= worker.overdue_at(self._batch_timeout_s, self._openings.limit_s):
                batch = worker.current and worker.current.key
                log.error("overdue, ending a worker", pid=worker.child.pid, batch=str(batch), opening=[*worker.opening])
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
        for one in (*self._inbox, self._openings, self._memories):
            if not isinstance(one, Task | WithdrawDataset):
                one.close()
