"""The shm lane: batches are put into memory of a trainer on the same host, where it uses them.

The memory is the trainer's (a memfd that comes with its greeting) and holds its own batches alone: a trainer sees
nothing of the arena, or of other trainers' batches, and can write to nothing of the loader's. The loader writes into it
and never maps it, so whatever the trainer does to it, the loader gets an error and no signal. A slot is free as soon
as it is copied. What finds no room there, because the trainer holds on to what it has, follows in the socket.
"""

import array
import fcntl
import os
import secrets
import socket
from collections.abc import Sequence

import structlog

from feedline_server.offers import BACKLOG, Lane, Lanes, Offer
from feedline_server.slots import Extents, Slot
from feedline_wire.lane import (
    ACCEPTED,
    FOLLOWS,
    PLACED_HEAD,
    RETURNED_NBYTES,
    SHM,
    SHM_GREETING,
    TICKET_NBYTES,
)

IN_PLACE_NBYTES = 64 << 10
"""Smaller batches follow in the socket, many at once: a place of their own costs more than a copy of them."""

MOST_MEMORY_NBYTES = 1 << 40
"""Of a trainer. The loader keeps a list of pieces of it and nothing else, but numbers should stay sensible."""

log = structlog.get_logger()


class Memory:
    """A trainer's memory, as the loader knows it: what lies where, and what was returned."""

    def __init__(self, fd: int) -> None:
        """Takes over the descriptor. OSError if it is not memory."""
        self._fd = fd
        try:
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # memory has seals, files have none: a write to it never waits
            nbytes = os.fstat(fd).st_size
            if not RETURNED_NBYTES < nbytes <= MOST_MEMORY_NBYTES:
                raise OSError(f"the trainer's memory has {nbytes} bytes")
        except OSError:
            self.close()
            raise
        self._extents = Extents(nbytes - RETURNED_NBYTES)
        self._placed: dict[int, Slot] = {}
        self._numbers = list(reversed(range(RETURNED_NBYTES)))

    def place(self, body: memoryview) -> tuple[int, int] | None:
        """Put a body there: where, and under which number it is returned. None while there is no room."""
        self._take_back_returned()
        slot = self._extents.lend(len(body)) if self._numbers else None
        if slot is None:
            return None
        number = self._numbers.pop()
        self._placed[number] = slot
        at = RETURNED_NBYTES + slot.start
        self._write(b"\0", number)
        self._write(body, at)
        return at, number

    def _take_back_returned(self) -> None:
        returned = os.pread(self._fd, RETURNED_NBYTES, 0)
        for number in [number for number in self._placed if returned[number]]:
            self._extents.take_back(self._placed.pop(number))
            self._numbers.append(number)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        left = memoryview(data)
        while left:
            # Not mapped: 0.15 CPU seconds a GB instead of 0.08, but a trainer that cuts its memory short costs an
            # error and not the loader's life, and its memory is not counted as the loader's.
            count = os.pwrite(self._fd, left, at)
            left, at = left[count:], at + count

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ShmLane(Lane):
    """One trainer's connection and memory."""

    def __init__(self, connection: socket.socket, memory: Memory) -> None:
        super().__init__(connection)
        self._memory = memory

    def _laid_out(self, deliveries: Sequence[tuple[bytes, memoryview]]) -> list[memoryview]:
        buffers: list[memoryview] = []
        for piece, body in deliveries:
            placed = self._memory.place(body) if len(body) >= IN_PLACE_NBYTES else None
            at, number = placed or (FOLLOWS, 0)
            buffers.append(memoryview(PLACED_HEAD.pack(len(piece), number, len(body), at) + piece))
            if placed is None:
                buffers.append(body)
        return buffers

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        super().close()
        self._memory.close()


class ShmLanes(Lanes):
    """Listens for trainers on this host, at an address that has no file and ends with this process."""

    def __init__(self) -> None:
        super().__init__(SHM)
        self.address = ""
        """The abstract Unix socket's name, without the zero before it; empty before `start`."""

    def start(self) -> None:
        """Listen. Where that is not allowed there are no such lanes, and the log says so."""
        address = f"feedline-{secrets.token_hex(16)}"
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\0" + address)
            listener.listen(BACKLOG)
        except OSError as error:
            log.warning("no shm lane: cannot listen on an abstract Unix socket", reason=str(error))
            return
        self.address = address
        self._listen(listener)

    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told: what it shows, and what it must be shown."""
        return offer.ticket + offer.proof

    def _greet(self, connection: socket.socket) -> bool:
        wanted = len(SHM_GREETING) + TICKET_NBYTES
        said, fds = _received(connection, wanted)
        if not said:  # a trainer that only looked whether this is its host
            connection.close()
            return True
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            return False
        memory = Memory(fds[0])
        offer = self._offer_of(said[len(SHM_GREETING) :]) if said.startswith(SHM_GREETING) else None
        if offer is None or not offer.take_up(
            ShmLane(connection, memory), lambda: connection.sendall(ACCEPTED + offer.proof)
        ):
            memory.close()
            return False
        return True


def _received(connection: socket.socket, nbytes: int) -> tuple[bytes, list[int]]:
    """Bytes, and the descriptors that came with them: at most one is let in."""
    fds = array.array("i")
    flags = socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
    said, ancillary, _, _ = connection.recvmsg(nbytes, socket.CMSG_SPACE(fds.itemsize), flags)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return said, list(fds)
