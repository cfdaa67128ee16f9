"""Whether trainers wait for this loader, for how long, and what it is short of.

It is saturated while a trainer wants a batch, reads, keeps to its share, and yet nothing can begin for it. Waits count
from there: a key wanted far ahead does not wait for the loader, and a stalled reader waits for itself.
"""

from collections.abc import Iterable
from typing import Literal

from feedline_server.scheduling.fairness import is_stalled
from feedline_server.scheduling.stream import Stream

OVERLOADED_S = 5.0
"""A key that waits longer for a worker or for memory is worth a line: trainers give up after 60 s by default."""

LOG_AGAIN_S = 60.0
"""An overload lasts for hours; one line a minute is enough to find it."""

LOOK_EVERY_S = 0.1
"""Looking at all trainers at each event was 3 us of a batch."""

Shortage = Literal["workers", "memory"]


class Overload:
    """Since when the loader is short of something, and when it was last logged. Not locked."""

    def __init__(self) -> None:
        self.short_of: Shortage | None = None
        """What the loader is short of now."""
        self.is_bound = False
        """Streams want more than their share of the memory, and workers idle."""
        self._since = self._noted_at = 0.0
        self._seconds: dict[Shortage, float] = {"workers": 0.0, "memory": 0.0}
        self._logged_at = self._next_look = float("-inf")

    def note(self, short_of: Shortage | None, now: float, *, is_bound: bool = False) -> None:
        """What ended the last attempt to begin work; None if everything began that could."""
        if self.short_of is None:
            self._since = now
        self._seconds = self.seconds(now)
        self.short_of, self.is_bound, self._noted_at = short_of, is_bound, now

    def seconds(self, now: float) -> "dict[Shortage, float]":
        """For how long the loader has been short of each, all together."""
        seconds = dict(self._seconds)
        if (short_of := "memory" if self.is_bound else self.short_of) is not None:
            seconds[short_of] += now - self._noted_at
        return seconds

    def waited_s(self, stream: Stream, now: float) -> float:
        """How long a stream's oldest key has waited for this loader."""
        if self.short_of is None or not stream.waiting or is_stalled(stream, now):
            return 0.0
        return now - max(stream.waiting[0].since, self._since)

    def longest_wait_s(self, streams: Iterable[Stream], now: float) -> float:
        """How long the key that waits longest has waited."""
        return max((self.waited_s(stream, now) for stream in streams), default=0.0)

    def should_log(self, streams: Iterable[Stream], now: float) -> bool:
        """A wait is worth a line in the log now, which then counts as written."""
        if self.short_of is None or now < self._next_look:
            return False
        self._next_look = now + LOOK_EVERY_S
        if now < self._logged_at + LOG_AGAIN_S or self.longest_wait_s(streams, now) < OVERLOADED_S:
            return False
        self._logged_at = now
        return True
