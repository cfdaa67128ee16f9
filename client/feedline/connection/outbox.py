"""What one stream still has to say to its loader: keys that are wanted, tickets that are not wanted any more.

The fleet puts in under its lock, in the order in which it decides, and flushes when it has released the lock. What is
put in while gRPC is busy goes out together; a key that was cancelled before it went out is never said.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from feedline_wire import checksum, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key, to_message

REST_AFTER_S = 5.0
"""Without a want, until a stream may rest. One that is open costs 0.7 ms of CPU a second, for gRPC's threads look ten
times a second; to end it and to open it anew costs some 4 ms (docs/design.md)."""


class Outbox:
    """What one stream still has to say; gRPC takes it as the iterator of the call's requests. Any thread.

    It ends when the stream does, because gRPC's sending thread waits in it; or, where nothing was wanted for
    REST_AFTER_S and `may_rest` agrees, by itself: then the loader ends the stream in good order.
    """

    def __init__(
        self,
        lane: str = "",
        *,
        is_checksummed: bool = False,
        may_rest: Callable[[], bool] = lambda: False,
        features: Iterable[str] = (),
    ) -> None:
        self.serialized: Callable[[pb.FetchRequest], bytes] = _with_checksum if is_checksummed else _plain
        self.rests = False
        """It ended by itself: nothing is wrong with the loader."""
        self._may_rest = may_rest
        self._rest_at = time.monotonic() + REST_AFTER_S  # when to ask whether it may
        self._changed = threading.Condition()
        self._unsaid: deque[tuple[int, Key | None]] = deque()  # ticket and key; None where it is no longer wanted
        self._has_ended = False
        self._readers: dict[str, pb.Reader] = {}  # how they fare, to go with the next wants
        self._latest: dict[str, pb.Reader] = {}  # the last of them
        self._is_overdue = False  # nothing was wanted since the report before: they go by themselves
        self._first: dict[str, Any] = {
            "lane": lane,
            "checksum": is_checksummed,
            **versions.here("trainer").having(features).fields(),
        }

    def want(self, ticket: int, key: Key) -> None:
        """Put down that a key is wanted. Takes no lock; said after the next `flush`."""
        self._unsaid.append((ticket, key))

    def cancel(self, ticket: int) -> None:
        """Put down that a ticket is no longer wanted. Takes no lock; said after the next `flush`."""
        self._unsaid.append((ticket, None))

    def report(self, reader: pb.Reader) -> None:
        """Put down how a reader fares; said with what is wanted next, or else with the reader's next report."""
        copy = pb.Reader()
        copy.CopyFrom(reader)
        # A window is filled again a part at a time, which by a thin line takes as long as all loaders are to be seen.
        with self._changed:
            has_begun = not self._first  # a loader of which nothing was wanted yet has no stream that could say it
            self._is_overdue = self._is_overdue or (has_begun and reader.trainer in self._readers)
            self._readers[reader.trainer] = copy
            self._latest = {reader.trainer: copy}
            if self._is_overdue:
                self._changed.notify()

    def report_as(self, other: "Outbox") -> None:
        """Put down how readers fare: what another had and did not say any more, and the last that it did say, which its
        loader has forgotten with the stream."""
        self._latest = other._latest
        self._readers |= other._latest | other._readers

    def flush(self) -> None:
        """Have said what was put down. Idempotent; does not wait for it."""
        with self._changed:
            self._changed.notify()

    def end(self) -> None:
        """Say no more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()

    def wait(self) -> bool:
        """Wait for something to say; False if the outbox ended. True at once where there is something already."""
        with self._changed:
            while not (self._unsaid or self._is_overdue or self._has_ended):
                self._changed.wait()
            return not self._has_ended

    def _wait_or_rest(self) -> bool:
        """The same, of a stream that is open."""
        with self._changed:
            while not (self._unsaid or self._has_ended):
                now = time.monotonic()
                if now >= self._rest_at:
                    self._rest_at = now + REST_AFTER_S
                    # What is put down after this is lost with the stream, and wanted again when it has ended.
                    self.rests = self._has_ended = self._may_rest()
                elif self._is_overdue:
                    break
                else:
                    self._changed.wait(self._rest_at - now)
            return not self._has_ended

    @property
    def is_empty(self) -> bool:
        """Nothing was put down that has to be said now."""
        return not (self._unsaid or self._is_overdue)

    def __iter__(self) -> "Outbox":
        return self

    def __next__(self) -> pb.FetchRequest:
        """All that was put down until now; a ticket that was wanted and cancelled since the last time is left out."""
        wants: dict[int, pb.Want] = {}
        cancelled: list[int] = []
        reader = None
        while not wants and not cancelled and reader is None:
            if not self._wait_or_rest():
                raise StopIteration
            is_overdue = self._is_overdue
            while self._unsaid:
                ticket, key = self._unsaid.popleft()
                if key is not None:
                    wants[ticket] = pb.Want(ticket=ticket, key=to_message(key))
                elif wants.pop(ticket, None) is None:
                    cancelled.append(ticket)
            if self._readers and (wants or cancelled or is_overdue):
                reader = self._next_report()
        if wants or cancelled:
            self._rest_at = time.monotonic() + REST_AFTER_S
        first, self._first = self._first, {}
        return pb.FetchRequest(**first, wants=wants.values(), cancelled=cancelled, reader=reader)

    def _next_report(self) -> pb.Reader | None:
        with self._changed:
            reader = self._readers.pop(next(iter(self._readers), ""), None)
            self._is_overdue = self._is_overdue and bool(self._readers)
            return reader


def _plain(request: pb.FetchRequest) -> bytes:
    return request.SerializeToString()


def _with_checksum(request: pb.FetchRequest) -> bytes:
    wire = request.SerializeToString()
    return wire + checksum.field((wire,))
