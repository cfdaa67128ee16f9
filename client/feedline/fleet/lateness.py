"""How long a key may be unanswered and a loader silent, learnt from all loaders of a fleet.

Arithmetic, as in the tracker: nothing here takes a lock, looks at a clock, waits or talks to anybody.
"""

from feedline.fleet.endpoint import Endpoint
from feedline.fleet.rates import (
    LATE_FACTOR,
    LATE_QUANTILE,
    SILENT_FACTOR,
    SILENT_QUANTILE,
    RecentQuantile,
    late_after_s,
)

CONFIRM_S = 0.05
"""Between finding a loader silent and acting on it. When this process itself stood still (a garbage collection, a long
call that holds the GIL, a laptop that slept) every loader looks silent, until its thread has run again."""

STALLED_S = 1.0
"""A loader that is silent for so long loses all its keys to the others, however many that are; before that the budget
for asking twice decides how many."""

RENEW_AFTER_S = 10.0
"""A stream that owes an answer and brings nothing for so long is made anew. A bit that was changed in an HTTP/2 frame's
head leaves it waiting although the connection lives; one that does not live is noticed by keepalive in as long."""

RENEW_UNKNOWN_S = 30.0
"""The same where nothing has been learnt yet: half of what a reader waits for its batch by default. A loader that is
slow from the start would have to begin again with what it is about to answer."""

RENEW_FACTOR = 4.0
"""Times the learnt time after which a loader is silent. Each time in vain doubles the wait, so that a loader that is
that slow gets done."""


class LatenessEstimator:
    """What is usual, and from when on it is not."""

    __slots__ = ("_answer_times", "_gaps")

    def __init__(self) -> None:
        self._answer_times = RecentQuantile(LATE_QUANTILE)
        self._gaps = RecentQuantile(SILENT_QUANTILE)

    @property
    def late_after_s(self) -> float:
        """When a key is late."""
        return late_after_s(self._answer_times.value, LATE_FACTOR)

    @property
    def silent_after_s(self) -> float:
        """When a loader is silent."""
        return late_after_s(self._gaps.value, SILENT_FACTOR)

    def answered(self, seconds: float) -> None:
        """A key was answered so long after it was asked for."""
        self._answer_times.add(seconds)

    def heard(self, gap_s: float) -> None:
        """A loader gave no sign of life for so long, and then one."""
        self._gaps.add(gap_s)

    def is_silent(self, endpoint: Endpoint, now: float) -> bool:
        """It owes an answer, and nothing came from it for too long."""
        return endpoint.silent_s(now) > self.silent_after_s

    def is_surely_silent(self, endpoint: Endpoint, now: float) -> bool:
        """It is silent, and was found so before; that it was found so now is noted."""
        if not self.is_silent(endpoint, now):
            return False
        if endpoint.suspected_at is None:
            endpoint.suspected_at = now
        return now - endpoint.suspected_at >= CONFIRM_S

    def renew_at(self, endpoint: Endpoint, now: float) -> float:
        """When its stream is to be made anew, if nothing comes on it."""
        least_s = RENEW_UNKNOWN_S if self._gaps.value is None else RENEW_AFTER_S
        after_s = max(least_s, RENEW_FACTOR * self.silent_after_s) * 2.0**endpoint.renewed
        return now - endpoint.silent_s(now) + after_s
