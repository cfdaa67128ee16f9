"""What a Keras sequence was asked for and waited for, in numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class SequenceStatistics:
    """Counters of the batches that a sequence was asked for until now."""

    requests: int = 0
    """Batches asked for."""
    ready: int = 0
    """Of these, already there when asked for."""
    waited_s: float = 0.0
    """Seconds spent waiting for batches."""
    passes_s: float = 0.0
    """Seconds from the first request of a pass to its last answer, over all passes: computing and waiting."""
    surprises: int = 0
    """Passes that Keras drove in another order than it had announced; they were served without read-ahead."""
    bad_samples: int = 0
    """Samples that cannot be read and were left out or replaced, as the dataset declares, once for each epoch."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds waited by what was waited for (docs/waiting.md)."""

    @property
    def waiting_share(self) -> float:
        """The part of a pass' time spent waiting for batches, 0 to 1."""
        return min(self.waited_s / self.passes_s, 1.0) if self.passes_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, as loggers take it."""
        return asdict(self) | {"waiting_share": self.waiting_share}
