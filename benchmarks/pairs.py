"""A B A B: contestants in turn, and ratios taken round by round.

A machine that gets slower halfway slows both of a round, so the ratio of a round means something when neither number
does. What counts is the median; the smallest and the largest say how much to believe it.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the rounds' ratios, and their range."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} – {self.most:.3g})"


def rounds(contestants: Mapping[str, Callable[[], Taken]], count: int) -> dict[str, list[Taken]]:
    """Let each take its turn, `count` times round; what they took, by name, in order."""
    taken: dict[str, list[Taken]] = {name: [] for name in contestants}
    for _ in range(count):
        for name, turn in contestants.items():
            taken[name].append(turn())
    return taken


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Round by round, one divided by the other."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def interval(values: Sequence[float], drawn: int = 4000) -> tuple[float, float]:
    """Between which two numbers the median lies, with 95 %: the percentile bootstrap (Efron, 1979)."""
    random_of = random.Random(0)
    medians = sorted(statistics.median(random_of.choices(values, k=len(values))) for _ in range(drawn))
    return medians[round(0.025 * drawn)], medians[round(0.975 * drawn) - 1]
