"""The tcp lane's form: what a trainer and a loader say on a raw connection beside their Fetch stream.

The trainer says GREETING and the ticket that the stream gave it; the loader answers ACCEPTED and from then on sends
its answers here: for
each a HEAD (length of a Piece without data, length of the body), the Piece, the body. What is wanted still goes over
the stream, and when the
stream ends the lane does. Same keys, same answers, same guarantees; a lane that breaks is a stream that is lost.
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
