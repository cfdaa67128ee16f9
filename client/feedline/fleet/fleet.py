"""All loaders of a target: who they are now, which one is asked for a key, and how long anybody waits.

The law: a key that is wanted gets exactly one outcome, a batch or an error, or its reader an error at its deadline. A
batch is a pure function of its key, so asking twice is harmless and nothing is remembered of a loader that is gone.
All books are the tracker's and are kept under one lock; no I/O, no name service and no log is waited for under it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from feedline.connection import forks as process
from feedline.connection.buffers import KEPT_NBYTES, Buffers, Received
from feedline.connection.connection import Answer, Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import Description
from feedline.connection.outbox import Outbox
from feedline.connection.target import Address, Entry
from feedline.fleet.endpoint import Endpoint, overdue, refused, unreachable
from feedline.fleet.requests import PendingBatch
from feedline.fleet.resolve import Watch
from feedline.fleet.statistics import Statistics, observed
from feedline.fleet.tracker import LOOK_AT_MOST_EVERY_S, RequestTracker
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Closed, FeedlineError, LoaderUnavailable
from feedline_wire.key import Key

SPEAK_AFTER_S = 5.0
"""Who waits longer finds a line in the log: what is awaited, and from whom. Shorter waits happen at every start."""

SPEAK_WHILE_JOINING_S = 2.0
"""A loader that is up answers within milliseconds; a person at the terminal should soon know what is waited for."""

CLOSE_WITHIN_S = 2.0
"""Cancelled calls end within milliseconds. What has not by then is a daemon thread that ends with the process."""

ENDING_REMEMBERED = 64
"""Connections that were left and whose threads `close` waits for. They take milliseconds to end."""

log = logging.getLogger("feedline")


class Fleet:
    """The loaders of a target. Every method may be called from any thread."""

    def __init__(
        self, target: Sequence[Entry], credentials: Credentials, connections: int = 1, *, is_checksummed: bool = False
    ) -> None:
        self.target = tuple(target)
        self._is_checksummed = is_checksummed
        self._credentials = credentials
        self._connections = connections
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._tracker = RequestTracker(self._changed.notify_all)
        self._dropped: deque[PendingBatch] = deque()  # filled without the lock, see drop
        self._closed: str | None = None
        self._buffers = Buffers(KEPT_NBYTES)
        self._endpoint_of: dict[Connection, Endpoint] = {}
        self._ending: deque[Connection] = deque(maxlen=ENDING_REMEMBERED)
        self._given: dict[Entry, tuple[Address, ...]] = {}
        self._unresolved: dict[Entry, FeedlineError] = {}
        self._watches = tuple(
            Watch(entry, found=self._found, failed=self._failed)
            for entry in self.target
            if not isinstance(entry, Address)
        )
        process.opened(self)
        for entry in self.target:
            if isinstance(entry, Address):
                self._found(entry, (entry,))
        for watch in self._watches:
            watch.start()

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<Fleet {self.names} replicas={self.connected} outstanding={self._tracker.outstanding}{closed}>"

    @property
    def names(self) -> str:
        """The target, in words."""
        return ",".join(map(str, self.target))

    @property
    def connected(self) -> int:
        """Loaders that are connected now."""
        return sum(endpoint.is_connected for endpoint in self._tracker.endpoints)

    def latency(self) -> float | None:
        """Seconds to the loaders and back, with one batch assembled; None while unknown."""
        return self._tracker.latency_s

    @property
    def statistics(self) -> Statistics:
        """What happened to keys until now, and each loader's part in it."""
        with self._lock:
            return observed(self._tracker, now=time.monotonic())

    # ---- for readers ----

    def join(self, timeout_s: float) -> Description:
        """Wait until a loader answered; what it serves.

        LoaderUnavailable at the deadline; at once, if all of them refuse, what they refuse with.
        """
        began = time.monotonic()
        description = self._joined_by(began + min(SPEAK_WHILE_JOINING_S, timeout_s))
        if description is None and timeout_s > SPEAK_WHILE_JOINING_S:
            log.warning("waiting for a loader, for up to %g s, at %s", timeout_s, self._last_words())
            description = self._joined_by(began + timeout_s)
        if description is None:
            raise self._unreachable(f"after {timeout_s:g} s")
        return description

    def expect(self, nbytes: int) -> None:
        """A reader will read so many bytes ahead."""
        self._buffers.expect(nbytes)

    def want(self, key: Key, nbytes: int) -> PendingBatch:
        """Ask for a batch that takes about `nbytes`. Does not wait."""
        with self._lock:
            self.check_open()
            now = time.monotonic()
            self._cancel_dropped(now)
            wanted = self._tracker.want(self, key, nbytes, now)
        self._tell()
        return wanted

    def wait(self, wanted: PendingBatch, timeout_s: float) -> Received:
        """See `PendingBatch.result`."""
        if wanted.outcome is None:
            began = time.monotonic()
            if not self._answered_by(wanted, began + min(SPEAK_AFTER_S, timeout_s)) and timeout_s > SPEAK_AFTER_S:
                log.warning(
                    "waiting for the batch %s from %s, for up to %g s", wanted.key, self._asked(wanted), timeout_s
                )
                self._answered_by(wanted, began + timeout_s)
        self.check_open()  # in a forked child even what is there already must not be used: the parent uses it as well
        outcome = wanted.outcome
        if outcome is None:
            raise overdue(
                self._tracker.endpoints,
                wanted,
                timeout_s,
                now=time.monotonic(),
                is_forked=process.is_forked(),
                unresolved=tuple(self._unresolved.values()),
            )
        if isinstance(outcome, FeedlineError):
            raise outcome
        return outcome

    def cancel(self, wanted: Iterable[PendingBatch]) -> None:
        """Want these no longer; who waits for one gets Closed."""
        with self._lock:
            now = time.monotonic()
            self._cancel_dropped(now)
            for one in wanted:
                self._tracker.cancel(one, now)

    def drop(self, wanted: Iterable[PendingBatch]) -> None:
        """Want these no longer, said by the garbage collector.

        It may run in the middle of anything, on a thread that holds the lock, so they are only put down here and
        cancelled by the next one who takes the lock: at the latest when one of them arrives.
        """
        self._dropped.extend(wanted)

    def status(self, timeout_s: float) -> pb.StatusReply:
        """What a loader, the first that is connected, is doing now."""
        self.check_open()
        for endpoint in self._tracker.endpoints:
            if endpoint.is_connected:
                return endpoint.replica.status(timeout_s)
        raise self._unreachable("now")

    def check_open(self) -> None:
        """Closed, with the reason, if this can no longer be used."""
        if self._closed is not None:
            raise Closed(self._closed)

    def close(self) -> None:
        """Wake everybody who waits, end every connection. Twice is fine."""
        with self._lock:
            if self._closed is None:
                self._closed = "the connection to the loader was closed; connect again"
            self._changed.notify_all()
            ending: list[Watch | Connection] = [*self._watches, *self._endpoint_of, *self._ending]
        for one in ending:
            one.begin_close()
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for one in ending:
            one.finish_close(max(deadline - time.monotonic(), 0))
        process.closed(self)

    def leave_to_parent(self) -> object:
        """See `process.Opened`."""
        self._lock = threading.Lock()  # the parent's may have been held at the fork
        self._changed = threading.Condition(self._lock)
        self._closed = (
            "this connection to the loader was opened before the process forked, and belongs to the parent; "
            "connect in the worker itself, or start workers with spawn"
        )
        inherited = (self._tracker.endpoints, self._endpoint_of, self._watches)
        self._tracker.endpoints, self._endpoint_of, self._watches = (), {}, ()
        return inherited

    # ---- for connections ----

    def joined(self, connection: Connection, description: Description, outbox: Outbox) -> LoaderUnavailable | None:
        """See `connection.Owner`."""
        with self._lock:
            endpoint = self._endpoint_of.get(connection)
            if endpoint is None:
                return None
            useless = self._tracker.joined(endpoint, description, outbox, time.monotonic())
            self._changed.notify_all()
        self._tell()
        log.debug("the loader at %s answers%s", connection.address, f": {useless}" if useless else "")
        return useless

    def heard(self, connection: Connection) -> None:
        """See `connection.Owner`. Mostly without the lock: this thread alone changes the endpoint's times."""
        endpoint = self._endpoint_of.get(connection)
        if endpoint is None:
            return
        if not endpoint.in_vain:
            self._tracker.heard(endpoint, time.monotonic())
            return
        with self._lock:
            self._tracker.heard(endpoint, time.monotonic())

    def key_of(self, connection: Connection, ticket: int) -> Key | None:
        """See `connection.Owner`. Without the lock: one look-up in a dict, and `answered` looks again."""
        endpoint = self._endpoint_of.get(connection)
        if endpoint is None:
            return None
        asked = endpoint.outstanding.get(ticket)
        if asked is not None and asked.wanted.outcome is None:
            return asked.wanted.key
        endpoint.note_duplicate(ticket)
        return None

    def answered(self, connection: Connection, answers: Sequence[Answer]) -> None:
        """See `connection.Owner`."""
        with self._lock:
            endpoint = self._endpoint_of.get(connection)
            if endpoint is None:
                return
            now = time.monotonic()
            self._cancel_dropped(now)
            self._tracker.answered(endpoint, answers, now)
        self._tell()

    def draining(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        with self._lock:
            endpoint = self._endpoint_of.get(connection)
            if endpoint is None or endpoint.is_draining:
                return
            self._tracker.draining(endpoint, time.monotonic())
        log.info("the loader at %s is going away; it gets no new keys", connection.address)

    def left(self, connection: Connection, reason: FeedlineError) -> None:
        """See `connection.Owner`."""
        with self._lock:
            endpoint = self._endpoint_of.get(connection)
            if endpoint is None:
                return
            was_connected = endpoint.is_connected
            self._tracker.left(endpoint, reason, time.monotonic())
            self._changed.notify_all()
        if was_connected:
            for watch in self._watches:
                watch.ask_now()
        self._tell()

    # ---- for watches ----

    def _found(self, entry: Entry, addresses: tuple[Address, ...]) -> None:
        """A part of the target stands for these addresses now."""
        with self._lock:
            self._unresolved.pop(entry, None)
            self._given[entry] = addresses
            given = {address.at: address for each in self._given.values() for address in each}
            known = {endpoint.address for endpoint in self._tracker.endpoints}
            new = [
                Endpoint(
                    Connection(address, self, self._buffers, self._credentials, is_checksummed=self._is_checksummed)
                )
                for at, address in given.items()
                if at not in known
                for _ in range(self._connections)
            ]
            if self._closed is not None:
                return
            self._endpoint_of.update((endpoint.replica, endpoint) for endpoint in new)
            self._tracker.add(new)
            self._tracker.give_notice(given, time.monotonic())
        for endpoint in new:
            endpoint.replica.start()
        self._tell()

    def _failed(self, entry: Entry, error: FeedlineError) -> None:
        """It cannot be said what a part of the target stands for now; what it stood for still is."""
        with self._lock:
            self._unresolved[entry] = error
            self._changed.notify_all()

    # ---- after the lock ----

    def _tell(self) -> None:
        """Log what happened, and close whom the tracker has let go."""
        tracker = self._tracker
        if not tracker.news and not tracker.departed:
            return
        with self._lock:
            news, departed = list(tracker.news), list(tracker.departed)
            tracker.news.clear()
            tracker.departed.clear()
            for endpoint in departed:
                self._endpoint_of.pop(endpoint.replica, None)
                self._ending.append(endpoint.replica)
        for line in news:
            log.warning("%s", line)
        for endpoint in departed:
            endpoint.replica.begin_close()  # its thread may be this one; it ends by itself

    # ---- waiting ----

    def _joined_by(self, deadline: float) -> Description | None:
        with self._lock:
            while True:
                self.check_open()
                endpoints = self._tracker.endpoints
                for endpoint in endpoints:
                    if endpoint.description is not None:
                        return endpoint.description
                if len(self._given) == len(self.target) and (refusal := refused(endpoints)) is not None:
                    raise refusal
                for error in self._unresolved.values():
                    if not isinstance(error, LoaderUnavailable):  # the target is none
                        raise error
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)

    def _answered_by(self, wanted: PendingBatch, deadline: float) -> bool:
        """Wait for an outcome or for `close`, and meanwhile look after what is late; False at the deadline."""
        with self._lock:
            self._cancel_dropped(time.monotonic())
            wanted.waiting += 1
            try:
                while self._is_awaited(wanted):
                    now = time.monotonic()
                    again = self._tracker.look(now)
                    left_s = deadline - now
                    if left_s <= 0:
                        return False
                    if self._is_awaited(wanted):
                        self._changed.wait(min(left_s, max(again - now, LOOK_AT_MOST_EVERY_S)))
            finally:
                wanted.waiting -= 1
            return True

    def _is_awaited(self, wanted: PendingBatch) -> bool:
        return wanted.outcome is None and self._closed is None

    def _cancel_dropped(self, now: float) -> None:
        while self._dropped:
            self._tracker.cancel(self._dropped.popleft(), now)

    def _asked(self, wanted: PendingBatch) -> str:
        return ", ".join(endpoint.address for endpoint in wanted.asked_of) or self._last_words()

    def _last_words(self) -> str:
        endpoints = self._tracker.endpoints
        words = [endpoint.address if endpoint.is_connected else endpoint.last_words for endpoint in endpoints]
        return "; ".join([*words, *map(str, self._unresolved.values())]) or self.names

    def _unreachable(self, when: str) -> LoaderUnavailable:
        unresolved = tuple(self._unresolved.values())
        return unreachable(self._tracker.endpoints, when, is_forked=process.is_forked(), unresolved=unresolved)
