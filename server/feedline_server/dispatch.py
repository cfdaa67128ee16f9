"""Whose key is assembled next, and in which slot.

The law: every key wanted is answered once, with a batch or a refusal, or belongs to a stream that has ended; every
slot lent is taken back.
Trainers are served fairly by bytes, and one that does not read holds its own share of the arena and nobody else's.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from feedline_server.assembly import sample_ids
from feedline_server.catalog import Catalog
from feedline_server.session import Batch, Delivery, Refusal, Session, Want
from feedline_server.slots import Arena, Slot
from feedline_server.tasks import Done, Failed, Outcome, Task
from feedline_wire.errors import (
    BatchKillsWorkers,
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderDraining,
)
from feedline_wire.key import Key

MAX_WINDOW = 1024
"""Keys a stream may have unanswered. A trainer 64 batches ahead uses 64; a hostile one costs 1024 small objects."""

QUEUED_PER_WORKER = 2
"""Tasks given to the pool and not yet answered, a worker: the pool keeps that many at each (pool.HELD). More would be
served first come first served instead of fairly."""


@dataclass(frozen=True, slots=True)
class _Job:
    session: Session
    want: Want
    slot: Slot


@dataclass(frozen=True, slots=True)
class DispatchState:
    """What is going on, for Status."""

    sessions: tuple[tuple[str, int, int, int, int, int], ...]
    """(peer, waiting, assembling, ready, batches sent, bytes sent) a stream."""
    batches: int
    nbytes: int
    failures: int
    arena_nbytes: int
    arena_lent: int
    draining: bool


class Dispatch:
    """Between the streams and the pool. Every method may be called from any thread."""

    def __init__(
        self, *, catalog: Catalog, arena: Arena, workers: int, max_trainers: int, submit: Callable[[Task], None]
    ) -> None:
        self._catalog = catalog
        self._arena = arena
        self._max_in_flight = workers * QUEUED_PER_WORKER
        self._max_trainers = max_trainers
        self._submit = submit
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._jobs: dict[int, _Job] = {}
        self._number = 0
        self._clock = 0.0  # the fair clock: `served` of the stream served last
        self._batches = self._nbytes = self._failures = 0
        self._draining = False
        self._idle = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<Dispatch trainers={len(self._sessions)} assembling={len(self._jobs)} {self._arena!r}>"

    # ---- for the streams ----

    def open_session(self, peer: str) -> Session:
        """Books for a new stream; LoaderBusy or LoaderDraining if there can be none."""
        with self._lock:
            if self._draining:
                raise LoaderDraining("this loader is shutting down; ask another replica", elsewhere=True)
            if len(self._sessions) >= self._max_trainers:
                raise LoaderBusy(
                    f"this loader serves {len(self._sessions)} streams and takes no more "
                    f"(max_trainers = {self._max_trainers}); "
                    f"add a replica or raise max_trainers",
                    elsewhere=True,
                )
            session = Session(peer, threading.Condition(self._lock))
            self._sessions.append(session)
            return session

    def want(self, session: Session, ticket: int, key: Key) -> None:
        """Put a key into a stream's window. A key that cannot be had is refused, and the stream lives on."""
        try:
            nbytes = self._catalog.check(key)
        except FeedlineError as error:
            self._refuse(session, ticket, error)
            return
        if session.unanswered >= MAX_WINDOW:
            self._refuse(
                session, ticket, InvalidRequest(f"more than {MAX_WINDOW} keys wanted and unanswered in one stream")
            )
            return
        with self._lock:
            if session.closed or self._draining:
                return  # its stream ends, and what was not answered is wanted elsewhere
            if not session.waiting:
                # A stream that was idle has no claim on the past: it joins the clock where the others are.
                session.served = max(session.served, self._clock)
            session.waiting.append(Want(ticket, key, nbytes))
        self._pump()

    def cancel(self, session: Session, tickets: Iterable[int]) -> None:
        """Forget keys that are no longer wanted; one that is being sent already arrives all the same."""
        gone = set(tickets)
        with self._lock:
            session.waiting = type(session.waiting)(want for want in session.waiting if want.ticket not in gone)
            session.assembling -= gone  # the worker finishes; the result is dropped when it comes
            kept = type(session.ready)()
            for delivery in session.ready:
                if delivery.ticket not in gone:
                    kept.append(delivery)
                elif isinstance(delivery, Batch):
                    self._take_back(session, delivery.slot)
            session.ready = kept
        self._pump()

    def next_deliveries(self, session: Session, nbytes: int) -> list[Delivery]:
        """Wait for what is ready for this stream: one delivery, or as many small ones as `nbytes` hold.

        Empty when the stream is to end: closed, or all is answered that was wanted or, while the loader drains, begun.
        """
        with session.changed:
            while not session.ready:
                if session.closed or ((session.wants_ended or self._draining) and not session.unanswered):
                    return []
                session.changed.wait()
            deliveries = [session.ready.popleft()]
            total = _delivery_nbytes(deliveries[0])
            while session.ready and total + _delivery_nbytes(session.ready[0]) <= nbytes:
                deliveries.append(session.ready.popleft())
                total += _delivery_nbytes(deliveries[-1])
            return deliveries

    def memory(self, batch: Batch) -> memoryview:
        """The body of a batch that is lent to its sender."""
        return self._arena.memory(batch.slot, batch.layout.nbytes)

    def give_back(self, session: Session, batch: Batch, *, sent: bool) -> None:
        """The sender has copied the batch out, or will not: its slot is free again."""
        with self._lock:
            self._take_back(session, batch.slot)
            if sent:
                session.batches += 1
                session.nbytes += batch.layout.nbytes
                self._batches += 1
                self._nbytes += batch.layout.nbytes
        self._pump()

    def end_wants(self, session: Session) -> None:
        """The trainer will want nothing more: the stream ends when all is answered."""
        with self._lock:
            session.wants_ended = True
            session.changed.notify_all()

    def close_session(self, session: Session) -> None:
        """The stream is over: everything it held is free, at once or when its worker is done. Twice is fine."""
        with self._lock:
            if session.closed:
                return
            session.closed = True
            self._sessions.remove(session)
            session.waiting.clear()
            session.assembling.clear()
            for delivery in session.ready:
                if isinstance(delivery, Batch):
                    self._take_back(session, delivery.slot)
            session.ready.clear()
            session.changed.notify_all()
            self._idle.notify_all()
        self._pump()

    # ---- for the pool ----

    def answer(self, task: Task, outcome: Outcome) -> None:
        """What became of a task."""
        with self._lock:
            job = self._jobs.pop(task.number)
            session, ticket = job.session, job.want.ticket
            wanted = ticket in session.assembling
            session.assembling.discard(ticket)
            delivery = self._delivery(job, outcome)
            if not wanted or isinstance(delivery, Refusal):
                self._take_back(session, job.slot)
            if wanted:
                session.ready.append(delivery)
                session.changed.notify()
            self._idle.notify_all()
        self._pump()

    # ---- for the loader ----

    def drain(self) -> None:
        """Take no new work; what is being assembled is finished and sent, then every stream ends."""
        with self._lock:
            self._draining = True
            for session in self._sessions:
                session.waiting.clear()
                session.changed.notify_all()

    @property
    def is_draining(self) -> bool:
        """No new work is taken."""
        return self._draining

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until no stream is left; False if some are after `timeout_s`."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._sessions, timeout_s)

    def state(self) -> DispatchState:
        """What is going on now."""
        with self._lock:
            return DispatchState(
                sessions=tuple(
                    (one.peer, len(one.waiting), len(one.assembling), len(one.ready), one.batches, one.nbytes)
                    for one in self._sessions
                ),
                batches=self._batches,
                nbytes=self._nbytes,
                failures=self._failures,
                arena_nbytes=self._arena.nbytes,
                arena_lent=self._arena.lent_nbytes,
                draining=self._draining,
            )

    # ---- inside ----

    def _pump(self) -> None:
        """Start whatever can be started now; the pool is told after the lock is released."""
        tasks = []
        with self._lock:
            while len(self._jobs) < self._max_in_flight:
                session = choose(self._sessions, self._arena.nbytes)
                if session is None:
                    break
                want = session.waiting[0]
                slot = self._arena.lend(want.nbytes)
                if slot is None:
                    break  # it keeps its turn: passing it over would starve large batches for ever
                session.waiting.popleft()
                self._clock = session.served
                session.served += want.nbytes
                session.lent += slot.nbytes
                session.assembling.add(want.ticket)
                self._number += 1
                self._jobs[self._number] = _Job(session, want, slot)
                tasks.append(Task(self._number, want.key, slot.start, slot.nbytes))
        for task in tasks:
            self._submit(task)

    def _delivery(self, job: _Job, outcome: Outcome) -> Delivery:
        if isinstance(outcome, Done):
            return Batch(job.want.ticket, outcome.layout, job.slot)
        self._failures += 1
        if isinstance(outcome, Failed):
            return Refusal(job.want.ticket, outcome.error)
        key = job.want.key
        ids = sample_ids(self._catalog.served[key.dataset].dataset, key)
        return Refusal(
            job.want.ticket,
            BatchKillsWorkers(
                f"the batch {key} ended {outcome.deaths} workers, the last by {outcome.cause}; "
                f"its sample ids begin {', '.join(map(str, ids[:8]))}: look at these samples and at "
                "the code that reads them",
                samples=ids,
            ),
        )

    def _refuse(self, session: Session, ticket: int, error: FeedlineError) -> None:
        with self._lock:
            self._failures += 1
            if not session.closed:
                session.ready.append(Refusal(ticket, error))
                session.changed.notify()

    def _take_back(self, session: Session, slot: Slot) -> None:
        self._arena.take_back(slot)
        session.lent -= slot.nbytes


def choose(sessions: Iterable[Session], arena_nbytes: int) -> Session | None:
    """The stream whose next key is assembled now: of those that hold less than their share, the one served least.

    The share is the arena divided by the streams, at most half; who holds nothing may always have one batch.
    """
    sessions = list(sessions)
    share = arena_nbytes // max(2, len(sessions))
    able = [
        session
        for session in sessions
        if session.waiting and (not session.lent or session.lent + session.waiting[0].nbytes <= share)
    ]
    return min(able, key=lambda session: session.served, default=None)


def _delivery_nbytes(delivery: Delivery) -> int:
    return delivery.layout.nbytes if isinstance(delivery, Batch) else 0
