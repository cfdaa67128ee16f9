"""How much of the mapped files counts as this process' memory.

What was read stays in the page cache for as long as the kernel likes; this process lets go of it, so that its
own size does not become that of the data it has read.
"""

import mmap
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

LIMIT = 256 << 20
"""Bytes that stay mapped in a process. With 32 MiB a row of 16 KiB, mapped and let go of again, took half as long
again (35 us of processor time instead of 24)."""

FOLIO = 2 << 20
"""Bytes that one touch may map: Linux maps a folio of the page cache as a whole (from 6.18 on; before, 64 KiB)."""

STATUS = Path("/proc/self/status")


def mapped_nbytes() -> int:
    """Bytes of files, libraries included, that this process has mapped now."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) << 10
    return 0


class Resident:
    """Lets go of everything that was touched in mapped files when it is more than `limit` bytes.

    What one touch maps is the kernel's choice, so the kernel is asked (some 30 us), but only when the worst that may
    have been mapped since then is more than the limit.
    """

    def __init__(self, limit: int, measure: Callable[[], int] = mapped_nbytes) -> None:
        self.limit = limit
        self._measure = measure
        self._touched: WeakSet[mmap.mmap] = WeakSet()
        self._worst = 0
        self._others = 0  # libraries and what else is mapped and not ours
        self._lock = threading.Lock()

    def touched(self, mapping: mmap.mmap, nbytes: int, places: int) -> None:
        """So many bytes of a mapping were read, in so many separate places."""
        with self._lock:
            self._touched.add(mapping)
            self._worst += nbytes + places * FOLIO
            if self._worst <= self.limit or sum(map(len, self._touched)) <= self.limit:
                return
            self._worst = self._measure() - self._others
            if self._worst <= self.limit:
                return
            # Who reads the same mapping meanwhile only has its pages mapped again: nothing in it changes.
            for full in self._touched:
                full.madvise(mmap.MADV_DONTNEED)
            self._touched.clear()
            self._worst = 0
            self._others = self._measure()


RESIDENT = Resident(LIMIT)
"""Of this process."""
