"""All loaders of a target: who they are now, which one is asked for a key, and how long a reader waits.

A key that is wanted gets exactly one outcome, a batch or an error, or its reader an error at its deadline. A batch is a
pure function of its key, so asking twice is harmless and nothing is remembered of a loader that is gone. What to do is
decided by the tracker under one lock; I/O, name services and the log come after it.
"""

import _thread
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, Unpack

from feedline.connection import forks
from feedline.connection.buffers import KEPT_NBYTES, Buffers, Received
from feedline.connection.connection import Connection, HowToConnect
from feedline.connection.credentials import Credentials
from feedline.connection.description import Description
from feedline.connection.events import HEARD, ConnectionEvent
from feedline.connection.target import Address, Entry
from feedline.fleet.agreement import agreed
from feedline.fleet.endpoint import Endpoint, State
from feedline.fleet.failures import asked_of, last_words, listed, overdue, unreachable
from feedline.fleet.joining import Deadline, first_attempt, first_description, has_settled
from feedline.fleet.requests import PendingBatch
from feedline.fleet.resolve import Watch
from feedline.fleet.tracker import LOOK_AT_MOST_EVERY_S, RequestTracker
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Closed, FeedlineError, LoaderUnavailable
from feedline_wire.key import Key
from feedline_wire.tensors import Array

if TYPE_CHECKING:
    from feedline.fleet.statistics import Statistics
    from feedline_wire.status import LoaderStatus

LOG_WAIT_AFTER_S = 5.0
"""A reader that waits longer finds a line in the log: what is awaited, and from whom. Every start has shorter waits."""

LOG_JOIN_AFTER_S = 2.0
"""A loader that is up answers within milliseconds; a person at the terminal should soon know what is waited for."""

SETTLE_S = 1.0
"""How long the other loaders of a target are waited for once one has answered: which version all of them serve shows
when all have. One that is up answers in milliseconds, one that is down refuses as quickly."""

CLOSE_WITHIN_S = 2.0
"""Cancelled calls end within milliseconds. What has not by then is a daemon thread that ends with the process."""

log = logging.getLogger("feedline")

Found = TypeVar("Found")


