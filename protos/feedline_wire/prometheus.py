"""Metrics in Prometheus' text format, version 0.0.4. Names: `feedline_`, base units, `_total` for what only grows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Metric:
    """One metric: `add` its samples."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    samples: list[tuple[Mapping[str, object], float]] = field(default_factory=list)

    def add(self, value: float, **labels: object) -> "Metric":
        """A sample; itself."""
        self.samples.append((labels, value))
        return self

    def lines(self) -> Iterator[str]:
        """As the format has it; nothing without samples."""
        if self.samples:
            yield f"# HELP {self.name} {_escaped(self.meaning)}"
            yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{name}="{_escaped(str(text))}"' for name, text in labels.items())
            number = f"{value:d}" if isinstance(value, int) else repr(float(value))
            yield f"{self.name}{{{inside}}} {number}" if inside else f"{self.name} {number}"


def text(metrics: Iterable[Metric]) -> bytes:
    """A whole answer to a scrape."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines()).encode()


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
