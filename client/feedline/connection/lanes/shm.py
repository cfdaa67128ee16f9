"""The shm lane: batches lie where a loader on this host put them, in memory of the trainer's own.

As with receive buffers, what lies there is not written to while a view of it is held. One byte tells the loader that a
place is free; it is set when the last view is gone, on any thread. After a fork nothing that was held is given back:
the child may hold it too.
"""

import mmap
import os
import socket
import sys
import weakref
from typing import Final

import numpy as np

from feedline.connection import forks as process
from feedline.connection.lanes.lane import CONNECT_S, Lane
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.lane import (
    ACCEPTED,
    FOLLOWS,
    PLACED_HEAD,
    PROOF_NBYTES,
    RETURNED_NBYTES,
    SHM,
    SHM_GREETING,
    TICKET_NBYTES,
)
from feedline_wire.tensors import ALIGNMENT, Array

if sys.platform == "linux":  # Windows has no fcntl, and the lane is there on Linux alone (is_reachable)
    import fcntl

GREETING_S = 5.0
"""The loader is there, and may be busy; until it answers, batches come by gRPC."""


class Memory:
    """Memory that a loader writes batches to. `body` is one of them, until the last reference to it is gone."""

    def __init__(self, nbytes: int) -> None:
        self.fd: Final = os.memfd_create("feedline-received", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        self._nbytes = nbytes
        self._returned = np.frombuffer(self._memory, np.uint8, RETURNED_NBYTES)
        self._held: set[int] = set()

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
        """No more comes; what was given out lives on. To be called once."""
        os.close(self.fd)


def _give_back(returned: Array, held: set[int], number: int, forks: int) -> None:
    if forks == process.forks():
        held.discard(number)
        returned[number] = 1


class ShmLane(Lane):
    """The lane to a loader on this host.

    Pages of its memory are taken when they are first written to, the lowest first, so it is as large as what was held
    at once; what finds no room comes through the socket.
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
        connection.settimeout(GREETING_S)
        try:
            socket.send_fds(connection, [SHM_GREETING + ticket], [memory.fd])
            answer = connection.recv(len(ACCEPTED) + PROOF_NBYTES, socket.MSG_WAITALL)
        finally:
            memory.close()  # the loader has it now; here the mapping is enough
        if len(proof) != PROOF_NBYTES or answer != ACCEPTED + proof:
            raise ConnectionRefusedError("the ticket is not known there; it is another loader, or none")
        self._memory = memory

    def _placed(self, nbytes: int, number: int, at: int) -> Array | None:
        return None if at == FOLLOWS else self._memory.body(number, at, nbytes)


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
