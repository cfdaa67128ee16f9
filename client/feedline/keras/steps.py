"""What a training pass looks like from `fit`: which batch was which step, and for how long a step had to wait.

On JAX and torch the thread that trains asks for its batches, and waits as long as that takes. TensorFlow asks on
threads of its own, ahead of the step: there the trainer waits from the end of a step to the arrival of its next batch.
"""

import threading
import time
from typing import NamedTuple
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from feedline.reading.batch import Batch
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import Key, to_text

STEPS_KEPT = 64
"""Ids of so many of the last batches are kept, 0.5 MB with batches of 1024: TensorFlow asks some ten batches ahead, and
a callback may be called once for several steps."""


class Trained(NamedTuple):
    """Which batch a step was trained with."""

    key: str
    """As `feedline peek TARGET --batch-key KEY` takes it: from any loader, also when the run is over."""
    ids: NDArray[np.int64]
    """The ids of its samples."""


class Steps:
    """The steps of the training pass that began last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._adapter: ref[object] | None = None
        self._given: dict[int, tuple[Key, NDArray[np.int64]]] = {}
        self._count = 0
        self._trainer = 0
        self._finished = 0
        self._finished_at = 0.0
        self._waited_s = 0.0

    # ---- called by passes ----

    def is_of(self, adapter: object) -> bool:
        """They are those of the `fit` that made this adapter."""
        return adapter is not None and self._adapter is not None and self._adapter() is adapter

    def begin(self) -> None:
        """Another pass begins."""
        with self._lock:
            self._given.clear()
            self._count = self._finished = 0

    def give(self, batch: Batch, *, asked_at: float) -> None:
        """The pass' next batch is there."""
        now, asks = time.monotonic(), threading.get_ident()
        with self._lock:
            if asks == self._trainer:
                self._waited_s += now - asked_at
            elif self._finished >= self._count:
                self._waited_s += now - max(asked_at, self._finished_at)
            # A copy: a view would hold the memory of the whole batch.
            self._given[self._count] = batch.identity, batch.ids.copy()
            self._given.pop(self._count - STEPS_KEPT, None)
            self._count += 1

    # ---- called by callbacks ----

    def begin_fit(self, adapter: object) -> None:
        """A `fit` begins, which made this adapter."""
        self._adapter = ref(adapter)

    def begin_epoch(self) -> None:
        """An epoch of `fit` begins, on the thread that trains."""
        with self._lock:
            self._trainer = threading.get_ident()
            self._finished_at = time.monotonic()
            self._waited_s = 0.0

    def finish(self, steps: int) -> None:
        """So many more steps are done."""
        with self._lock:
            self._finished += steps
            self._finished_at = time.monotonic()

    @property
    def waited_s(self) -> float:
        """Seconds that the trainer has stood still in this epoch."""
        with self._lock:
            return self._waited_s

    def trained(self, number: int) -> Trained:
        """Batch `number` of the pass. Raises InvalidRequest where it was not given, or too long ago."""
        with self._lock:
            found = self._given.get(number)
            count = self._count
        if found is None:
            first = max(count - STEPS_KEPT, 0)
            has = f"{first} to {count - 1} of this pass are known" if count else "no training pass has begun"
            raise InvalidRequest(f"batch {number} is not known; {has}. Ask in on_train_batch_end(batch, logs)")
        return Trained(to_text(found[0]), found[1])
