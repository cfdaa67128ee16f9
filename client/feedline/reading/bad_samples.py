"""Bad samples in the batches of one connection, counted; the first ones of each dataset make a line in the log.

The loader says which samples it left out or replaced (its `batches/bad_samples` decides); the trainer counts them here,
so that none is missing silently.
"""

import logging
import threading

import numpy as np
from numpy.typing import NDArray

IDS_NAMED = 8
"""In the log's line: enough to look at some."""

log = logging.getLogger("feedline")


class BadSampleCounter:
    """How many bad samples the batches of one connection had. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        """Bad samples in the batches handed out; one that comes in every epoch counts in every epoch."""
        self._logged: set[str] = set()

    def add(self, samples: NDArray[np.int64], dataset: str, *, replaced: bool) -> None:
        """Count the bad samples of a batch that is handed out, by id. Logs the first ones of a dataset."""
        with self._lock:
            self.count += len(samples)
            is_first = dataset not in self._logged
            self._logged.add(dataset)
        if is_first:
            named = ", ".join(map(str, samples[:IDS_NAMED].tolist()))
            log.warning(
                "samples of %r are bad and are %s: %s%s; the loader's log says what is wrong with them, further ones "
                "are counted in stats.bad_samples",
                dataset,
                "replaced by others" if replaced else "left out",
                named,
                " and more" if len(samples) > IDS_NAMED else "",
            )
