"""Whether trainers wait for this loader, how long, and what it has too little of.

It is saturated while some trainer wants a batch, reads, keeps to its share, and yet nothing can be begun for it. Waits
count from there: what a trainer wants far ahead waits for nobody, and one that does not read waits for itself.
"""

from collections.abc import Iterable
from typing import Literal

from feedline_server.scheduling.fairness import is_stalled
from feedline_server.scheduling.stream import Stream

OVERLOADED_S = 5.0
"""A key that waits longer for a worker or for memory is worth a line: trainers give up after 60 s by default."""

SAY_AGAIN_S = 60.0
"""An overload lasts for hours; one line a minute is enough to find it."""

LOOK_EVERY_S = 0.1
"""Asked several times a batch: looking at all trainers each time was 3 us of it."""

Shortage = Literal["workers", "memory"]


class Overload:
    """Since when there is too little of something, and whether it has been said. Not locked."""

    def __init__(self) -> None:
        self.short_of: Shortage | None = None
        """What there is too little of now."""
        self._since = 0.0
        self._logged_at = self._next_look = float("-inf")

    def note(self, short_of: Shortage | None, now: float) -> None:
        """What the last attempt to begin something ended for; None if all was begun that could be."""
        if self.short_of is None:
            self._since = now
        self.short_of = short_of

    def waited_s(self, stream: Stream, now: float) -> float:
        """How long a stream's oldest key has waited for this loader."""
        if self.short_of is None or not stream.waiting or is_stalled(stream, now):
            return 0.0
        return now - max(stream.waiting[0].since, self._since)

    def longest_wait_s(self, streams: Iterable[Stream], now: float) -> float:
        """How long the key has waited that waits longest."""
        return max((self.waited_s(stream, now) for stream in streams), default=0.0)

    def should_log(self, streams: Iterable[Stream], now: float) -> bool:
        """A wait is worth a line now; it counts as said."""
        if self.short_of is None or now < self._next_look:
            return False
        self._next_look = now + LOOK_EVERY_S
        is_due = now >= self._logged_at + SAY_AGAIN_S and self.longest_wait_s(streams, now) >= OVERLOADED_S
        if is_due:
            self._logged_at = now
        return is_due
