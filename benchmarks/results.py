"""What a run leaves: a JSON file that later runs of other rows are merged into."""

import json
import os
import platform
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.lines import Line

PACKAGES = (
    "feedline", "numpy", "grpcio", "protobuf", "tensorflow-cpu", "tensorflow", "torch", "grain", "mosaicml-streaming",
    "keras", "opencv-python-headless", "ray",
)  # fmt: skip


@dataclass(slots=True)
class Results:
    """The lines of every row that was run, and where."""

    machine: dict[str, Any]
    """Of the rows that were measured last."""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By number: `lines`, `date`, `seconds`, `pairs`, `load`, `machine`."""

    @classmethod
    def read(cls, path: Path) -> "Results":
        """What stands there; nothing, if nothing does."""
        if not path.exists():
            return cls(machine())
        found = json.loads(path.read_text())
        rows = {
            int(row): {"machine": found["machine"], **value, "lines": [Line.from_json(line) for line in value["lines"]]}
            for row, value in found["rows"].items()
        }
        return cls(found["machine"], rows)

    def put(self, rows: Sequence[int], lines: Sequence[Line], *, seconds: float, pairs: int) -> None:
        """Take the place of what these rows had."""
        self.machine = machine()
        for row in rows:
            self.rows[row] = {
                "lines": [line for line in lines if line.row == row],
                "date": time.strftime("%Y-%m-%d %H:%M"),
                "seconds": round(seconds, 1),
                "pairs": pairs,
                "load": [round(one, 2) for one in os.getloadavg()],
                "machine": self.machine,
            }

    def take(self, rows: Collection[int], other: "Results") -> None:
        """These rows as another run found them."""
        self.machine = other.machine
        self.rows |= {row: other.rows[row] for row in rows}

    def write(self, path: Path) -> None:
        """As JSON; a reader never sees half of it."""
        rows = {
            str(row): {**value, "lines": [line.as_json() for line in value["lines"]]}
            for row, value in sorted(self.rows.items())
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"machine": self.machine, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
        new.replace(path)

    @property
    def lines(self) -> list[Line]:
        return [line for _, value in sorted(self.rows.items()) for line in value["lines"]]


def machine() -> dict[str, Any]:
    """The machine and what is installed."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory[0] / 1e6, 1) if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
