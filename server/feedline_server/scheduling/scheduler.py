"""Whose key is assembled next, and in which slot.

The law: every key wanted is answered once, with a batch or a refusal, or belongs to a stream that has ended; every
slot lent is taken back. Trainers are served fairly, and what one of them holds without reading is taken from it as soon
as another needs the room: a batch is a pure function of its key, so it is assembled again when its trainer reads again,
and only once for all who want it at the same time.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from feedline_server.access.tokens import ANYBODY, Caller
from feedline_server.lanes.from_files import Scattering
from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.memory.trainer import IN_PLACE_NBYTES, TrainerMemory
from feedline_server.scheduling.admission import Seats
from feedline_server.scheduling.allocation import Lending
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.fairness import DEAF_S, choose, cost, is_deaf, next_deafness_s, share_of
from feedline_server.scheduling.jobs import Job, Jobs, Paces, Sizes, Taker, refusal
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.status import Counts, DispatchState, observed
from feedline_server.scheduling.stream import Batch, Delivery, Refusal, Scattered, Session, Want
from feedline_server.workers.messages import Done, Outcome, Outgrown, Task
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderDraining
from feedline_wire.key import Key

MAX_WINDOW = 1024
"""Keys a stream may have unanswered. A trainer 64 batches ahead uses 64; a hostile one costs 1024 small objects."""

QUEUED_PER_WORKER = 2
"""Tasks given to the pool and not yet answered, a worker: the pool keeps that many at each (pool.HELD), more of those
that take no time. Yet more would be served first come first served instead of fairly."""

log = structlog.get_logger()


class Dispatch:
    """Between the streams and the pool. Every method may be called from any thread; `now` is a clock in seconds."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        arena: Arena,
        workers: int,
        max_trainers: int,
        max_streams_per_client: int | None = None,
        scatterings: Mapping[str, Scattering],
        submit: Callable[[Sequence[Task]], None],
        now: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._arena = arena
        self._lending = Lending(arena)
        self._workers = workers
        self._seats = Seats(max_trainers, max_streams_per_client)
        self._submit = submit
        self._now = now
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._scatterings = scatterings
        self._jobs = Jobs()
        self._sizes = Sizes()
        self._paces = Paces()
        self._clock = 0.0  # the fair clock: `served` of the stream served last
        self._overload = Overload()
        self._counts = Counts()
        self._draining = False
        self._idle = threading.Condition(self._lock)
        self._closing = False
        self._short = threading.Condition(self._lock)
        self._watcher = threading.Thread(target=self._watch, name="feedline-memory", daemon=True)

    def __repr__(self) -> str:
        return f"<Dispatch trainers={len(self._sessions)} assembling={len(self._jobs)} {self._arena!r}>"

    # ---- for the streams ----

    def open_session(self, peer: str, caller: Caller = ANYBODY) -> Session:
        """Books for a new stream; LoaderBusy or LoaderDraining if there can be none."""
        with self._lock:
            if self._draining:
                raise LoaderDraining("this loader is shutting down; ask another replica", elsewhere=True)
            self._seats.check(self._sessions, caller)
            session = Session(peer, threading.Condition(self._lock), caller)
            self._sessions.append(session)
            return session

    def settle(self, session: Session, memory: TrainerMemory | None) -> None:
        """The stream has a lane: to a trainer on this host, whose batches may be assembled in its memory, or by tcp."""
        with self._lock:
            session.memory = memory
            session.takes_pieces = memory is None

    def want(self, session: Session, ticket: int, key: Key) -> None:
        """Put a key into a stream's window. A key that cannot be had is refused, and the stream lives on."""
        self.want_all(session, ((ticket, key),))

    def want_all(self, session: Session, wants: Iterable[tuple[int, Key]]) -> None:
        """Put keys into a stream's window, in their order, under their tickets."""
        for ticket, key in wants:
            if session.unanswered >= 2 * MAX_WINDOW:  # it reads no refusals either: they must not pile up
                log.warning("ending a stream that wants without end", peer=session.peer, unanswered=session.unanswered)
                self.close_session(
                    session,
                    InvalidRequest(f"{session.unanswered} keys wanted and unanswered; at most {MAX_WINDOW} may be"),
                )
                return
            try:
                nbytes = self._catalog.seen_by(session.caller.datasets).check(key)
                if session.unanswered >= MAX_WINDOW:
                    raise InvalidRequest(f"more than {MAX_WINDOW} keys wanted and unanswered in one stream")
            except FeedlineError as error:
                self._refuse(session, ticket, error)
                continue
            with self._lock:
                if session.closed or self._draining:
                    return  # its stream ends, and what was not answered is wanted elsewhere
                if not session.waiting:
                    # A stream that was idle has no claim on the past: it joins the clock where the others are.
                    session.served = max(session.served, self._clock)
                session.waiting.append(Want(ticket, key, self._sizes.of(key, nbytes), self._now()))
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
                    self._lending.take_back(session, delivery.slot)
            session.ready = kept
        self._pump()

    def next_deliveries(self, session: Session, nbytes: int) -> list[Delivery]:
        """Wait for what is ready for this stream: one delivery, or as many small ones as `nbytes` hold.

        Empty when the stream is to end: closed, or all is answered that was wanted or, while the loader drains, begun.
        """
        if self._reads_again(session):
            self._pump()
        with session.changed:
            while not session.ready:
                if session.closed or ((session.wants_ended or self._draining) and not session.unanswered):
                    return []
                session.changed.wait()
            deliveries = [session.ready.popleft()]
            total = deliveries[0].unsent_nbytes
            while session.ready and total + session.ready[0].unsent_nbytes <= nbytes:
                deliveries.append(session.ready.popleft())
                total += deliveries[-1].unsent_nbytes
            session.sending += [delivery for delivery in deliveries if isinstance(delivery, Batch)]
            return deliveries

    def memory(self, batch: Batch) -> memoryview:
        """The body of a batch in the arena that is lent to its sender."""
        return self._arena.memory(batch.slot, batch.layout.nbytes)

    def hand_over(self, session: Session) -> None:
        """The sender gives a frame to the network, and reads no memory of a batch until `take_up`."""
        session.unread_since = self._now()

    def take_up(self, session: Session, batches: Iterable[Batch]) -> bool:
        """The network took the frame. False if one of these was taken away meanwhile: it comes again from its start."""
        if self._reads_again(session):
            self._pump()
        return all(batch in session.sending for batch in batches)

    def give_back(self, session: Session, *batches: Batch | Scattered, sent: bool) -> None:
        """The sender has copied these batches out, or will not: those that had slots have none any more."""
        with self._lock:
            for batch in batches:
                if isinstance(batch, Batch) and batch in session.sending:
                    session.sending.remove(batch)
                    if not (sent and batch.slot.memory != ARENA):  # else the place is the trainer's by now
                        self._lending.take_back(session, batch.slot)
                if sent:
                    session.batches += 1
                    session.nbytes += batch.nbytes
                    self._counts.batches += 1
                    self._counts.nbytes += batch.nbytes
                    self._counts.scattered += isinstance(batch, Scattered)
        self._pump()

    def assemble(self, session: Session, batches: Sequence[Scattered]) -> None:
        """These cannot be sent from where their rows lie after all: workers assemble them, or say what is wrong."""
        with self._lock:
            session.waiting.extendleft(batch.want for batch in reversed(batches))
        self._pump()

    def end_wants(self, session: Session) -> None:
        """The trainer will want nothing more: the stream ends when all is answered."""
        with self._lock:
            session.wants_ended = True
            session.changed.notify_all()

    def close_session(self, session: Session, error: FeedlineError | None = None) -> None:
        """The stream is over: everything it held is free, at once or when its worker is done. Twice is fine.

        `error` is what the trainer is told, if it is the loader that ends it.
        """
        with self._lock:
            if session.closed:
                return
            session.closed = True
            session.error = error
            self._sessions.remove(session)
            session.waiting.clear()
            session.assembling.clear()
            for batch in session.unsent:  # what is just being copied is given back by its sender
                self._lending.drop(session, batch)
            session.ready.clear()
            session.changed.notify_all()
            self._idle.notify_all()
        self._pump()

    # ---- for the pool ----

    def answer(self, answers: Sequence[tuple[Task, Outcome]]) -> None:
        """What became of tasks."""
        with self._lock:
            for task, outcome in answers:
                self._finish(self._jobs.end(task.number), outcome)
            self._idle.notify_all()
        self._pump()

    # ---- for the loader ----

    def start(self) -> None:
        """Begin to look after trainers that stop reading."""
        self._watcher.start()

    def close(self) -> None:
        """End what `start` began; twice is fine."""
        with self._lock:
            self._closing = True
            self._short.notify()
        if self._watcher.is_alive():
            self._watcher.join()

    def drain(self) -> None:
        """Take no new work; what is being assembled is finished and sent, then every stream ends."""
        with self._lock:
            self._draining = True
            for session in self._sessions:
                session.waiting.clear()
                begun = [delivery for delivery in session.ready if not isinstance(delivery, Scattered)]
                session.ready = type(session.ready)(begun)
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
            return observed(
                self._sessions,
                self._lending,
                self._overload,
                self._counts,
                draining=self._draining,
                now=self._now(),
            )

    # ---- inside ----

    def _pump(self) -> None:
        """Start whatever can be started now; the pool is told after the lock is released."""
        tasks = []
        with self._lock:
            now = self._now()
            share = share_of(self._arena.nbytes, len(self._sessions))
            able = list(self._sessions)
            short_of: Shortage | None = None
            while (session := choose(able, share, now)) is not None:
                want = session.waiting[0]
                if self._scatter(session, want):
                    continue
                if self._may_be_shared(want.key) and self._join(session, want):
                    continue
                if self._jobs.load >= self._workers * QUEUED_PER_WORKER:
                    short_of = short_of or "workers"
                    # What needs no worker must not wait behind what does.
                    able = [other for other in able if other.takes_pieces and other is not session]
                    continue
                slot = self._lending.lend(session, want, self._sessions, now, is_placed=self._is_placed(want))
                if slot is None:
                    short_of = "memory"
                    able.remove(session)
                    continue
                self._clock = max(self._clock, session.served)
                session.served += cost(want)
                tasks.append(self._begin(session, want, slot))
            self._overload.note(short_of, now)
            if short_of == "memory":
                self._short.notify()
            overload = self._words_about_overload(now)
        if tasks:
            self._submit(tasks)
        if overload is not None:
            log.warning("overloaded: trainers wait; add workers, memory or a replica", **overload)

    def _begin(self, session: Session, want: Want, slot: Slot) -> Task:
        """Have the stream's next key assembled."""
        session.waiting.popleft()
        session.assembling.add(want.ticket)
        may_be_shared = self._may_be_shared(want.key)
        if may_be_shared:
            self._lending.note_given(want.key)
        weight = self._paces.weight(want.key)
        # What lies in a trainer's memory is its own: nobody else takes part in it.
        job = Job(want.key, slot, may_be_shared and slot.memory == ARENA, weight, [Taker(session, want)])
        return Task(self._jobs.begin(job), want.key, slot.start, slot.nbytes, weight, slot.memory)

    def _join(self, session: Session, want: Want) -> bool:
        """Give the stream what is assembled for another one, or lies finished; False if its next key is neither."""
        job = self._jobs.find(want.key)
        lying = self._lending.find(want.key) if job is None else None
        if job is not None:
            job.takers.append(Taker(session, want))
            session.assembling.add(want.ticket)
            self._lending.join(session, job.slot)
        elif lying is not None:
            self._lending.join(session, lying.slot)
            session.ready.append(Batch(want, lying.layout, lying.slot))
            session.changed.notify()
        else:
            return False
        self._pass_workers_by(session, want)
        self._counts.shared += 1
        return True

    def _scatter(self, session: Session, want: Want) -> bool:
        """Have the stream's next key sent from where its rows lie; False if it has to be assembled."""
        scattering = self._scatterings.get(want.key.dataset) if session.takes_pieces else None
        if scattering is None or not scattering.takes(want.key.rows):
            return False
        # One gather for all costs less than each one's copies out of cold memory: four trainers 2.1 CPU s/GB, not 2.7.
        if len(self._sessions) > 1 and self._lending.is_shared(want.key):
            return False
        self._pass_workers_by(session, want)
        session.ready.append(Scattered(want, scattering))
        session.changed.notify()
        return True

    def _pass_workers_by(self, session: Session, want: Want) -> None:
        """The stream gets its next key, and workers do nothing for it."""
        session.waiting.popleft()
        self._lending.note_given(want.key)
        # It cost no worker, so nobody is behind for it; nor has who lives on what others had any claim on the past.
        session.served = max(session.served, self._clock)

    def _may_be_shared(self, key: Key) -> bool:
        """Equal keys are equal batches; not those of a stream without keys, where each is another one."""
        return not self._catalog.served[key.dataset].dataset.is_stream

    def _is_placed(self, want: Want) -> bool:
        """It may be assembled in its trainer's memory, where the trainer can change it while a worker is at it."""
        return want.nbytes >= IN_PLACE_NBYTES and self._catalog.served[want.key.dataset].dataset.only_writes

    def _finish(self, job: Job, outcome: Outcome) -> None:
        """Give everybody who takes part in a job what became of it."""
        error = None if isinstance(outcome, Done) else refusal(job, outcome, self._catalog)
        self._paces.note(job.key, outcome.seconds if isinstance(outcome, Done) else None)
        if isinstance(outcome, Done) and job.is_shared:
            self._lending.finished(job.key, job.slot, outcome.layout)
        elif isinstance(outcome, Outgrown) and error is None:
            self._sizes.note(job.key, outcome.nbytes)
        # What nobody waits for any more has failed nobody.
        self._counts.failures += error is not None and any(taker.is_waiting for taker in job.takers)
        for taker in job.takers:
            session, want = taker.session, taker.want
            is_wanted = taker.is_waiting
            session.assembling.discard(want.ticket)
            if isinstance(outcome, Done) and is_wanted:
                session.ready.append(Batch(want, outcome.layout, job.slot))
            else:
                self._lending.take_back(session, job.slot)
                if error is not None and is_wanted:
                    session.ready.append(Refusal(want.ticket, error))
                elif is_wanted:  # it outgrew its slot: again, before what is wanted next
                    session.waiting.appendleft(replace(want, nbytes=self._sizes.of(want.key, want.nbytes)))
            session.changed.notify()

    def _watch(self) -> None:
        """See to what nobody calls for: while memory is short, a trainer that does not read becomes deaf by itself."""
        while True:
            with self._lock:
                due = next_deafness_s(self._sessions, self._now())
                # One that begins to be unread meanwhile cannot be deaf before DEAF_S have passed.
                self._short.wait((DEAF_S if due is None else due) if self._lending.is_short else None)
                if self._closing:
                    return
            self._pump()

    def _reads_again(self, session: Session) -> bool:
        """The network took the last frame; True if the stream was deaf until now, so that its keys may go on."""
        with self._lock:
            was_deaf = is_deaf(session, self._now())
            session.unread_since = None
            if was_deaf:  # like one that was idle: it has no claim on what the others got meanwhile
                session.served = max(session.served, self._clock)
            return was_deaf

    def _words_about_overload(self, now: float) -> dict[str, object] | None:
        if not self._overload.is_to_be_said(self._sessions, now):
            return None
        return {
            "short_of": self._overload.short_of,
            "waited_s": round(self._overload.longest_wait_s(self._sessions, now), 1),
            "keys_waiting": sum(len(session.waiting) for session in self._sessions),
            "trainers": len(self._sessions),
            "workers": self._workers,
            "arena_lent": self._arena.lent_nbytes,
            "arena_bytes": self._arena.nbytes,
        }

    def _refuse(self, session: Session, ticket: int, error: FeedlineError) -> None:
        with self._lock:
            self._counts.failures += 1
            if not session.closed:
                session.ready.append(Refusal(ticket, error))
                session.changed.notify()
