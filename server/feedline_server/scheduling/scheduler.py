"""Between the streams and the worker pool: what is wanted, what is assembled, what is sent.

Every key wanted is answered once, with a batch or a refusal, unless its stream ends; every slot allocated is released.
Each event (keys wanted, a task done, a batch sent) changes the books under one lock and then begins, once, whatever can
begin now. The rules are elsewhere: whose turn it is in fairness, who gets memory in allocation, what is kept in cache.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import structlog

from feedline_server.access.tokens import ANYBODY, Caller
from feedline_server.batches.assembly import layout_of
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.memory.arena import ARENA, Arena, Slot
from feedline_server.memory.trainer import TrainerMemory
from feedline_server.scheduling.admission import StreamLimits
from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.cache import KEPT_PART, BatchCache
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.fairness import STALLED_S, FairQueue, choose, is_stalled, next_stall_s, share_of
from feedline_server.scheduling.jobs import Estimates, Job, Jobs, Waiter, refusal
from feedline_server.scheduling.overload import Overload, Shortage
from feedline_server.scheduling.status import SchedulerStatus, status_of
from feedline_server.scheduling.stream import WAITING, Batch, Delivery, FileBatch, Refusal, Stream, Want
from feedline_server.workers.messages import Done, Outcome, SlotTooSmall, Task, by_stage
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderDraining
from feedline_wire.key import Key
from feedline_wire.lane import IN_PLACE_NBYTES
from feedline_wire.status import LoaderCounters, for_log

MAX_WINDOW = 1024
"""Keys a stream may have unanswered. A trainer 64 batches ahead uses 64; a hostile one costs 1024 small objects."""

QUEUED_PER_WORKER = 2
"""Tasks given to the pool and not yet answered, a worker: the pool keeps that many at each (pool.HELD), more of those
that take no time. Yet more would be served first come first served instead of fairly."""

_WINDOW_FULL = InvalidRequest(f"more than {MAX_WINDOW} keys wanted and unanswered in one stream")

log = structlog.get_logger()


class Scheduler:
    """Gives each stream what it wants. Thread-safe; `now` is a clock in seconds, `submit` gives tasks to the pool."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        arena: Arena,
        workers: int,
        max_trainers: int,
        max_streams_per_client: int | None = None,
        submit: Callable[[Sequence[Task]], None],
        now: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._arena = arena
        self._workers = workers
        self._limits = StreamLimits(max_trainers, max_streams_per_client)
        self._submit = submit
        self.now = now
        self._lock = threading.Lock()
        self._streams: list[Stream] = []
        self._queue = FairQueue()
        self._cache = BatchCache(arena.nbytes // KEPT_PART)
        self._allocator = Allocator(arena, self._cache)
        self._jobs = Jobs()
        self._estimates = Estimates()
        self._overload = Overload()
        self._counts = LoaderCounters()
        self._draining = False
        self._empty = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<Scheduler trainers={len(self._streams)} assembling={len(self._jobs)} {self._arena!r}>"

    # ---- for the streams ----

    def open_stream(self, peer: str, caller: Caller = ANYBODY) -> Stream:
        """A new stream. Raises LoaderBusy or LoaderDraining."""
        with self._lock:
            if self._draining:
                raise LoaderDraining("this loader is shutting down; ask another replica", elsewhere=True)
            self._limits.check(self._streams, caller)
            stream = Stream(peer, threading.Condition(self._lock), caller)
            self._streams.append(stream)
            return stream

    def set_lane(self, stream: Stream, lane: str, memory: TrainerMemory | None) -> None:
        """The stream has a lane: to a trainer on this host, in whose memory batches may be assembled, or by TCP."""
        with self._lock:
            stream.lane, stream.memory = lane, memory
            stream.sends_from_files = memory is None

    def want(self, stream: Stream, wants: Iterable[tuple[int, Key]]) -> None:
        """Put keys into a stream's window, in their order, under their tickets.

        A key that cannot be had is refused, and the stream lives on; one that reads no refusals either is ended.
        """
        catalog = self._catalog.seen_by(stream.caller.datasets)
        checked: list[tuple[int, Key, int | FeedlineError]] = []
        for ticket, key in wants:
            try:
                checked.append((ticket, key, catalog.check(key)))
            except FeedlineError as error:
                checked.append((ticket, key, error))
        with self._event() as now:
            for ticket, key, nbytes in checked:
                if stream.closed or self._draining:
                    return  # the stream ends, and what was not answered is wanted elsewhere
                found = _WINDOW_FULL if stream.unanswered >= MAX_WINDOW else nbytes
                if not isinstance(found, FeedlineError):
                    if not stream.waiting:  # it was idle
                        self._queue.join(stream)
                    stream.versions.add((key.dataset, key.fingerprint))
                    stream.waiting.append(Want(ticket, key, self._estimates.nbytes(key, found), now))
                elif stream.unanswered < 2 * MAX_WINDOW:
                    self._counts.failures += 1
                    stream.deliver(Refusal(ticket, found))
                else:
                    log.warning("a stream is ended", **stream.log_fields, reason=str(found))
                    self._end(stream, found)

    def cancel(self, stream: Stream, tickets: Iterable[int]) -> None:
        """Forget keys that are no longer wanted; one that is being sent already arrives all the same."""
        with self._event():
            for batch in stream.cancel(set(tickets)):
                self._allocator.release(stream, batch.slot)

    def next_deliveries(self, stream: Stream, nbytes: int) -> list[Delivery]:
        """Blocks until something is ready for this stream: one delivery, or as many small ones as `nbytes` hold.

        Empty when the stream is to end: it is closed, or all is answered that was wanted or, while draining, begun.
        """
        self._resume_reading(stream)
        while True:
            with stream.changed:
                is_due = False
                while not (stream.ready or is_due):
                    if stream.closed or ((stream.wants_ended or self._draining) and not stream.unanswered):
                        return []
                    is_due = not stream.changed.wait(self._next_look_s())
                if stream.ready:
                    return stream.take(nbytes)
            with self._event():
                pass

    def body(self, batch: Batch) -> memoryview:
        """The body of a batch in the arena that is at its sender."""
        return self._arena.memory(batch.slot, batch.nbytes)

    def unpin(self, stream: Stream) -> None:
        """The sender waits for the network, and reads no batch until `pin`: what it holds may be dropped meanwhile."""
        stream.unread_since = self.now()

    def pin(self, stream: Stream, batches: Iterable[Batch]) -> bool:
        """The network took the frame. False if one of these was dropped meanwhile: it comes again from its start."""
        self._resume_reading(stream)
        return stream.sending.keys() >= set(batches)

    def release(
        self, stream: Stream, batches: Iterable[Batch | FileBatch], *, sent: bool, again: Sequence[FileBatch] = ()
    ) -> None:
        """The sender has sent these batches, or will not. `again` cannot be sent from files: workers assemble them."""
        with self._event() as now:
            for batch in batches:
                if isinstance(batch, Batch) and batch in stream.sending:
                    del stream.sending[batch]
                    if batch.is_in_arena or not sent:  # else the place is the trainer's now
                        self._allocator.release(stream, batch.slot)
                if sent:
                    stream.count_sent(batch, self._counts, self._estimates.work, now)
            if again:
                stream.waiting.extendleft(batch.want for batch in reversed(again))

    def note_reader(self, stream: Stream, reader: pb.Reader) -> bool:
        """A trainer says how it fares with a view, which may be new. What is not served is passed over."""
        served = self._catalog.seen_by(stream.caller.datasets).served.get(reader.dataset)
        with self._lock:
            return served is not None and reader.view in served.dataset.views and stream.note_reader(reader, self.now())

    def end_wants(self, stream: Stream) -> None:
        """The trainer will want nothing more: the stream ends when all is answered."""
        with self._lock:
            stream.wants_ended = True
            stream.changed.notify_all()

    def close_stream(self, stream: Stream, error: FeedlineError | None = None) -> None:
        """End a stream, free what it held; `error` is for its trainer, if the loader ends it. Idempotent."""
        with self._event():
            self._end(stream, error)

    # ---- for the pool ----

    def answer(self, answers: Sequence[tuple[Task, Outcome]]) -> None:
        """What became of tasks."""
        with self._event() as now:
            for task, outcome in answers:
                self._finish(self._jobs.end(task.number), outcome, now)

    # ---- for the loader ----

    def drain(self) -> None:
        """Take no new work; what is being assembled is finished and sent, then every stream ends."""
        with self._lock:
            self._draining = True
            for stream in self._streams:
                stream.drain()

    @property
    def is_draining(self) -> bool:
        """No new work is taken."""
        return self._draining

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until no stream is left; False if some are after `timeout_s`."""
        with self._empty:
            return self._empty.wait_for(lambda: not self._streams, timeout_s)

    def versions_in_use(self) -> set[tuple[str, bytes]]:
        """Name and fingerprint of what the streams that are open have wanted keys of."""
        with self._lock:
            return set().union(*(stream.versions for stream in self._streams))

    def status(self) -> SchedulerStatus:
        """What is going on now."""
        with self._lock:
            return self._status_at(self.now())

    # ---- inside ----

    @contextlib.contextmanager
    def _event(self) -> Iterator[float]:
        """Something changes, now: under the lock, and then whatever can begin is begun. The pool has it afterwards."""
        with self._lock:
            now = self.now()
            yield now
            tasks = self._begin_what_can(now)
            overload = self._overload_fields(now) if self._overload.short_of is not None else None
        if tasks:
            self._submit(tasks)
        if overload is not None:
            log.warning("overloaded: trainers wait; add workers, memory or a replica", **overload)

    def _begin_what_can(self, now: float) -> list[Task]:
        share = share_of(self._arena.nbytes, len(self._streams))
        able = list(self._streams)
        tasks: list[Task] = []
        short_of: Shortage | None = None
        while (stream := choose(able, share, now)) is not None:
            want = stream.waiting[0]
            if self._answer_without_worker(stream, want, now):
                continue
            if self._jobs.load >= self._workers * QUEUED_PER_WORKER:
                short_of = short_of or "workers"
                # What needs no worker must not wait behind what does.
                able = [other for other in able if other.sends_from_files and other is not stream]
                continue
            in_place = stream.memory is not None and self._is_in_place(want)
            slot = self._allocator.allocate(stream, want, self._streams, now, in_place=in_place)
            if slot is None:
                short_of = "memory"
                able.remove(stream)
                continue
            tasks.append(self._begin(stream, want, slot))
        if self._allocator.is_short and self._overload.short_of != "memory":
            for stream in self._streams:  # while it is short, those that wait look again
                stream.changed.notify()
        is_bound = short_of is None and self._jobs.load < self._workers and any(map(WAITING, able))
        if (self._overload.short_of, self._overload.is_bound) != (short_of, is_bound):
            self._overload.note(short_of, now, is_bound=is_bound)
        return tasks

    def _begin(self, stream: Stream, want: Want, slot: Slot) -> Task:
        """Have the stream's next key assembled."""
        self._queue.charge(stream, want)
        stream.waiting.popleft()
        stream.assembling.add(want.ticket)
        # Equal keys are equal batches; not those of a generator, each of which is another one.
        if is_shareable := not self._catalog.dataset(want.key).is_stream:
            self._cache.note_request(want.key)
        weight = self._estimates.weight(want.key)
        # What lies in a trainer's memory is its own: no other stream takes part in it.
        job = Job(want.key, slot, is_shareable and slot.memory == ARENA, weight, [Waiter(stream, want)])
        return Task(self._jobs.begin(job), want.key, slot.start, slot.nbytes, weight, slot.memory)

    def _answer_without_worker(self, stream: Stream, want: Want, now: float) -> bool:
        """Send the next key from files, or share what another had assembled; False if neither is possible."""
        if (source := self._source_in_files(stream, want.key)) is not None:
            stream.deliver(FileBatch(want, source, now))
        else:
            if (job := self._jobs.find(want.key)) is not None:
                job.waiters.append(Waiter(stream, want))
                stream.assembling.add(want.ticket)
                self._allocator.share(stream, job.slot)
            elif (cached := self._allocator.find(want.key)) is not None:
                self._allocator.share(stream, cached.slot)
                stream.deliver(Batch(want, cached.layout, cached.slot, now))
            else:
                return False
            self._counts.shared += 1
        stream.waiting.popleft()
        self._cache.note_request(want.key)
        self._queue.join(stream)  # it costs nothing, and leaves no claim on the workers either
        return True

    def _source_in_files(self, stream: Stream, key: Key) -> ZeroCopySource | None:
        """From where the batch can be sent as its rows lie; None if it has to be assembled."""
        may_be = stream.sends_from_files and not stream.is_compressed
        source = self._catalog.from_files(key) if may_be else None
        if source is None or not source.takes(key.rows):
            return None
        # One gather for all costs less than each one's copies out of cold memory: four trainers 2.1 CPU s/GB, not 2.7.
        return None if len(self._streams) > 1 and self._cache.is_shared(key) else source

    def _is_in_place(self, want: Want) -> bool:
        """It may be assembled in its trainer's memory: what lies there is for that trainer, and it can change it."""
        return (
            want.nbytes >= IN_PLACE_NBYTES
            and self._catalog.dataset(want.key).only_writes
            and not self._cache.is_shared(want.key)
        )

    def _finish(self, job: Job, outcome: Outcome, now: float) -> None:
        """Give every stream that waits for a job what became of it."""
        layout = error = seconds = None
        of_worker: tuple[float, ...] = ()
        if isinstance(outcome, Done):
            of_worker = by_stage(outcome.spent)
            seconds = sum(of_worker)
            layout = outcome.layout or layout_of(self._catalog.dataset(job.key), job.key.rows)
            if job.is_shared:
                self._cache.put(job.key, job.slot, layout)
        elif (error := refusal(job, outcome, self._catalog)) is not None:
            # What no stream waits for any more has failed none.
            self._counts.failures += any(waiter.is_waiting for waiter in job.waiters)
            self._jobs.failures.append((now, job.key.dataset, error))
        elif isinstance(outcome, SlotTooSmall):
            self._estimates.note_nbytes(job.key, outcome.nbytes)
        self._estimates.note_seconds(job.key, seconds)
        for waiter in job.waiters:
            stream, want = waiter.stream, waiter.want
            is_wanted = want.ticket in stream.assembling
            stream.assembling.discard(want.ticket)
            if is_wanted and layout is not None:
                stream.deliver(Batch(want, layout, job.slot, now, of_worker))
                continue
            self._allocator.release(stream, job.slot)
            if is_wanted and error is not None:
                stream.deliver(Refusal(want.ticket, error, key=want.key))
            elif is_wanted:  # it outgrew its slot: again, before what is wanted next
                stream.waiting.appendleft(replace(want, nbytes=self._estimates.nbytes(want.key, want.nbytes)))
            else:
                stream.changed.notify()  # it may have waited for this to end

    def _end(self, stream: Stream, error: FeedlineError | None) -> None:
        if stream.closed:
            return
        self._streams.remove(stream)
        for batch in stream.end(error):
            self._allocator.release(stream, batch.slot)
        self._empty.notify_all()

    def _next_look_s(self) -> float | None:
        """While memory is short, when the next reader counts as stalled, of which no event tells; None: not short."""
        if not self._allocator.is_short:
            return None
        due = next_stall_s(self._streams, self.now())
        return STALLED_S if due is None else due  # one that begins to be unread meanwhile cannot stall sooner

    def _resume_reading(self, stream: Stream) -> None:
        """The network took the last frame. If the reader was stalled until now, its keys may go on."""
        with self._lock:
            was_stalled = is_stalled(stream, self.now())
            stream.unread_since = None
            if was_stalled:
                self._queue.join(stream)
        if was_stalled:
            with self._event():
                pass

    def _status_at(self, now: float) -> SchedulerStatus:
        books = (self._streams, self._allocator, self._overload, self._counts, self._jobs.failures)
        return status_of(*books, work=self._estimates.work, draining=self._draining, now=now)

    def _overload_fields(self, now: float) -> dict[str, object] | None:
        if not self._overload.should_log(self._streams, now):
            return None
        return {
            "short_of": self._overload.short_of,
            "keys_waiting": sum(len(stream.waiting) for stream in self._streams),
            "trainers": len(self._streams),
            **for_log(replace(self._status_at(now).counters, workers=self._workers)),
        }
