"""Where a worker says which task it is at, for when it can say nothing any more.

Tasks and answers travel several in a message, so what was not answered need not be what a worker died of. The number
lies in memory that both have mapped: it is there however the worker ended.
"""

import mmap
import struct

MARK_NBYTES = mmap.PAGESIZE

_NUMBER = struct.Struct("<Q")


class Mark:
    """One worker's mark. The worker writes `number`, its pool reads it when it is dead."""

    def __init__(self, fd: int) -> None:
        """Map it; the descriptor stays the caller's."""
        self._memory = mmap.mmap(fd, MARK_NBYTES)

    @property
    def number(self) -> int:
        """The task begun last; 0 before the first."""
        return int(_NUMBER.unpack_from(self._memory)[0])

    @number.setter
    def number(self, number: int) -> None:
        _NUMBER.pack_into(self._memory, 0, number)

    def close(self) -> None:
        """Unmap it. Twice is fine."""
        self._memory.close()
