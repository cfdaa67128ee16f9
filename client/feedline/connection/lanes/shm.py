"""The shm lane: batches lie where a loader on this host put them, in memory of the trainer's own.

As with receive buffers, what lies there is not written to while a view of it is held. One byte tells the loader that a
place is free; it is set when the last view is gone, on any thread. After a fork nothing that was held is given back:
the child may hold it too.
"""

import contextlib
import mmap
import os
import socket
import sys
import weakref
from typing import Final

import numpy as np

from feedline.connection import forks as process
from feedline.connection.lanes.lane import CONNECT_S, NOT_TAKEN, Lane
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.lane import (
    ACCEPTED,
    FOLLOWS,
    IN_PLACE_NBYTES,
    PLACED_HEAD,
    PROOF_NBYTES,
    RETURNED_NBYTES,
    SHM,
    SHM_GREETING,
    TICKET_NBYTES,
    heard,
)
from feedline_wire.tensors import ALIGNMENT, Array

if sys.platform == "linux":  # Windows has no fcntl, and the lane is there on Linux alone (is_reachable)
    import fcntl


class Memory:
    """Memory that a loader writes batches to. `body` is one of them, until the last reference to it is gone.

    A loader uses only what was taken here, so that it counts as this process' own.
    """

    def __init__(self, nbytes: int) -> None:
        self.fd: Final = os.memfd_create("feedline-received", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._taken_nbytes = 0
        self._nbytes = nbytes
        try:
            os.ftruncate(self.fd, nbytes)
            self.take(RETURNED_NBYTES)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        self._returned = np.frombuffer(self._memory, np.uint8, RETURNED_NBYTES)
        self._held: set[int] = set()

    def take(self, nbytes: int) -> None:
        """Take so many bytes more for batches, as far as it reaches. OSError if this process may have no more."""
        more = min(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE, self._nbytes - self._taken_nbytes)
        if more > 0:
            os.posix_fallocate(self.fd, self._taken_nbytes, more)
            self._taken_nbytes += more

    def body(self, number: int, at: int, nbytes: int) -> Array:
        """What lies at a place (uint8, 1-D). ProtocolMismatch if nothing can lie there."""
        if at % ALIGNMENT or not RETURNED_NBYTES <= at <= at + nbytes <= self._nbytes:
            raise ProtocolMismatch(f"a batch of {nbytes} bytes was said to lie at byte {at} of {self._nbytes}")
        if number >= RETURNED_NBYTES or number in self._held:
            raise ProtocolMismatch(f"a batch came under the number {number}, which is none or is in use")
        self._held.add(number)
        root = np.frombuffer(self._memory, np.uint8, nbytes, at)
        gone = weakref.finalize(root, _give_back, self._returned, self._held, number, process.forks())
        gone.atexit = False
        return root[:]

    def close(self) -> None:
        """No more comes, and nothing more is taken; what was given out lives on. To be called once."""
        os.close(self.fd)


def _give_back(returned: Array, held: set[int], number: int, forks: int) -> None:
    if forks == process.forks():
        held.discard(number)
        returned[number] = 1


class ShmLane(Lane):
    """The lane to a loader on this host.

    Its memory grows by each batch that found no room there and came through the socket, so it becomes as large as what
    was held at once.
    """

    name = SHM
    _head = PLACED_HEAD
    _memory: Memory

    @classmethod
    def is_reachable(cls, address: str) -> bool:
        """The loader with that socket is on this host, and in the same network namespace. Does not wait."""
        if not address or sys.platform != "linux":
            return False
        try:
            _connected(address).close()
        except OSError:
            return False
        return True

    def _connect(self) -> socket.socket:
        return _connected(self._address)

    def _greet(self, connection: socket.socket) -> None:
        ticket, proof = self._ticket[:TICKET_NBYTES], self._ticket[TICKET_NBYTES:]
        memory = Memory(self._memory_nbytes)
        try:
            socket.send_fds(connection, [SHM_GREETING + ticket], [memory.fd])
            answer = heard(connection, len(ACCEPTED) + PROOF_NBYTES)
            if len(proof) != PROOF_NBYTES or answer != ACCEPTED + proof:
                raise ConnectionRefusedError(NOT_TAKEN)
        except BaseException:
            memory.close()
            raise
        self._memory = memory

    def _read(self, connection: socket.socket) -> Exception | None:
        try:
            return super()._read(connection)
        finally:
            self._memory.close()

    def _placed(self, nbytes: int, number: int, at: int) -> Array | None:
        if at != FOLLOWS:
            return self._memory.body(number, at, nbytes)
        if nbytes >= IN_PLACE_NBYTES:
            with contextlib.suppress(OSError):  # there is no more, and batches go on to follow
                self._memory.take(nbytes)
        return None


def _connected(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_S)
        connection.connect("\0" + name)
    except OSError:
        connection.close()
        raise
    return connection


LANE: Final = ShmLane
