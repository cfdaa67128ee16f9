"""The lanes' forms: what a trainer and a loader say on a raw connection beside their Fetch stream.

The trainer says GREETING and the ticket that the stream gave it; the loader answers ACCEPTED and from then on sends
its answers here: for
each a HEAD (length of a Piece without data, length of the body), the Piece, the body. What is wanted still goes over
the stream, and when the
stream ends the lane does. Same keys, same answers, same guarantees; a lane that breaks is a stream that is lost.

The shm lane is the same on a Unix socket of the loader's host, whose name is in the Description. With SHM_GREETING and
its ticket the trainer passes a memfd; the loader answers ACCEPTED and the second half of what the stream gave, which
only that loader knows. For each answer comes a PLACED_HEAD (length of the Piece, number, length of the body, place) and
the Piece; the body lies at its place in the trainer's memory, or follows where the place is FOLLOWS. The first
RETURNED_NBYTES of that memory are the trainer's to write: a 1 at `number` says that it uses what lies there no more.
The loader maps the memory, so it takes only what is sealed with F_SEAL_SHRINK and F_SEAL_SEAL, not against writing, and
not of huge pages.
"""

import struct

TCP = "tcp"
"""The lane's name in Description and FetchRequest."""

GREETING = b"feedline tcp lane 1\n"

TICKET_NBYTES = 16
"""Random, given over the stream, good for one connection: who may read the stream may read the lane, nobody else."""

ACCEPTED = b"\n"

HEAD = struct.Struct("<IQ")

MAX_PIECE_NBYTES = 1 << 20
"""A header or a failure; a longer one is not from a loader."""

SHM = "shm"
"""The name in Description and FetchRequest of the lane for a trainer on the loader's host."""

SHM_GREETING = b"feedline shm lane 1\n"

PROOF_NBYTES = 16
"""What follows the ticket in the stream: a process that took the name of a loader that is gone does not know it."""

PLACED_HEAD = struct.Struct("<IIQQ")

FOLLOWS = 0
"""The place of a body that follows its piece."""

RETURNED_NBYTES = 4096
"""As many batches as a trainer may have in its memory at once, four whole windows."""