class Fleet:
    """The loaders of a target. Thread-safe."""

    def __init__(
        self, target: Sequence[Entry], credentials: Credentials, connections: int = 1, **more: Unpack[HowToConnect]
    ) -> None:
        self.target = tuple(target)
        self._how_to_connect = more
        self._credentials = credentials
        self._connections = connections
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._tracker = RequestTracker(self._changed.notify_all, self._ask_names)
        self._dropped: deque[PendingBatch] = deque()  # filled without the lock, see drop
        self._closed: str | None = None
        self._buffers = Buffers(KEPT_NBYTES)
        self._endpoint_of: dict[Connection, Endpoint] = {}
        self._named: dict[Entry, tuple[Address, ...]] = {}
        self._unresolved: dict[Entry, FeedlineError] = {}
        self._watches = tuple(
            Watch(entry, found=self._found, failed=self._failed)
            for entry in self.target
            if not isinstance(entry, Address)
        )
        forks.opened(self)
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
    def statistics(self) -> "Statistics":
        """What happened to keys until now, and each loader's part in it."""
        from feedline.fleet.statistics import observed  # see `statuses`

        with self._lock:
            return observed(self._tracker, now=time.monotonic())

    # ---- for readers ----

    def join(self, timeout_s: float, wanted: str | None = None, begun: Mapping[str, str] | None = None) -> Description:
        """What all loaders that can be reached serve. Blocks until one answered, and a moment for the others.

        Raises LoaderUnavailable at the deadline, which a loader that was asked for and is starting puts off, or with
        `timeout_s` 0 when all were tried once; if all of them refuse, at once what they refuse with; DatasetChanged if
        they serve no version in common, or not what `agreed` is told.
        """
        find = self._first_description if timeout_s > 0 else self._first_attempt
        deadline = Deadline(timeout_s, time.monotonic())
        while (description := self._until(find, deadline.wait_s, LOG_JOIN_AFTER_S, self._trying)) is None:
            if not deadline.is_put_off(self._tracker.endpoints, time.monotonic()):
                waited = f"after {deadline.waited_s:g} s"
                raise unreachable(self._tracker.endpoints, waited, self._unresolved.values())
        self._until(lambda: self._has_settled() or None, SETTLE_S, math.inf, lambda _: "")
        with self._lock:
            there = [(one.address, one.description) for one in self._tracker.endpoints]
        # The one that answered first may be gone by now.
        known = [(address, one) for address, one in there if one is not None]
        return agreed(known or [("", description)], wanted, begun)

    def expect(self, nbytes: int) -> None:
        """A reader will read so many bytes ahead."""
        self._buffers.expect(nbytes)

    def receive_into(self, allocate: Callable[[int], Array]) -> None:
        """Batches are received into memory from there, from now on."""
        self._buffers.allocate = allocate

    def want(self, key: Key, nbytes: int) -> PendingBatch:
        """Ask for a batch that takes about `nbytes`. Does not wait."""
        with self._lock:
            self.check_open()
            now = time.monotonic()
            self._cancel_dropped(now)
            pending = self._tracker.want(key, nbytes, now)
        self._act()
        return pending

    def wait(self, pending: PendingBatch, timeout_s: float) -> Received:
        """The batch. Blocks until it is there.

        Raises what the loader says is wrong with it; LoaderStalled or LoaderUnavailable when `timeout_s` have passed,
        after which it may be waited for again; Closed as soon as the fleet is closed or the batch is cancelled.
        """
        if pending.outcome is None:
            pending.is_awaited = True
            self._until(
                lambda: pending.outcome or self._closed,
                timeout_s,
                LOG_WAIT_AFTER_S,
                lambda _: f"waiting for up to {timeout_s:g} s for {self._whom(pending)}",
            )
        self.check_open()  # in a forked child even what is there already must not be used: the parent uses it as well
        outcome = pending.outcome
        if outcome is None:
            raise overdue(self._tracker.endpoints, pending, timeout_s, self._unresolved.values(), now=time.monotonic())
        if isinstance(outcome, FeedlineError):
            raise outcome
        return outcome

    def cancel(self, pending: Iterable[PendingBatch]) -> None:
        """Cancel these; a reader that waits for one gets Closed. Idempotent."""
        self.drop(pending)
        with self._lock:
            self._cancel_dropped(time.monotonic())
        self._act()

    def drop(self, pending: Iterable[PendingBatch]) -> None:
        """Cancel these, called by the garbage collector.

        It may run in the middle of anything, on a thread that holds the lock, so they are only put down here and
        cancelled by the next one who takes the lock: at the latest when one of them arrives.
        """
        # What is there needs no cancelling, and would be kept here until somebody comes: perhaps never.
        self._dropped.extend(one for one in pending if one.outcome is None)

    def status(self, timeout_s: float) -> "LoaderStatus":
        """What a loader, the first that is connected, is doing now."""
        self.check_open()
        for endpoint in self._tracker.endpoints:
            if endpoint.is_connected:
                return endpoint.connection.status(timeout_s)
        raise unreachable(self._tracker.endpoints, "now", self._unresolved.values())

    def statuses(self, timeout_s: float) -> "dict[str, LoaderStatus]":
        """What each loader that is connected does now, by its address, without those that do not answer."""
        from feedline.fleet.statistics import statuses  # with what it brings a part of the import, and few ask

        return statuses([one.connection for one in self._tracker.endpoints if one.is_connected], timeout_s)

    def report(self, reader: pb.Reader) -> str:
        """Have loaders told how a reader fares, with what is wanted next of them. How its batches come."""
        endpoints = self._tracker.endpoints
        connected = [(one.outbox, one.connection.lane) for one in endpoints if one.outbox is not None]
        reader.loaders = max(sum(one.is_streaming for one in endpoints), 1)  # the others do not know of this reader
        for outbox, _ in connected:
            outbox.report(reader)
        return ",".join(sorted({lane for _, lane in connected}))

    def check_open(self) -> None:
        """Raises Closed, with the reason, if this can no longer be used."""
        if self._closed is not None:
            raise Closed(self._closed)

    def close(self) -> None:
        """Wake all who wait, end every connection. Idempotent."""
        with self._lock:
            if self._closed is None:
                self._closed = "the connection to the loader was closed; connect again"
            self._changed.notify_all()
            ending: list[Watch | Connection] = [*self._watches, *self._endpoint_of]
        for one in ending:
            one.begin_close()
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for one in ending:
            one.finish_close(max(deadline - time.monotonic(), 0))
        self._buffers.forget()  # of what refers to one another here: it is all there until garbage is collected
        forks.closed(self)

    def abandon(self) -> None:
        """Close, called by the garbage collector. It may run on a thread that holds the lock, so another one closes."""
        if self._closed is None:
            _thread.start_new_thread(self.close, ())

    def leave_to_parent(self) -> object:
        """See `forks.Opened`."""
        self._lock = threading.Lock()  # the parent's may have been held at the fork
        self._changed = threading.Condition(self._lock)
        self._closed = (
            "this connection to the loader was opened before the process forked, and belongs to the parent; "
            "start processes with spawn, and each that is given the feed connects anew; in a PyTorch DataLoader use "
            "feedline.torch.IterableBatches(feed), whose workers may be forked"
        )
        inherited = (self._tracker, self._endpoint_of, self._watches)
        # Nothing of what was still to be done.
        self._tracker = RequestTracker(self._changed.notify_all, self._ask_names)
        self._endpoint_of, self._watches = {}, ()
        return inherited

    # ---- for connections ----

    def happened(self, connection: Connection, event: ConnectionEvent) -> LoaderUnavailable | None:
        """See `Owner`."""
        endpoint = self._endpoint_of.get(connection)
        if endpoint is None or endpoint.state is State.LEFT:
            return None
        if event is HEARD and not endpoint.in_vain:  # for every message, so without the lock
            endpoint.heard(time.monotonic())
            return None
        with self._lock:
            now = time.monotonic()
            self._cancel_dropped(now)
            useless = self._tracker.happened(endpoint, event, now)
        self._act()
        return useless

    def key_of(self, connection: Connection, ticket: int) -> Key | None:
        """See `Owner`. Without the lock: one look-up in a dict, and the tracker looks again."""
        endpoint = self._endpoint_of.get(connection)
        if endpoint is None:
            return None
        asked = endpoint.in_flight.get(ticket)
        if asked is not None and asked.pending.outcome is None:
            return asked.pending.key
        endpoint.note_duplicate(ticket)
        return None

    def may_rest(self, connection: Connection) -> bool:
        """See `Owner`."""
        with self._lock:
            endpoint = self._endpoint_of.get(connection)
            return endpoint is not None and self._tracker.rest(endpoint)

    # ---- for watches ----

    def _found(self, entry: Entry, addresses: tuple[Address, ...]) -> None:
        """A part of the target stands for these addresses now."""
        with self._lock:
            if self._closed is not None:
                return
            self._unresolved.pop(entry, None)
            self._named[entry] = addresses
            named = {address.at: address for each in self._named.values() for address in each}
            known = {endpoint.address for endpoint in self._tracker.endpoints}
            new = [
                Connection(address, self, self._buffers, self._credentials, **self._how_to_connect)
                for at, address in named.items()
                if at not in known
                for _ in range(self._connections)
            ]
            # What was left before the last time has ended; what was left since may not have, and `close` waits for it.
            self._endpoint_of = {c: e for c, e in self._endpoint_of.items() if e.state is not State.LEFT}
            self._endpoint_of |= {one: Endpoint(one, tie=int.from_bytes(os.urandom(4))) for one in new}
            self._tracker.endpoints += tuple(self._endpoint_of[connection] for connection in new)
            self._tracker.name(named, time.monotonic())
            self._tracker.after.extend(connection.start for connection in new)
        self._act()

    def _failed(self, entry: Entry, error: FeedlineError) -> None:
        """A part of the target cannot be resolved now; what it stood for stays."""
        with self._lock:
            self._unresolved[entry] = error
            self._changed.notify_all()

    def _ask_names(self) -> None:
        for watch in self._watches:
            watch.ask_now()

    # ---- inside ----

    def _act(self) -> None:
        """Do what follows from the books. The lock is not held."""
        after = self._tracker.after
        while after:
            try:
                act = after.popleft()
            except IndexError:  # another thread was quicker
                return
            act()

    def _cancel_dropped(self, now: float) -> None:
        while self._dropped:
            self._tracker.cancel(self._dropped.popleft(), now)

    def _first_description(self) -> Description | None:
        self.check_open()
        is_named = len(self._named) == len(self.target)
        return first_description(self._tracker.endpoints, self._unresolved.values(), is_named=is_named)

    def _first_attempt(self) -> Description | None:
        self.check_open()
        is_named, is_asked = len(self._named) == len(self.target), self._are_all_asked()
        unresolved = self._unresolved.values()
        return first_attempt(self._tracker.endpoints, unresolved, is_named=is_named, is_asked=is_asked)

    def _has_settled(self) -> bool:
        self.check_open()
        return self._are_all_asked() and has_settled(self._tracker.endpoints)

    def _are_all_asked(self) -> bool:
        """Every name of the target has an address, or none."""
        return len(self._named.keys() | self._unresolved.keys()) == len(self.target)

    def _trying(self, left_s: float) -> str:
        return f"{self._last_words()}; still trying for {left_s:.0f} s"

    def _until(
        self, find: Callable[[], Found | None], timeout_s: float, log_after_s: float, line: Callable[[float], str]
    ) -> Found | None:
        """What is found, under the lock; None at the deadline. Looks after what is late meanwhile, logs a long wait.

        `line` is what is logged, of the seconds that are left.
        """
        began = time.monotonic()
        log_at = began + log_after_s if log_after_s < timeout_s else math.inf
        while True:
            with self._lock:
                now = time.monotonic()
                self._cancel_dropped(now)
                again = self._tracker.look(now)
            self._act()
            if now >= log_at:
                log.warning("%s", line(began + timeout_s - now))
                log_at = math.inf
            with self._lock:
                left_s = began + timeout_s - now
                if (found := find()) is not None or left_s <= 0:
                    return found
                self._changed.wait(min(left_s, log_at - now, max(again - now, LOOK_AT_MOST_EVERY_S)))

    def _whom(self, pending: PendingBatch) -> str:
        asked = listed(asked_of(self._tracker.endpoints, pending))
        return f"the batch {pending.key} from {asked or self._last_words()}"

    def _last_words(self) -> str:
        return last_words(self._tracker.endpoints, self._unresolved.values()) or self.names
