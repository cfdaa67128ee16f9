"""How many samples were bad and left out or replaced, as their dataset wants it: counted, and said once.

G7: a sample that cannot be read is never silently missing.
"""

import logging
import threading

import numpy as np
from numpy.typing import NDArray

IDS_NAMED = 8
"""In the log's line: enough to look at some."""

_log = logging.getLogger("feedline")


class Losses:
    """What one connection's batches said about bad samples. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<Losses {self._count}>"

    @property
    def count(self) -> int:
        """Bad samples in the batches handed out; one that comes in every epoch counts in every epoch."""
        return self._count

    def add(self, samples: NDArray[np.int64], dataset: str, *, replaced: bool) -> None:
        """Samples of a batch that is handed out. The first ones of a dataset make a line in the log."""
        with self._lock:
            self._count += len(samples)
            is_said = dataset in self._said
            self._said.add(dataset)
        if not is_said:
            named = ", ".join(map(str, samples[:IDS_NAMED].tolist()))
            _log.warning(
                "samples of %r are bad and are %s: %s%s; the loader's log says what is wrong with them, further ones "
                "are counted in stats.bad_samples",
                dataset,
                "replaced by others" if replaced else "left out",
                named,
                " and more" if len(samples) > IDS_NAMED else "",
            )
