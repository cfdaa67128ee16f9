"""The lanes: connections beside a Fetch stream that carry its batches, and what both sides say on them.

`LANES` is the table of them. For each, `feedline_server.lanes` and `feedline.connection.lanes` have a module of its
name with the two ends; it is imported when the lane is used. A loader says the address of each lane that it has, a
stream asks for one, and its first Frame brings the ticket. The trainer connects, says the lane's greeting and the
ticket, and the loader answers ACCEPTED. From then on the loader sends its answers here; what is wanted still goes over
the stream, and when the stream ends the lane does. Same keys, same answers, same guarantees; a lane that breaks is a
stream that is lost.

tcp: the address is a port of the loader's host. An answer is a HEAD (length of a Piece without data, length of the
body), the Piece, the body.

sealed: tcp where gRPC speaks TLS. With the ticket the stream brings a key, which is said nowhere else, and all that the
loader sends is sealed with it, in pieces (feedline_wire.sealing): ACCEPTED; then of each answer the SEALED_HEAD (bytes
of the next piece without its tag, and not sealed itself), a piece that holds HEAD and Piece, and the body in pieces of
PIECE_NBYTES, the last one shorter. The trainer seals nothing, for it says nothing but its greeting.

shm: the address is the name of an abstract Unix socket of the loader's host. With its greeting the trainer passes a
memfd; after ACCEPTED the loader says the second half of the ticket, which only that loader knows. An answer is a
PLACED_HEAD (as a HEAD, then number and place) and the Piece; the body lies at its place in the
trainer's memory, or follows where the place is FOLLOWS. The first RETURNED_NBYTES of that memory are the trainer's to
write: a 1 at `number` says that it no longer uses what lies there. The loader maps the memory, so it takes only what is
sealed with F_SEAL_SHRINK and F_SEAL_SEAL, not against writing, and not of huge pages. It uses only pages that the
trainer has taken (posix_fallocate), without gaps from the beginning on; a batch of IN_PLACE_NBYTES or more that follows
says that they are too few.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import Literal

TCP = "tcp"
SEALED = "sealed"
SHM = "shm"

LANES = (SHM, SEALED, TCP)
"""Every lane, the one that a trainer prefers first."""

ENCRYPTED = (SEALED,)
"""Those that there are under TLS, and there alone."""

Compression = Literal["auto", "off", "encrypted"]
"""What either side may say of it (`compression`). auto: where it makes a stream faster, and nothing is encrypted;
encrypted: there too. Here, because a command line is read before numpy is loaded."""

TICKET_NBYTES = 16
"""Random, given over the stream, good for one connection: the lane is open to the stream's reader alone."""

ACCEPTED = b"\n"

GREETING_S = 5.0
"""For a greeting, and for its answer. Either peer may be busy, and until then batches come by gRPC; a connection that
says nothing is closed after this."""

MAX_PIECE_NBYTES = 1 << 20
"""A header or a failure; a longer one is not from a loader."""

# ---- tcp ----

GREETING = b"feedline tcp lane 1\n"

HEAD = struct.Struct("<IQ")

# ---- sealed ----

SEALED_GREETING = b"feedline sealed lane 1\n"

SEALED_HEAD = struct.Struct("<I")

# ---- shm ----

SHM_GREETING = b"feedline shm lane 1\n"

PROOF_NBYTES = 16
"""What follows the ticket in the stream: a process that took the name of a loader that is gone does not know it."""

PLACED_HEAD = struct.Struct("<IQIQ")

FOLLOWS = 0
"""The place of a body that follows its piece."""

IN_PLACE_NBYTES = 64 << 10
"""Smaller batches follow in the socket, many at once: a place of their own costs more than a copy of them."""

RETURNED_NBYTES = 4096
"""As many batches as a trainer may have in its memory at once, four whole windows."""


def heard(connection: socket.socket, nbytes: int, receive: Callable[[int], bytes] | None = None) -> bytes:
    """What a peer says first: so many bytes, or fewer if it ends. TimeoutError after GREETING_S, however it drips.

    `receive` is `connection.recv`, or does more with what comes. (MSG_WAITALL waits for nothing where there is a
    time-out: Python has the kernel not block then.)
    """
    receive = receive or connection.recv
    until = time.monotonic() + GREETING_S
    said = b""
    while len(said) < nbytes:
        connection.settimeout(max(until - time.monotonic(), 0.001))  # 0 would be to wait for nothing
        if not (more := receive(nbytes - len(said))):
            break
        said += more
    return said
