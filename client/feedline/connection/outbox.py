"""What one stream still has to say to its loader: keys that are wanted, tickets that are not wanted any more.

The law: what is put in while gRPC is busy goes out together, and a want that was cancelled before it went out is never
said.
"""

import threading

from feedline_wire import PROTOCOL
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key, to_message


class Outbox:
    """What one stream still has to say; gRPC takes it as the iterator of the call's requests. Any thread.

    It ends when the stream does, because gRPC's sending thread waits in it.
    """

    def __init__(self, lane: str = "", *, is_checksummed: bool = False) -> None:
        self._changed = threading.Condition()
        self._wants: list[tuple[int, Key]] = []
        self._cancelled: list[int] = []
        self._has_ended = False
        self._protocol = PROTOCOL  # this, the lane and the wish for checksums in the first message alone
        self._lane = lane
        self._wants_checksums = is_checksummed

    def want(self, ticket: int, key: Key) -> None:
        """Say that a key is wanted."""
        with self._changed:
            self._wants.append((ticket, key))
            self._changed.notify()

    def cancel(self, ticket: int) -> None:
        """Say that a ticket is no longer wanted; if it was not even said to be wanted, nothing is said."""
        with self._changed:
            wants = [want for want in self._wants if want[0] != ticket]
            if len(wants) < len(self._wants):
                self._wants = wants
            else:
                self._cancelled.append(ticket)
                self._changed.notify()

    def end(self) -> None:
        """Say no more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()

    def wait(self) -> bool:
        """Wait for something to say; False if the outbox ended. True at once where there is something already."""
        with self._changed:
            self._changed.wait_for(lambda: self._wants or self._cancelled or self._has_ended)
            return not self._has_ended

    @property
    def is_empty(self) -> bool:
        """There is nothing to say now."""
        return not self._wants

    def __iter__(self) -> "Outbox":
        return self

    def __next__(self) -> pb.FetchRequest:
        if not self.wait():
            raise StopIteration
        with self._changed:
            wants, self._wants = self._wants, []
            cancelled, self._cancelled = self._cancelled, []
            protocol, self._protocol = self._protocol, 0
            lane, self._lane = self._lane, ""
            wants_checksums, self._wants_checksums = self._wants_checksums, False
        return pb.FetchRequest(
            protocol=protocol,
            lane=lane,
            checksum=wants_checksums,
            wants=[pb.Want(ticket=ticket, key=to_message(key)) for ticket, key in wants],
            cancelled=cancelled,
        )
