"""What the workers of a pool have spent their time on, by stage and by transform; and what they found to be bad."""

import time
from collections import deque
from collections.abc import Iterable

from feedline_server.host.stopwatch import OWN_READ
from feedline_server.workers.messages import Done, Outcome, Task, by_stage
from feedline_wire.errors import BadSample
from feedline_wire.stages import OF_WORKER
from feedline_wire.status import LoaderCounters

MOST_NOTES = 32
"""Bad samples that are remembered for people to look at."""


class WorkerSeconds:
    """Added to by the pool's thread. Reading is thread-safe; the numbers may be a moment apart."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}  # as in Done
        self.bad: deque[tuple[float, str, BadSample]] = deque(maxlen=MOST_NOTES)
        """When, of which dataset, and what: the last bad samples."""

    def add(self, answers: Iterable[tuple[Task, Outcome]]) -> None:
        """What batches took, and what was found to be bad in them."""
        for task, one in answers:
            if not isinstance(one, Done):
                continue
            for stage, seconds in one.spent.items():
                self._spent[stage] = self._spent.get(stage, 0.0) + seconds
            if one.bad:
                self.bad.extend((time.monotonic(), task.dataset[0], error) for error in one.bad)

    def count(self, counters: LoaderCounters) -> None:
        """Add it to the counters."""
        for stage, seconds in zip(OF_WORKER, by_stage(dict(self._spent)), strict=True):
            counters.assembling_s += seconds
            setattr(counters, f"{stage}_s", seconds)
        counters.own_read_s = self._spent.get(OWN_READ, 0.0)

    @property
    def transform_s(self) -> dict[str, float]:
        """Seconds in each transform, by its name."""
        found: dict[str, float] = {}
        for purpose, seconds in dict(self._spent).items():
            name = purpose.partition(" ")[2]
            if name:
                found[name] = found.get(name, 0.0) + seconds
        return found
