"""What one stream still has to say to its loader: keys that are wanted, tickets that are not wanted any more.

The fleet puts in under its lock, in the order in which it decides, and flushes when it has released the lock. What is
put in while gRPC is busy goes out together; a key that was cancelled before it went out is never said.
"""

import threading
from collections import deque
from typing import Any

from feedline_wire import loader_pb2 as pb
from feedline_wire import versions
from feedline_wire.key import Key, to_message


class Outbox:
    """What one stream still has to say; gRPC takes it as the iterator of the call's requests. Any thread.

    It ends when the stream does, because gRPC's sending thread waits in it.
    """

    def __init__(self, lane: str = "", *, is_checksummed: bool = False) -> None:
        self._changed = threading.Condition()
        self._unsaid: deque[tuple[int, Key | None]] = deque()  # ticket and key; None where it is no longer wanted
        self._has_ended = False
        self._first: dict[str, Any] = {"lane": lane, "checksum": is_checksummed, **versions.here("trainer").fields()}

    def want(self, ticket: int, key: Key) -> None:
        """Put down that a key is wanted. Takes no lock; said after the next `flush`."""
        self._unsaid.append((ticket, key))

    def cancel(self, ticket: int) -> None:
        """Put down that a ticket is no longer wanted. Takes no lock; said after the next `flush`."""
        self._unsaid.append((ticket, None))

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
            while not (self._unsaid or self._has_ended):
                self._changed.wait()
            return not self._has_ended

    @property
    def is_empty(self) -> bool:
        """Nothing was put down."""
        return not self._unsaid

    def __iter__(self) -> "Outbox":
        return self

    def __next__(self) -> pb.FetchRequest:
        """All that was put down until now; a ticket that was wanted and cancelled since the last time is left out."""
        wants: dict[int, pb.Want] = {}
        cancelled: list[int] = []
        while not wants and not cancelled:
            if not self.wait():
                raise StopIteration
            while self._unsaid:
                ticket, key = self._unsaid.popleft()
                if key is not None:
                    wants[ticket] = pb.Want(ticket=ticket, key=to_message(key))
                elif wants.pop(ticket, None) is None:
                    cancelled.append(ticket)
        first, self._first = self._first, {}
        return pb.FetchRequest(**first, wants=wants.values(), cancelled=cancelled)
