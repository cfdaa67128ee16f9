"""Whether a message arrived as it was sent.

TCP's own checksum has 16 bits and does not see all that broken memory in a network card or a switch does; TLS sees
everything, and makes this one unnecessary. The last five bytes of a message with a checksum are the field `crc` (15,
fixed32): the CRC-32 of every byte before them, so tickets and lengths are covered too.
"""

import zlib
from collections.abc import Iterable

from feedline_wire.errors import Damaged

Buffer = bytes | bytearray | memoryview

_TAG = bytes((15 << 3 | 5,))
_NBYTES = 5


def field(parts: Iterable[Buffer]) -> bytes:
    """What the message made of these parts is to end with."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return _TAG + crc.to_bytes(4, "little")


def seems_there(wire: bytes) -> bool:
    """The message ends as one with a checksum does; one in 256 others does too."""
    return wire[-_NBYTES : 1 - _NBYTES] == _TAG


def check(wire: bytes) -> None:
    """Damaged if the message has no checksum, or that of another."""
    body = memoryview(wire)[:-_NBYTES]
    if wire[len(body) :] != field((body,)):
        raise Damaged(
            f"a message of {len(wire)} bytes arrived damaged: its checksum is another than that of its bytes. "
            "Something between trainer and loader changes data; everything that was on its way is asked for again"
        )
