"""How many descriptors this process may have, and what they are for.

They are divided once, at the start: connections of whoever has no leave yet cannot take what workers, lanes and files
need. What is short all the same is an OSError like any other (`is_shortage`), which passes.

They are given to other processes here too. multiprocessing does it as well, but from Python 3.14 on waits for an
answer, in the middle of what the other process has to say.
"""

import errno
import os
import resource
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

PER_WORKER = 8
"""A worker is three; starting one takes as many more for a moment."""

PER_TRAINER = 5
"""A connection, a lane, memory and the pool's copy of its descriptor; one to spare."""

OF_ITS_OWN = 48
"""The arena, listeners, what gRPC has for itself (20 were counted), files that are read for a moment."""

LEAST_STRANGERS = 32
"""Connections of programs that have not shown yet who they are; fewer would keep trainers out that begin together."""

MOST_STRANGERS = 1024
"""As many trainers as this may begin in one moment; gRPC has some 50 KB for each connection."""


@dataclass(frozen=True, slots=True)
class Division:
    """How the descriptors of a loader are divided."""

    limit: int
    wanted: int
    """What it must be able to have at least."""
    strangers: int
    """Connections at gRPC's port beside those of trainers; at each lane's an eighth of it."""


def divide(*, limit: int, opened: int, workers: int, trainers: int) -> Division:
    """Divide `limit` descriptors, of which `opened` hold data."""
    held = opened + OF_ITS_OWN + workers * PER_WORKER + trainers * PER_TRAINER
    # Half of what is left: at each of two lanes an eighth, of two descriptors each, is the other half.
    return Division(limit, held + 2 * LEAST_STRANGERS, min((limit - held) // 2, MOST_STRANGERS))


def count() -> int:
    """Descriptors that are open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # without the one that looks


def limit() -> int:
    """How many may be."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_shortage(error: OSError) -> bool:
    """It is of the machine's, and passes: of descriptors, processes or memory."""
    return error.errno in {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}


def give(connection: Connection, fd: int) -> None:
    """Send a descriptor to the process at the other end, which takes it with `receive`. Raises OSError."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        socket.send_fds(end, [b"\0"], [fd])


def receive(connection: Connection) -> int:
    """The descriptor that was given. Blocks until it comes; raises EOFError if the other end is gone, or OSError."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        sent, fds, _, _ = socket.recv_fds(end, 1, 1)
    if not sent:
        raise EOFError
    if not fds:  # the limit of this process, or a message in its place
        raise OSError(errno.EMFILE, "a descriptor was announced and did not come")
    os.set_inheritable(fds[0], False)  # Python 3.11 ignores the flag that would have it so from the start
    return fds[0]
