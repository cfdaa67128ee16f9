"""Pieces of memory that are sent as one, wherever they lie: a batch of rows of a mapped file is never copied together.

What is sent is what lies there when the kernel takes it. The memory is held here until all is sent. Memory that is no
longer there (a file that was cut) is an error of the call, EFAULT, where reading it in Python would end the process.
"""

import ctypes
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feedline_wire.tensors import Array

MAX_PIECES = 1024
"""In one call (IOV_MAX)."""

Pieces = NDArray[np.uint64]
"""Address and length of each (n, 2): what the kernel calls `struct iovec`, on every 64-bit Linux."""


class _MsgHdr(ctypes.Structure):
    """`struct msghdr` (sendmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


# Python's own sendmsg would make an object of every piece: 0.1 us each, a tenth of what a row of 4 KiB costs to send.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmsg.argtypes = (ctypes.c_int, ctypes.POINTER(_MsgHdr), ctypes.c_int)
_libc.sendmsg.restype = ctypes.c_ssize_t
_libc.pwritev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_libc.pwritev.restype = ctypes.c_ssize_t


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """When so many pieces were taken, and before any other is sent, `passes` is called; what it raises is raised."""

    pieces: int
    passes: Callable[[], None]


class Iovec:
    """Pieces by their addresses, in order; `held` is what keeps them there."""

    def __init__(self, pieces: Pieces, held: Iterable[object], checkpoints: Sequence[Checkpoint] = ()) -> None:
        self.pieces = pieces
        """All of them."""
        self.checkpoints = tuple(checkpoints)
        """In the order of the pieces."""
        self._upcoming = deque(self.checkpoints)
        self._held = tuple(held)
        self._sent = 0

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.pieces[:, 1], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Of all pieces."""
        return int(self._ends[-1])

    def __bool__(self) -> bool:
        """Something has not been sent."""
        return self._sent < self.nbytes

    def send(self, connection: socket.socket) -> None:
        """Send what the kernel takes now. BlockingIOError where it takes nothing, OSError as of `socket.sendmsg`."""
        rest, is_all = self._next()
        message = _MsgHdr(iov=rest.ctypes.data, iovlen=len(rest))
        more = 0 if is_all else socket.MSG_MORE
        self._took(_libc.sendmsg(connection.fileno(), ctypes.byref(message), socket.MSG_NOSIGNAL | more))

    def write(self, fd: int, nbytes: int) -> None:
        """Put the next bytes, so many, at the beginning of a file. OSError as of `os.pwritev`."""
        end = self._sent + nbytes
        while (left := end - self._sent) > 0:
            rest, _ = self._next()
            ends = np.cumsum(rest[:, 1], dtype=np.int64)
            if ends[-1] > left:
                rest = rest[: int(np.searchsorted(ends, left)) + 1].copy()
                rest[-1, 1] -= np.uint64(ends[len(rest) - 1] - left)
            self._took(_libc.pwritev(fd, rest.ctypes.data, len(rest), nbytes - left))

    def _next(self) -> tuple[Pieces, bool]:
        """What may be taken now, and whether it is all that is left."""
        first = int(np.searchsorted(self._ends, self._sent, side="right"))
        if self._upcoming and self._upcoming[0].pieces == first:
            self._upcoming[0].passes()
            self._upcoming.popleft()
        end = self._upcoming[0].pieces if self._upcoming else len(self.pieces)
        rest = self.pieces[first : min(first + MAX_PIECES, end)]
        if begun := self._sent - (int(self._ends[first - 1]) if first else 0):
            rest = rest.copy()
            rest[0, 0] += np.uint64(begun)
            rest[0, 1] -= np.uint64(begun)
        return rest, first + len(rest) == len(self.pieces)

    def _took(self, sent: int) -> None:
        if sent < 0:
            code = ctypes.get_errno()
            if code == errno.EINTR:  # as Python's own calls do: a signal is nothing that a connection ends of
                return
            raise OSError(code, os.strerror(code))
        self._sent += sent


def together(heads: Sequence[bytes], bodies: Sequence[memoryview | Iovec]) -> Iovec:
    """Each head and its body, in their order, as one: a head in a packet of its own would wake the trainer for nothing.

    The memory of many heads is one, because numpy takes as long to say where one lies as to copy it.
    """
    of_heads = np.frombuffer(b"".join(heads), np.uint8)
    address = address_of(of_heads)
    pieces: Pieces = np.empty((sum(1 + _count(body) for body in bodies), 2), np.uint64)
    held: list[object] = [of_heads]
    checkpoints: list[Checkpoint] = []
    at = 0
    for head, body in zip(heads, bodies, strict=True):
        pieces[at, 0], pieces[at, 1] = address, len(head)
        address += len(head)
        at += 1
        if isinstance(body, Iovec):
            end = at + len(body.pieces)
            pieces[at:end] = body.pieces
            held.append(body)
            checkpoints += [Checkpoint(at + checkpoint.pieces, checkpoint.passes) for checkpoint in body.checkpoints]
            at = end
        elif len(body):
            memory = np.frombuffer(body, np.uint8)
            pieces[at, 0], pieces[at, 1] = address_of(memory), memory.nbytes
            held.append(memory)
            at += 1
    return Iovec(pieces, held, checkpoints)


def address_of(memory: Array) -> int:
    """Where an array begins; it must be held while that is of use."""
    address: int = memory.__array_interface__["data"][0]  # half of what `ctypes.data` costs
    return address


def _count(body: memoryview | Iovec) -> int:
    return len(body.pieces) if isinstance(body, Iovec) else min(len(body), 1)
