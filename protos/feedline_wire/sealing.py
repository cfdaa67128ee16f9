"""What the sealed lane's bytes are made of: pieces under AES-256-GCM, which can be opened in their order alone.

A `Sealer` makes its key itself and counts its nonces itself, so neither can be used twice. The key goes to the trainer
over the stream, which TLS protects, and nowhere else. An `Opener` takes the pieces of one lane in their order, whole
and unchanged; anything else is Damaged. The cipher is that of the package `cryptography` (extra `sealed`).
"""

import functools
import itertools
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from feedline_wire.errors import Damaged, LoaderUnavailable
from feedline_wire.extras import pip_install

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:  # `missing` says so, and is asked first
    if TYPE_CHECKING:
        raise

KEY_NBYTES = 32
TAG_NBYTES = 16

PIECE_NBYTES = 1 << 20
"""At most so many in a piece: bare ends carried nine tenths of what raw TCP does, with 64 KiB two thirds."""

MOST_PIECES = 1 << 24
"""Then the lane ends, and the next one has another key. The chance to tell 16 TiB from noise is below 2^-48; NIST
SP 800-38D allows 2^32 pieces."""

CPUINFO = Path("/proc/cpuinfo")
"""Linux's list of what each processor can do."""

_NONCE = struct.Struct(">4xQ")
"""The lane's number of direction, which is 0 as a trainer seals nothing, and the piece's number."""

_ASSOCIATED = struct.Struct(">16sQI")
"""Lane, number of the piece, bytes in it."""


@functools.cache
def missing() -> str:
    """Why nothing can be sealed or opened here; empty if it can."""
    if "AESGCM" not in globals() or not hasattr(AESGCM, "encrypt_into"):
        return f"needs cryptography 47 or newer; install with: {pip_install('sealed')}"
    try:
        with CPUINFO.open() as file:
            flags = file.read(8192).split()
    except OSError:  # not Linux
        return ""
    return "" if "aes" in flags else "the processor has no instructions for AES"


class Sealer:
    """Seals the pieces of one lane, with a key of its own. Thread-safe."""

    def __init__(self, lane: bytes) -> None:
        """`lane` is what the lane is known by: 16 bytes that are secret to nobody."""
        self.key = secrets.token_bytes(KEY_NBYTES)
        """For the lane's Opener."""
        self._cipher = AESGCM(self.key)
        self._lane = lane
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return "<Sealer>"

    def seal(self, piece: memoryview, into: memoryview) -> int:
        """Put the next piece where it may be sent from; how many bytes it takes there, TAG_NBYTES more than it has.

        LoaderUnavailable if the key has sealed as many as it may.
        """
        number = next(self._numbers)
        if number >= MOST_PIECES:
            raise LoaderUnavailable(f"its key has sealed {MOST_PIECES} pieces; the next lane has another")
        associated = _ASSOCIATED.pack(self._lane, number, len(piece))
        return self._cipher.encrypt_into(_NONCE.pack(number), piece, associated, into[: len(piece) + TAG_NBYTES])


class Opener:
    """Opens the pieces of one lane, in their order."""

    def __init__(self, lane: bytes, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._lane = lane
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return "<Opener>"

    def open(self, sealed: memoryview, into: memoryview) -> None:
        """Put there what the next piece holds, as long as `into`. Damaged if this is not that piece, unchanged.

        Then what is in `into` means nothing, and the lane has to end: the piece cannot come once more.
        """
        number = next(self._numbers)
        associated = _ASSOCIATED.pack(self._lane, number, len(into))
        try:
            self._cipher.decrypt_into(_NONCE.pack(number), sealed, associated, into)
        except (InvalidTag, ValueError):  # or it is not as long as `into` wants
            raise Damaged(f"piece {number} of the lane is not what the loader sealed") from None
