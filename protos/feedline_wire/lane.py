"""The lanes: connections beside a Fetch stream that carry its batches, and what both sides say on them.

`LANES` is the table of them. For each, `feedline_server.lanes` and `feedline.connection.lanes` have a module of its
name with the two ends; it is imported when the lane is used. A loader says the address of each lane that it has, a
stream asks for one, and its first Frame brings the ticket. The trainer connects, says the lane's greeting and the
ticket, and the loader answers ACCEPTED. From then on the loader sends its answers here; what is wanted still goes over
the stream, and when the stream ends the lane does. Same keys, same answers, same guarantees; a lane that breaks is a
stream that is lost.

tcp: the address is a port of the loader's host. An answer is a HEAD (length of a Piece without data, length of the
body), the Piece, the body.

shm: the address is the name of an abstract Unix socket of the loader's host. With its greeting the trainer passes a
memfd; after ACCEPTED the loader says the second half of the ticket, which only that loader knows. An answer is a
PLACED_HEAD (as a HEAD, then number and place) and the Piece; the body lies at its place in the
trainer's memory, or follows where the place is FOLLOWS. The first RETURNED_NBYTES of that memory are the trainer's to
write: a 1 at `number` says that it no longer uses what lies there. The loader maps the memory, so it takes only what is
sealed with F_SEAL_SHRINK and F_SEAL_SEAL, not against writing, and not of huge pages.
"""

import struct

TCP = "tcp"
SHM = "shm"

LANES = (SHM, TCP)
"""Every lane, the one that a trainer prefers first."""

TICKET_NBYTES = 16
"""Random, given over the stream, good for one connection: the lane is open to the stream's reader alone."""

ACCEPTED = b"\n"

MAX_PIECE_NBYTES = 1 << 20
"""A header or a failure; a longer one is not from a loader."""

# ---- tcp ----

GREETING = b"feedline tcp lane 1\n"

HEAD = struct.Struct("<IQ")

# ---- shm ----

SHM_GREETING = b"feedline shm lane 1\n"

PROOF_NBYTES = 16
"""What follows the ticket in the stream: a process that took the name of a loader that is gone does not know it."""

PLACED_HEAD = struct.Struct("<IQIQ")

FOLLOWS = 0
"""The place of a body that follows its piece."""

RETURNED_NBYTES = 4096
"""As many batches as a trainer may have in its memory at once, four whole windows."""
