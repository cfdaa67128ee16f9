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
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.memory.trainer import IN_PLACE_NBYTES, TrainerMemory
from feedline_server.scheduling.admission import StreamLimits
from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.fairness import STALLED_S, choose, cost, is_stalled, next_stall_s, share_of
from feedline_server.scheduling.jobs import BatchSizes, Job, Jobs, TaskWeights, Waiter, refusal
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.status import SchedulerStatus, status_of
from feedline_server.scheduling.stream import Batch, Delivery, FileBatch, Refusal, Stream, Want
from feedline_server.workers.messages import Done, Outcome, SlotTooSmall, Task
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderDraining
from feedline_wire.key import Key
from feedline_wire.status import LoaderCounters, for_log

MAX_WINDOW = 1024
"""Keys a stream may have unanswered. A trainer 64 batches ahead uses 64; a hostile one costs 1024 small objects."""

QUEUED_PER_WORKER = 2
"""Tasks given to the pool and not yet answered, a worker: the pool keeps that many at each (pool.HELD), more of those
that take no time. Yet more would be served first come first served instead of fairly."""

log = structlog.get_logger()


class Scheduler:
    """Between the streams and the pool. Every method may be called from any thread; `now` is a clock in seconds."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        arena: Arena,
        workers: int,
        max_trainers: int,
        max_streams_per_client: int | None = None,
        scatterings: Mapping[str, ZeroCopySource],
        submit: Callable[[Sequence[Task]], None],
        now: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._arena = arena
        self._allocator = Allocator(arena)
        self._workers = workers
        self._limits = StreamLimits(max_trainers, max_streams_per_client)
        self._submit = submit
        self._now = now
        self._lock = threading.Lock()
        self._streams: list[Stream] = []
        self._scatterings = scatterings
        self._jobs = Jobs()
        self._sizes = BatchSizes()
        self._weights = TaskWeights()
        self._virtual_time = 0.0  # the fair clock: `virtual_time` of the stream served last
        self._overload = Overload()
        self._counts = LoaderCounters()
        self._draining = False
        self._idle = threading.Condition(self._lock)
        self._closing = False
        self._short = threading.Condition(self._lock)
        self._watcher = threading.Thread(target=self._watch, name="feedline-memory", daemon=True)

    def __repr__(self) -> str:
        return f"<Scheduler trainers={len(self._streams)} assembling={len(self._jobs)} {self._arena!r}>"

    # ---- for the streams ----

    def open_stream(self, peer: str, caller: Caller = ANYBODY) -> Stream:
        """Books for a new stream; LoaderBusy or LoaderDraining if there can be none."""
        with self._lock:
            if self._draining:
                raise LoaderDraining("this loader is shutting down; ask another replica", elsewhere=True)
            self._limits.check(self._streams, caller)
            stream = Stream(peer, threading.Condition(self._lock), caller)
            self._streams.append(stream)
            return stream

    def set_lane(self, stream: Stream, memory: TrainerMemory | None) -> None:
        """The stream has a lane: to a trainer on this host, whose batches may be assembled in its memory, or by tcp."""
        with self._lock:
            stream.memory = memory
            stream.sends_from_files = memory is None

    def want(self, stream: Stream, ticket: int, key: Key) -> None:
        """Put a key into a stream's window. A key that cannot be had is refused, and the stream lives on."""
        self.want_all(stream, ((ticket, key),))

    def want_all(self, stream: Stream, wants: Iterable[tuple[int, Key]]) -> None:
        """Put keys into a stream's window, in their order, under their tickets."""
        for ticket, key in wants:
            if stream.unanswered >= 2 * MAX_WINDOW:  # it reads no refusals either: they must not pile up
                log.warning("ending a stream that wants without end", peer=stream.peer, unanswered=stream.unanswered)
                self.close_stream(
                    stream,
                    InvalidRequest(f"{stream.unanswered} keys wanted and unanswered; at most {MAX_WINDOW} may be"),
                )
                return
            try:
                nbytes = self._catalog.seen_by(stream.caller.datasets).check(key)
                if stream.unanswered >= MAX_WINDOW:
                    raise InvalidRequest(f"more than {MAX_WINDOW} keys wanted and unanswered in one stream")
            except FeedlineError as error:
                self._refuse(stream, ticket, error)
                continue
            with self._lock:
                if stream.closed or self._draining:
                    return  # its stream ends, and what was not answered is wanted elsewhere
                if not stream.waiting:
                    # A stream that was idle has no claim on the past: it joins the clock where the others are.
                    stream.virtual_time = max(stream.virtual_time, self._virtual_time)
                stream.waiting.append(Want(ticket, key, self._sizes.of(key, nbytes), self._now()))
        self._pump()

    def cancel(self, stream: Stream, tickets: Iterable[int]) -> None:
        """Forget keys that are no longer wanted; one that is being sent already arrives all the same."""
        gone = set(tickets)
        with self._lock:
            stream.waiting = type(stream.waiting)(want for want in stream.waiting if want.ticket not in gone)
            stream.assembling -= gone  # the worker finishes; the result is dropped when it comes
            kept = type(stream.ready)()
            for delivery in stream.ready:
                if delivery.ticket not in gone:
                    kept.append(delivery)
                elif isinstance(delivery, Batch):
                    self._allocator.release(stream, delivery.slot)
            stream.ready = kept
        self._pump()

    def next_deliveries(self, stream: Stream, nbytes: int) -> list[Delivery]:
        """Wait for what is ready for this stream: one delivery, or as many small ones as `nbytes` hold.

        Empty when the stream is to end: closed, or all is answered that was wanted or, while the loader drains, begun.
        """
        if self._resume_reading(stream):
            self._pump()
        with stream.changed:
            while not stream.ready:
                if stream.closed or ((stream.wants_ended or self._draining) and not stream.unanswered):
                    return []
                stream.changed.wait()
            deliveries = [stream.ready.popleft()]
            total = deliveries[0].unsent_nbytes
            while stream.ready and total + stream.ready[0].unsent_nbytes <= nbytes:
                deliveries.append(stream.ready.popleft())
                total += deliveries[-1].unsent_nbytes
            stream.sending += [delivery for delivery in deliveries if isinstance(delivery, Batch)]
            return deliveries

    def memory(self, batch: Batch) -> memoryview:
        """The body of a batch in the arena that is lent to its sender."""
        return self._arena.memory(batch.slot, batch.layout.nbytes)

    def unpin(self, stream: Stream) -> None:
        """The sender gives a frame to the network, and reads no memory of a batch until `pin`."""
        stream.unread_since = self._now()

    def pin(self, stream: Stream, batches: Iterable[Batch]) -> bool:
        """The network took the frame. False if one of these was taken away meanwhile: it comes again from its start."""
        if self._resume_reading(stream):
            self._pump()
        return all(batch in stream.sending for batch in batches)

    def release(self, stream: Stream, *batches: Batch | FileBatch, sent: bool) -> None:
        """The sender has copied these batches out, or will not: those that had slots have none any more."""
        with self._lock:
            for batch in batches:
                if isinstance(batch, Batch) and batch in stream.sending:
                    stream.sending.remove(batch)
                    if not (sent and batch.slot.memory != ARENA):  # else the place is the trainer's by now
                        self._allocator.release(stream, batch.slot)
                if sent:
                    stream.batches += 1
                    stream.nbytes += batch.nbytes
                    self._counts.batches += 1
                    self._counts.bytes += batch.nbytes
                    self._counts.scattered += isinstance(batch, FileBatch)
        self._pump()

    def assemble(self, stream: Stream, batches: Sequence[FileBatch]) -> None:
        """These cannot be sent from where their rows lie after all: workers assemble them, or say what is wrong."""
        with self._lock:
            stream.waiting.extendleft(batch.want for batch in reversed(batches))
        self._pump()

    def end_wants(self, stream: Stream) -> None:
        """The trainer will want nothing more: the stream ends when all is answered."""
        with self._lock:
            stream.wants_ended = True
            stream.changed.notify_all()

    def close_stream(self, stream: Stream, error: FeedlineError | None = None) -> None:
        """The stream is over: everything it held is free, at once or when its worker is done. Twice is fine.

        `error` is what the trainer is told, if it is the loader that ends it.
        """
        with self._lock:
            if stream.closed:
                return
            stream.closed = True
            stream.error = error
            self._streams.remove(stream)
            stream.waiting.clear()
            stream.assembling.clear()
            for batch in stream.unsent:  # what is just being copied is given back by its sender
                self._allocator.drop(stream, batch)
            stream.ready.clear()
            stream.changed.notify_all()
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
            for stream in self._streams:
                stream.waiting.clear()
                begun = [delivery for delivery in stream.ready if not isinstance(delivery, FileBatch)]
                stream.ready = type(stream.ready)(begun)
                stream.changed.notify_all()

    @property
    def is_draining(self) -> bool:
        """No new work is taken."""
        return self._draining

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until no stream is left; False if some are after `timeout_s`."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._streams, timeout_s)

    def status(self) -> SchedulerStatus:
        """What is going on now."""
        with self._lock:
            return self._status_at(self._now())

    # ---- inside ----

    def _pump(self) -> None:
        """Start whatever can be started now; the pool is told after the lock is released."""
        tasks = []
        with self._lock:
            now = self._now()
            share = share_of(self._arena.nbytes, len(self._streams))
            able = list(self._streams)
            short_of: Shortage | None = None
            while (stream := choose(able, share, now)) is not None:
                want = stream.waiting[0]
                if self._send_from_files(stream, want):
                    continue
                if self._may_be_shared(want.key) and self._join(stream, want):
                    continue
                if self._jobs.load >= self._workers * QUEUED_PER_WORKER:
                    short_of = short_of or "workers"
                    # What needs no worker must not wait behind what does.
                    able = [other for other in able if other.sends_from_files and other is not stream]
                    continue
                slot = self._allocator.allocate(stream, want, self._streams, now, is_placed=self._is_placed(want))
                if slot is None:
                    short_of = "memory"
                    able.remove(stream)
                    continue
                self._virtual_time = max(self._virtual_time, stream.virtual_time)
                stream.virtual_time += cost(want)
                tasks.append(self._begin(stream, want, slot))
            self._overload.note(short_of, now)
            if short_of == "memory":
                self._short.notify()
            overload = self._overload_fields(now)
        if tasks:
            self._submit(tasks)
        if overload is not None:
            log.warning("overloaded: trainers wait; add workers, memory or a replica", **overload)

    def _begin(self, stream: Stream, want: Want, slot: Slot) -> Task:
        """Have the stream's next key assembled."""
        stream.waiting.popleft()
        stream.assembling.add(want.ticket)
        may_be_shared = self._may_be_shared(want.key)
        if may_be_shared:
            self._allocator.note_given(want.key)
        weight = self._weights.weight(want.key)
        # What lies in a trainer's memory is its own: nobody else takes part in it.
        job = Job(want.key, slot, may_be_shared and slot.memory == ARENA, weight, [Waiter(stream, want)])
        return Task(self._jobs.begin(job), want.key, slot.start, slot.nbytes, weight, slot.memory)

    def _join(self, stream: Stream, want: Want) -> bool:
        """Give the stream what is assembled for another one, or lies finished; False if its next key is neither."""
        job = self._jobs.find(want.key)
        cached = self._allocator.find(want.key) if job is None else None
        if job is not None:
            job.waiters.append(Waiter(stream, want))
            stream.assembling.add(want.ticket)
            self._allocator.join(stream, job.slot)
        elif cached is not None:
            self._allocator.join(stream, cached.slot)
            stream.ready.append(Batch(want, cached.layout, cached.slot))
            stream.changed.notify()
        else:
            return False
        self._pass_workers_by(stream, want)
        self._counts.shared += 1
        return True

    def _send_from_files(self, stream: Stream, want: Want) -> bool:
        """Have the stream's next key sent from where its rows lie; False if it has to be assembled."""
        scattering = self._scatterings.get(want.key.dataset) if stream.sends_from_files else None
        if scattering is None or not scattering.takes(want.key.rows):
            return False
        # One gather for all costs less than each one's copies out of cold memory: four trainers 2.1 CPU s/GB, not 2.7.
        if len(self._streams) > 1 and self._allocator.is_shared(want.key):
            return False
        self._pass_workers_by(stream, want)
        stream.ready.append(FileBatch(want, scattering))
        stream.changed.notify()
        return True

    def _pass_workers_by(self, stream: Stream, want: Want) -> None:
        """The stream gets its next key, and workers do nothing for it."""
        stream.waiting.popleft()
        self._allocator.note_given(want.key)
        # It cost no worker, so nobody is behind for it; nor has who lives on what others had any claim on the past.
        stream.virtual_time = max(stream.virtual_time, self._virtual_time)

    def _may_be_shared(self, key: Key) -> bool:
        """Equal keys are equal batches; not those of a stream without keys, where each is another one."""
        return not self._catalog.served[key.dataset].dataset.is_stream

    def _is_placed(self, want: Want) -> bool:
        """It may be assembled in its trainer's memory, where the trainer can change it while a worker is at it."""
        return want.nbytes >= IN_PLACE_NBYTES and self._catalog.served[want.key.dataset].dataset.only_writes

    def _finish(self, job: Job, outcome: Outcome) -> None:
        """Give everybody who takes part in a job what became of it."""
        error = None if isinstance(outcome, Done) else refusal(job, outcome, self._catalog)
        self._weights.note(job.key, outcome.seconds if isinstance(outcome, Done) else None)
        if isinstance(outcome, Done) and job.is_shared:
            self._allocator.finished(job.key, job.slot, outcome.layout)
        elif isinstance(outcome, SlotTooSmall) and error is None:
            self._sizes.note(job.key, outcome.nbytes)
        # What nobody waits for any more has failed nobody.
        self._counts.failures += error is not None and any(waiter.is_waiting for waiter in job.waiters)
        for waiter in job.waiters:
            stream, want = waiter.stream, waiter.want
            is_wanted = waiter.is_waiting
            stream.assembling.discard(want.ticket)
            if isinstance(outcome, Done) and is_wanted:
                stream.ready.append(Batch(want, outcome.layout, job.slot))
            else:
                self._allocator.release(stream, job.slot)
                if error is not None and is_wanted:
                    stream.ready.append(Refusal(want.ticket, error))
                elif is_wanted:  # it outgrew its slot: again, before what is wanted next
                    stream.waiting.appendleft(replace(want, nbytes=self._sizes.of(want.key, want.nbytes)))
            stream.changed.notify()

    def _watch(self) -> None:
        """While memory is short, look again when the next reader counts as stalled: no event tells of that."""
        while True:
            with self._lock:
                due = next_stall_s(self._streams, self._now())
                # One that begins to be unread meanwhile cannot be stalled before STALLED_S have passed.
                self._short.wait((STALLED_S if due is None else due) if self._allocator.is_short else None)
                if self._closing:
                    return
            self._pump()

    def _resume_reading(self, stream: Stream) -> bool:
        """The network took the last frame; True if the stream was stalled until now, so that its keys may go on."""
        with self._lock:
            was_stalled = is_stalled(stream, self._now())
            stream.unread_since = None
            if was_stalled:  # like one that was idle: it has no claim on what the others got meanwhile
                stream.virtual_time = max(stream.virtual_time, self._virtual_time)
            return was_stalled

    def _status_at(self, now: float) -> SchedulerStatus:
        return status_of(self._streams, self._allocator, self._overload, self._counts, draining=self._draining, now=now)

    def _overload_fields(self, now: float) -> dict[str, object] | None:
        if not self._overload.should_log(self._streams, now):
            return None
        return {
            "short_of": self._overload.short_of,
            "keys_waiting": sum(len(stream.waiting) for stream in self._streams),
            "trainers": len(self._streams),
            **for_log(replace(self._status_at(now).counters, workers=self._workers)),
        }

    def _refuse(self, stream: Stream, ticket: int, error: FeedlineError) -> None:
        with self._lock:
            self._counts.failures += 1
            if not stream.closed:
                stream.ready.append(Refusal(ticket, error))
                stream.changed.notify()
