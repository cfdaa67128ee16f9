"""Which code asks for a batch: a run of Keras' batch generator, another part of Keras' data adapter, or other code.

The only module that knows how Keras is built inside, and it does not import it. What is read here decides *when*
bytes move. The one decision about content (a batch of an epoch's plan instead of one in dataset order) rests on
positive evidence: where Keras looks different from what is expected, the answer becomes slower, never another one
(docs/keras.md).
"""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TypeGuard


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of Keras' batch generator, or of our own `for batch in sequence`."""

    frame: FrameType
    """The run's identity. Held while the run is known, so that no later run has the same."""
    adapter: object
    """Keras' data adapter that made the run, one for each call of fit, evaluate or predict; None for our iteration."""
    shuffled: bool
    """Keras shuffles this run and nothing stands between it and the sequence: a training pass of `fit`."""

    @property
    def shards(self) -> int:
        """Processes among which Keras itself divides the indices (Keras 3.16 and later); 1 where it does not."""
        shards = getattr(self.adapter, "_num_data_shards", 1)
        return shards if isinstance(shards, int) else 1

    def order(self) -> Sequence[int] | None:
        """The indices this run asks for, in that order; None where they cannot be read. Sorts: call it once a run."""
        order = self.frame.f_locals.get("indices")
        shard = getattr(self.adapter, "_data_shard_id", 0)
        if not _each_once(order) or not isinstance(shard, int) or not 0 <= shard < self.shards:
            return None
        return order[shard :: self.shards]


def asking_frame(sequence: object) -> FrameType | None:
    """The frame that asked `sequence` for a batch: the first caller that is not a `__getitem__` of the sequence itself.

    Called directly by `__getitem__`. Skipping its kin lets a subclass that calls `super().__getitem__` be seen through.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_getitem_of(sequence, frame):
        frame = frame.f_back
    return frame


def run_of(frame: FrameType | None, sequence: object, *, overridden: bool, iteration: CodeType) -> Run | None:
    """The run that `frame` is, if it drives `sequence` itself: one of Keras' generator, or of the code `iteration`.

    `iteration` is the sequence's own `__iter__`, known by its code and not by a name, which may change.
    """
    if frame is None or not frame.f_code.co_flags & inspect.CO_GENERATOR:
        return None
    driver = frame.f_locals.get("self")
    if frame.f_code is iteration and driver is sequence:
        return Run(frame, adapter=None, shuffled=False)
    if not is_adapter(frame) or getattr(driver, "py_dataset", None) is not sequence:
        return None
    # A subclass may pair batch i with labels of its own: only dataset order is safe behind its back.
    return Run(frame, driver, shuffled=not overridden and getattr(driver, "shuffle", None) is True)


def is_adapter(frame: FrameType | None) -> bool:
    """The frame is code of a Keras data adapter."""
    module = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return module.startswith("keras.") and "data_adapter" in module


def _is_getitem_of(sequence: object, frame: FrameType) -> bool:
    code = frame.f_code
    takes_self = code.co_name == "__getitem__" and code.co_argcount > 0
    return takes_self and frame.f_locals.get(code.co_varnames[0]) is sequence


def _each_once(order: object) -> TypeGuard[Sequence[int]]:
    """The object is each of 0..m-1 once, in any order."""
    if isinstance(order, range):
        return order == range(len(order))
    if not isinstance(order, list) or any(type(index) is not int for index in order):
        return False
    return sorted(order) == list(range(len(order)))
