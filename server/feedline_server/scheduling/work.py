"""What the batches of each view have cost since the start: how many were sent, and what workers spent on them.

Not locked. Bounded by what is served, because keys are checked before they are counted.
"""

from dataclasses import dataclass

from feedline_wire.key import Key


@dataclass(frozen=True, slots=True)
class Work:
    """Of one view."""

    batches: int
    """Sent; several may have been assembled once, and some by no worker."""
    assembling_s: float

    def since(self, before: "Work") -> "Work":
        """How much it grew."""
        return Work(self.batches - before.batches, self.assembling_s - before.assembling_s)


ViewName = tuple[str, str]
"""Dataset and view."""


class WorkByView:
    """Counted by the scheduler."""

    def __init__(self) -> None:
        self._batches: dict[ViewName, int] = {}
        self._seconds: dict[ViewName, float] = {}

    def sent(self, key: Key) -> None:
        """A batch was sent."""
        name = key.dataset, key.view
        self._batches[name] = self._batches.get(name, 0) + 1

    def assembled(self, key: Key, seconds: float) -> None:
        """A worker took so long for a batch."""
        name = key.dataset, key.view
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def now(self) -> dict[ViewName, Work]:
        """All of it."""
        names = self._batches.keys() | self._seconds.keys()
        return {name: Work(self._batches.get(name, 0), self._seconds.get(name, 0.0)) for name in names}
