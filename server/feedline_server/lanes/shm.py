"""The shm lane: batches are put into memory of a trainer on the same host, where it uses them.

The memory is the trainer's (a memfd that comes with its greeting) and holds its own batches alone: a trainer sees
nothing of the arena, or of other trainers' batches, and can write to nothing of the loader's. Workers assemble batches
right there, and nothing is copied or sent but a head of some 150 bytes. What was assembled in the arena, because others
want it too, is copied there. What finds no room, because the trainer holds on to what it has, follows in the socket.
"""

import array
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from typing import Final

import structlog

from feedline_server.lanes.lane import Lane, LaneListener, Message, Offer
from feedline_server.memory.trainer import TrainerMemory
from feedline_server.settings.settings import Settings
from feedline_wire.lane import ACCEPTED, FOLLOWS, IN_PLACE_NBYTES, PLACED_HEAD, SHM, SHM_GREETING, TICKET_NBYTES, heard

log = structlog.get_logger()


class ShmLane(Lane):
    """One trainer's connection and memory."""

    def __init__(self, connection: socket.socket, memory: TrainerMemory) -> None:
        super().__init__(connection)
        self.memory = self._memory = memory

    def _laid_out(self, messages: Sequence[Message]) -> list[memoryview]:
        views: list[memoryview] = []
        for message in messages:
            assert isinstance(message.body, memoryview), "a trainer with memory is sent nothing straight from files"
            placed = message.placed
            if placed is None and message.nbytes >= IN_PLACE_NBYTES:
                placed = self._memory.put(message.body)
            at, number = (FOLLOWS, 0) if placed is None else (placed.start, self._memory.publish(placed))
            head = PLACED_HEAD.pack(len(message.piece), message.nbytes, number, at)
            views.append(memoryview(head + message.piece))
            if placed is None:
                views.append(message.body)
        return views

    def close(self) -> None:
        """See Lane."""
        super().close()
        self._memory.close()


class ShmListener(LaneListener):
    """Listens for trainers on this host, at an address that has no file and ends with this process."""

    name = SHM

    @classmethod
    def is_wanted(cls, settings: Settings) -> bool:
        """See LaneListener."""
        return settings.shm_lane

    def start(self, settings: Settings) -> None:
        """See LaneListener. Where it is not allowed to listen the log says so."""
        del settings
        name = f"feedline-{secrets.token_hex(16)}"
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\0" + name)
            self._listen(listener, name)
        except OSError as error:
            log.warning("no shm lane: cannot listen on an abstract Unix socket", reason=str(error))

    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told: what it shows, and what it must be shown."""
        return offer.secret + offer.proof

    def _greet(self, connection: socket.socket) -> bool:
        with contextlib.closing(_Descriptors(connection)) as descriptors:
            greeting = heard(connection, len(SHM_GREETING) + TICKET_NBYTES, descriptors.receive)
            if not greeting:  # a trainer that only looked whether this is its host
                connection.close()
                return True
            if len(descriptors.fds) != 1:
                return False
            memory = TrainerMemory(descriptors.fds.pop())
        is_taken = False
        try:
            offer = self._offer_of(greeting[len(SHM_GREETING) :]) if greeting.startswith(SHM_GREETING) else None
            is_taken = offer is not None and offer.claim(
                ShmLane(connection, memory), lambda: connection.sendall(ACCEPTED + offer.proof)
            )
        finally:  # also when the trainer hung up before it was answered
            if not is_taken:
                memory.close()
        return is_taken


class _Descriptors:
    """Descriptors that come with what a peer says; `close` lets go of them, unless somebody took them out of `fds`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fds = array.array("i")

    def receive(self, nbytes: int) -> bytes:
        """The next bytes; none where there are no more, and from where a second descriptor came."""
        data, ancillary, _, _ = self._connection.recvmsg(
            nbytes, socket.CMSG_SPACE(self.fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, sent in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self.fds.frombytes(sent[: len(sent) - len(sent) % self.fds.itemsize])
        return data if len(self.fds) <= 1 else b""

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


LISTENER: Final = ShmListener
