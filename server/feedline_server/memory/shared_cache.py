"""Decoded data that the workers of a loader share: a ring of bytes in a memfd, the latest that was written.

An entry is written once and never changed; the oldest make room for new ones, so memory is bounded. Who finds an entry
reads it without holding anything, and asks afterwards whether it is still there. A worker that is killed leaves nothing
locked: the kernel lets go of its record locks (fcntl), which are all there is. *Safe between processes*; in a process
one thread at a time.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOTS = 4096
"""Entries at most: a lookup compares all their keys, 3 us. Of half a gigabyte, 128 KiB each."""

ALIGNED = 64
"""Entries begin at such places: arrays in them are aligned for any dtype."""

FIELDS = ("key", "number", "start", "nbytes", "head", "is_ready")
COUNTERS = ("next", "oldest", "end")
"""The number of the next entry, of the oldest that is there, and where the latest ends."""

HEAD_NBYTES = 8 * (SLOTS * len(FIELDS) + ALIGNED)

INDEX = 0
"""The byte whose lock guards counters and fields; that of slot i guards the entry in it while it is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Some bytes under a key."""

    number: int
    slot: int
    memory: NDArray[np.uint8]
    """All of it, head and all; may be overwritten at any time."""
    head: bytes
    """Its first bytes as they were when it was found."""
    is_ready: bool
    is_own: bool
    """To be written by who asked: `publish` or `abandon` it."""


def new_memory(nbytes: int) -> int:
    """The descriptor of memory for a cache of so many bytes, none of which is taken before it is written."""
    fd = os.memfd_create("feedline-decoded", os.MFD_CLOEXEC)
    os.ftruncate(fd, HEAD_NBYTES + nbytes // ALIGNED * ALIGNED)
    return fd


class SharedCache:
    """The cache in the memory of this descriptor, which is the cache's from now on."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        mapping = mmap.mmap(fd, 0)
        mapping.madvise(mmap.MADV_DONTFORK)
        words = np.frombuffer(mapping, np.uint64, HEAD_NBYTES // 8)
        self._of = {name: words[place * SLOTS :][:SLOTS] for place, name in enumerate(FIELDS)}
        self._counters: dict[str, NDArray[np.uint64]] = dict(
            zip(COUNTERS, np.split(words[len(FIELDS) * SLOTS :], ALIGNED), strict=False)
        )
        self._bytes = np.frombuffer(mapping, np.uint8, offset=HEAD_NBYTES)

    def __repr__(self) -> str:
        return f"<SharedCache {self['next'] - self['oldest']} entries, {self.nbytes} bytes>"

    def __getitem__(self, counter: str) -> int:
        return int(self._counters[counter][0])

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, at most."""
        return len(self._bytes)

    def find(self, key: np.uint64, nbytes: int) -> Entry | None:
        """The entry of this key: ready; or being written by another process; or a new one of so many bytes, one's own.

        None if it has no room. Keys are hashes, and not 0: that it is of this key and no other its head must tell.
        """
        with self._locked(INDEX):
            for slot in np.flatnonzero(self._of["key"] == key).tolist():
                entry = self._entry(slot)
                if entry.number >= self["oldest"] and (entry.is_ready or not self._is_abandoned(slot)):
                    return entry
            return self._reserved(key, -(-nbytes // ALIGNED) * ALIGNED)

    def is_there(self, entry: Entry) -> bool:
        """Whether an entry has not been overwritten: what was read from it before this was asked is right."""
        with self._locked(INDEX):
            return entry.number >= self["oldest"]

    def publish(self, entry: Entry, nbytes: int, head_nbytes: int) -> None:
        """One's own entry is written, so many bytes of it and so many of its head: others may read it."""
        with self._locked(INDEX):
            self._of["nbytes"][entry.slot] = nbytes
            self._of["head"][entry.slot] = head_nbytes
            if entry.number == self["next"] - 1:  # what it has too much is for the next
                self._counters["end"][0] = int(self._of["start"][entry.slot]) + -(-nbytes // ALIGNED) * ALIGNED
            self._of["is_ready"][entry.slot] = 1
        self._unlock(1 + entry.slot)

    def abandon(self, entry: Entry) -> None:
        """One's own entry is not written after all."""
        self._of["key"][entry.slot] = 0
        self._unlock(1 + entry.slot)

    def wait(self, entry: Entry) -> None:
        """Blocks until the process that writes an entry has written it, or has ended."""
        with self._locked(1 + entry.slot):
            pass

    def _entry(self, slot: int) -> Entry:
        number, start, nbytes, head, is_ready = (int(self._of[name][slot]) for name in FIELDS[1:])
        memory = self._bytes[start : start + nbytes]
        return Entry(number, slot, memory, memory[:head].tobytes(), bool(is_ready), is_own=False)

    def _reserved(self, key: np.uint64, nbytes: int) -> Entry | None:
        """A new entry, in the place of the oldest; None if it is larger than all, or one in its place is being written.

        A process that ends in the middle leaves entries that are gone too early, and none that is wrong.
        """
        number, oldest, start = self["next"], self["oldest"], self["end"]
        if nbytes > self.nbytes:
            return None
        if start + nbytes > self.nbytes:
            start = 0
        starts, ends = self._of["start"], self._of["start"] + self._of["nbytes"]
        is_there = (self._of["number"] >= oldest) & (self._of["number"] < number)
        overlaps = is_there & (starts < start + nbytes) & (ends > start)
        overlaps[number % SLOTS] |= number - oldest == SLOTS
        keeps_from = int(self._of["number"][overlaps].max()) + 1 if overlaps.any() else oldest
        going = np.flatnonzero(is_there & (self._of["number"] < keeps_from) & (self._of["is_ready"] == 0))
        if any(self._of["key"][slot] and not self._is_abandoned(slot) for slot in going.tolist()):
            return None
        slot = number % SLOTS
        self._counters["oldest"][0] = keeps_from
        self._of["key"][slot] = 0
        for name, value in zip(FIELDS[1:], (number, start, nbytes, 0, 0), strict=True):
            self._of[name][slot] = value
        self._of["key"][slot] = key
        self._counters["end"][0] = start + nbytes
        self._counters["next"][0] = number + 1
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 1 + slot)
        return Entry(number, slot, self._bytes[start : start + nbytes], b"", is_ready=False, is_own=True)

    def _is_abandoned(self, slot: int) -> bool:
        """Whether nobody writes the entry of this slot any more."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + slot)
        except OSError:
            return False
        self._unlock(1 + slot)
        return True

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, byte)
        try:
            yield
        finally:
            self._unlock(byte)

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
