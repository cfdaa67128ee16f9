"""Arrays that had to be decompressed, kept for the next batch: so many bytes of them in a process, the latest used.

What is kept is bounded, and so is one array: more than the bound is refused when the data is opened.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from feedline_server.host import machine

LIMIT = 256 << 20
"""Bytes in a process at most: some thousand decompressed megabytes a second make it a second's work."""


class Sized(Protocol):
    """What takes so many bytes: an array, or several."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        ...


Kept = TypeVar("Kept", bound=Sized)


def limit_nbytes() -> int:
    """What a process may keep: all workers together at most a quarter of the memory."""
    return min(LIMIT, machine.memory_nbytes() // (4 * machine.cores()))


class Decoded:
    """A cache of what is not written to. *Thread-safe.* Two threads may decode the same at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()  # Any: of each key's own kind
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def get(self, key: Hashable, decode: Callable[[], Kept]) -> Kept:
        """What belongs to this key, decoded if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: Kept = self._kept[key]
                return found
        decoded = decode()
        with self._lock:
            self._kept[key] = decoded
            while self.nbytes > self.limit and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return decoded


DECODED = Decoded(limit_nbytes())
"""Of this process."""
