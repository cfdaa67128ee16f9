"""Which object an id belongs to, and what it is there: objects, one a view, are laid end to end."""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from feedline_server.sources.python.objects import Built


class Place(NamedTuple):
    """Where an id is."""

    view: int
    """Which of the objects, of which each is a view."""
    number: int
    """What its code calls it."""


class Ids:
    """The ids of objects that are laid end to end."""

    def __init__(self, objects: Sequence[Built]) -> None:
        self._objects = objects
        self._ends = list(itertools.accumulate(one.length for one in objects))

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, sample: int) -> Place:
        """Where this id is."""
        view = bisect.bisect_right(self._ends, sample)
        return Place(view, sample - self._ends[view] + self._objects[view].length)

    def named(self, sample: int, what: str = "sample") -> str:
        """The id for a message: `sample 7 (my_classes:dataset[7])`."""
        view, number = self.place(sample)
        return f"{what} {sample} ({self._objects[view].reference}[{number}])"
