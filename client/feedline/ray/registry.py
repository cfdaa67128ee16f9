"""Where the replicas of a fleet are, as they last said. It remembers nothing that they do not say again each second.

So one that is started anew, with nothing, knows all of them again after a few seconds; until then it says that it does
not know, and trainers keep what they have.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from feedline.ray.spec import Report

BEAT_S = 1.0
"""Between two words of a replica. A trainer asks every 5 s; what is a second old is as good as new."""

STALE_S = 10.0
"""Ten words missed: the replica is gone, or its node is. Trainers have left it long before, at its first silence."""

SETTLE_S = 4.0
"""Four words of each replica, also on busy nodes: who has said nothing by then is not there."""


class Registry:
    """What replicas said. One thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._said: dict[str, tuple[float, Report]] = {}

    def say(self, report: Report) -> None:
        """A replica says how it is."""
        self._said[report.name] = (self._now(), report)

    def forget(self, name: str) -> None:
        """A replica was removed."""
        self._said.pop(name, None)

    def reports(self) -> list[Report] | None:
        """What was said of late, by name; None while that may not be all."""
        now = self._now()
        self._said = {name: said for name, said in self._said.items() if now - said[0] < STALE_S}
        if now - self._began < SETTLE_S:
            return None
        there = (replace(one, since_s=one.since_s + now - at) for at, one in self._said.values())
        return sorted(there, key=lambda one: (len(one.name), one.name))
