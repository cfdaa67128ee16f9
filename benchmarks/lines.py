"""A line of the table: what was compared, its ratio, what had to be reached, and what it cost.

Lines are plain values that go into JSON and come back; whether one is met is decided here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from benchmarks.measured import Stretch
from benchmarks.pairs import Ratio


@dataclass(frozen=True, slots=True)
class Bound:
    """What a ratio must reach."""

    sign: Literal[">=", "<="]
    must: float
    aim: float | None = None

    def is_met_by(self, value: float) -> bool:
        return value >= self.must if self.sign == ">=" else value <= self.must

    def __str__(self) -> str:
        return f"{'≥' if self.sign == '>=' else '≤'} {self.must:g}"


@dataclass(frozen=True, slots=True)
class Side:
    """Medians of one contestant's rounds."""

    name: str
    value: float
    """In the line's unit."""
    trainer_cpu_s_per_gb: float | None = None
    loader_cpu_s_per_gb: float | None = None
    trainer_rss_mb: float | None = None
    loader_rss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison. Without a ratio it says why there is none; without a bound it is there to be known."""

    row: int
    what: str
    unit: str
    ours: Side | None = None
    peer: Side | None = None
    ratio: Ratio | None = None
    bound: Bound | None = None
    why_not: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """None: nothing was asked, or nothing was measured."""
        return None if self.ratio is None or self.bound is None else self.bound.is_met_by(self.ratio.median)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.is_met}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Line":
        fields: dict[str, Any] = {name: value[name] for name in ("row", "what", "unit", "why_not", "more")}
        kinds: dict[str, type[Any]] = {"ours": Side, "peer": Side, "ratio": Ratio, "bound": Bound}
        fields |= {name: kind(**value[name]) if value[name] else None for name, kind in kinds.items()}
        return cls(**fields)


def side(name: str, stretches: Sequence[Stretch], values: Sequence[float]) -> Side:
    """Medians of what a contestant took."""
    return Side(
        name=name,
        value=median(values),
        trainer_cpu_s_per_gb=median(taken.trainer_cpu_s_per_gb for taken in stretches),
        loader_cpu_s_per_gb=median(taken.loader_cpu_s_per_gb for taken in stretches),
        trainer_rss_mb=max(taken.trainer_rss_mb for taken in stretches),
        loader_rss_mb=max(taken.loader_rss_mb for taken in stretches),
    )
