"""Arrays that had to be decoded, kept for the next batch: so many bytes of them, the latest used or written.

The workers of a loader share what they keep: each piece is decoded by one of them, and others that want it meanwhile
decode something else. A process that shares with none, as `inspect` and `convert` are, keeps its own. What is kept is
bounded, and so is one piece: more than the bound is refused when the data is opened.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from feedline_server.host import machine
from feedline_server.memory.shared_cache import ALIGNED, Entry, SharedCache
from feedline_wire.tensors import Array

LIMIT = 256 << 20
"""Bytes of one process at most: some thousand decompressed megabytes a second make it a second's work."""

HEAD_NBYTES = 64 << 10
"""For names, dtypes and shapes of what is kept together; a thousand columns have as many."""

SEEN = 4096
"""Pieces whose places a process remembers: as many as the shared cache has at most."""

Arrays = Mapping[str, Array]


def limit_nbytes() -> int:
    """What a process may keep: all workers together at most a quarter of the memory."""
    return min(LIMIT, machine.memory_nbytes() // (4 * machine.cores()))


@dataclass(frozen=True, slots=True)
class Piece:
    """What is decoded as a whole, and what is wanted of it."""

    key: bytes
    """16 bytes that stand for it: see `key_of`."""
    nbytes: int
    """Of its arrays at most."""
    decode: Callable[[], Arrays]
    use: Callable[[Arrays], object]
    """Copies what is wanted. Called again, with the same values, if they were overwritten meanwhile."""


def key_of(*parts: object) -> bytes:
    """A key for values whose `repr` tells all."""
    return blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=16).digest()


class Decoded:
    """A cache of what is not written to. *Thread-safe.* Two threads may decode the same at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes that it keeps, and that one piece may have, until it is shared."""
        self._kept: OrderedDict[bytes, Arrays] = OrderedDict()
        self._lock = threading.Lock()
        self._shared: SharedCache | None = None
        self._seen: dict[bytes, tuple[Entry, Arrays]] = {}
        """Where shared pieces were found last: to look them up again costs as much as to read some rows of them."""

    @property
    def nbytes(self) -> int:
        """Bytes kept now by this process alone."""
        return sum(map(_nbytes, self._kept.values()))

    def shared_nbytes(self, workers: int) -> int:
        """What so many processes of this bound keep together."""
        return min(workers, machine.cores()) * self.limit + HEAD_NBYTES

    def cost(self, rows: int, nbytes: int) -> str:
        """What decoding pieces of so many rows and bytes costs, and what to do: the end of a sentence."""
        kept = self.shared_nbytes(machine.cores())
        window = max(1, kept // (2 * nbytes))  # the next window is decoded while batches of this one are on their way
        return (
            f"{nbytes / 1e6:,.1f} MB each, all of which is decoded to have one row, and the workers keep "
            f'{kept >> 20} MiB decoded: order="blocks:{rows}x{window}" decodes each once an epoch; `feedline convert` '
            "writes columns that are read where they lie, in any order"
        )

    def share(self, cache: SharedCache) -> None:
        """Keep things there from now on."""
        self._shared = cache
        self._seen.clear()

    def use(self, pieces: Iterable[Piece]) -> None:
        """Have each piece used, decoded if it is not kept, in any order. Raises what `decode` raises."""
        if self._shared is None:
            for piece in pieces:
                piece.use(self.get(piece.key, piece.decode))
            return
        with self._lock:
            self._use_shared(list(pieces), self._shared)

    def get(self, key: bytes, decode: Callable[[], Arrays]) -> Arrays:
        """What belongs to this key, decoded if this process does not keep it; kept by this process alone."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        decoded = decode()
        with self._lock:
            self._kept[key] = decoded
            while self.nbytes > self.limit and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return decoded

    def _use_shared(self, pieces: list[Piece], cache: SharedCache) -> None:
        while pieces:
            left: list[Piece] = []
            entry: Entry | None = None
            for piece in pieces:
                if (seen := self._seen.pop(piece.key, None)) and self._used(cache, *seen, piece):
                    continue
                entry = cache.find(_short(piece.key), HEAD_NBYTES + piece.nbytes)
                if entry is None:
                    piece.use(piece.decode())
                elif entry.is_own:
                    piece.use(_written(cache, entry, piece))
                elif not entry.is_ready:
                    left.append(piece)
                elif entry.head[: len(piece.key)] != piece.key:  # two keys that are alike for half of their bytes
                    piece.use(piece.decode())
                elif not self._used(cache, entry, _read(entry), piece):
                    left.append(piece)
            if len(left) == len(pieces) and entry is not None:
                cache.wait(entry)
            pieces = left

    def _used(self, cache: SharedCache, entry: Entry, arrays: Arrays, piece: Piece) -> bool:
        """Use what is there; whether it was there until it had been used."""
        try:
            piece.use(arrays)
        except Exception:
            if cache.is_there(entry):
                raise
            return False  # it was of what was overwritten
        if not cache.is_there(entry):
            return False
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen[piece.key] = entry, arrays
        return True


DECODED = Decoded(limit_nbytes())
"""Of this process."""


def _nbytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def _short(key: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(key[:8], "little") or 1)


def _written(cache: SharedCache, entry: Entry, piece: Piece) -> Arrays:
    """What is decoded, after it was written to one's own entry; what has no room there is not kept."""
    try:
        arrays = piece.decode()
        head = piece.key + json.dumps([[name, one.dtype.str, one.shape] for name, one in arrays.items()]).encode()
        end = len(head)
        if len(head) <= HEAD_NBYTES and len(head) + sum(one.nbytes + ALIGNED for one in arrays.values()) <= len(
            entry.memory
        ):
            entry.memory[: len(head)] = np.frombuffer(head, np.uint8)
            for one in arrays.values():
                start = _aligned(end)
                end = start + one.nbytes
                entry.memory[start:end].view(one.dtype).reshape(one.shape)[...] = one
            cache.publish(entry, end, len(head))
            return arrays
    except BaseException:
        cache.abandon(entry)
        raise
    cache.abandon(entry)
    return arrays


def _read(entry: Entry) -> Arrays:
    arrays: dict[str, Array] = {}
    end = len(entry.head)
    for name, dtype, shape in json.loads(entry.head[16:]):
        start = _aligned(end)
        end = start + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = entry.memory[start:end].view(dtype).reshape(shape)
    return arrays


def _aligned(place: int) -> int:
    return -(-place // ALIGNED) * ALIGNED
