"""Which code asks for a batch: a run of Keras' batch generator, another part of Keras' data adapter, or other code.

The only module that knows how Keras 3 and Keras 2 (`tf_keras`) are built inside, and it imports neither. What is read
here decides *when* bytes move. The one decision about content (a batch of an epoch's plan instead of one in dataset
order) rests on positive evidence: where Keras looks different from what is expected, the answer becomes slower, never
another one (docs/keras.md).
"""

import gc
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType
from typing import Any, TypeGuard

RUNS = frozenset({"fit", "evaluate", "predict"})
"""Functions of Keras that go through a sequence, and know the adapter."""

BUILDS = frozenset({"_symbolic_build", "_maybe_symbolic_build"})
"""Methods of Keras that take a batch of `iterator` to build a model, and throw it away."""

WRAPPERS_MOST = 8
"""Frames between a wrapper's generator and the sequence that are looked through: each costs 0.1 us."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of Keras' batch generator, or of our own `for batch in sequence`."""

    frame: FrameType
    """The run's identity. Held while the run is known, so that no later run has the same."""
    adapter: object
    """Keras' data adapter that made the run, one for each call of fit, evaluate or predict; None for our iteration, and
    for Keras 2's enqueuer."""
    shuffled: bool
    """Keras shuffles this run and nothing stands between it and the sequence: a training pass of `fit`."""
    is_direct: bool = True
    """Keras asks the sequence itself, and not an object that wraps it and may ask for other batches."""
    is_in_turn: bool = True
    """One batch after the other; False for the threads of Keras 2's enqueuer, which ask beside each other."""

    @property
    def shards(self) -> int:
        """Processes among which Keras itself divides the indices (Keras 3.16 and later); 1 where it does not."""
        shards = getattr(self.adapter, "_num_data_shards", 1)
        return shards if isinstance(shards, int) else 1

    @property
    def is_probe(self) -> bool:
        """Keras builds a model with it. Looks at the stacks of all threads: call it once a run."""
        with _no_collection():
            return self.adapter is not None and any(
                frame.f_code.co_name in BUILDS
                and is_of_keras(frame)
                and getattr(frame.f_locals.get("iterator"), "data_adapter", None) is self.adapter
                for frame in _all_frames()
            )

    def order(self) -> Sequence[int] | None:
        """The indices this run asks for, in that order; None where they cannot be read. Sorts: call it once a run."""
        # In the generator of Keras 3 and in our own, in that of Keras 2, in its enqueuer.
        names = ("indices", "order", "sequence")
        with _no_collection():
            found = self.frame.f_locals  # of Keras 2's enqueuer another thread's
        order = next((found[name] for name in names if name in found), None)
        if self.adapter is None and self.is_in_turn and isinstance(order, range):
            return order  # any part, in our own
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
    """The run that `frame` is, or that it works for: one of Keras' generator, or of the code `iteration`.

    `iteration` is the sequence's own iteration, known by its code and not by a name, which may change.
    """
    if frame is None:
        return None
    if frame.f_code is iteration and frame.f_locals.get("self") is sequence:
        return Run(frame, adapter=None, shuffled=False)
    # A subclass may pair batch i with labels of its own: only dataset order is safe behind its back.
    if (enqueuer := _enqueuer_of(frame, sequence)) is not None:
        shuffles = enqueuer.f_locals["self"].shuffle is True
        return Run(enqueuer, adapter=None, shuffled=shuffles and not overridden, is_in_turn=False)
    driver = _driver_of(frame)
    adapter = None if driver is None else driver.f_locals.get("self")
    goes_through = sequence_of(adapter)
    if driver is frame and goes_through is sequence:
        shuffles = getattr(adapter, "shuffle", getattr(adapter, "_shuffle_sequence", None)) is True
        return Run(frame, adapter, shuffled=shuffles and not overridden)
    is_wrapped = driver is not None and driver is not frame and goes_through is not None
    return Run(driver, adapter, shuffled=False, is_direct=False) if driver is not None and is_wrapped else None


def is_adapter(frame: FrameType | None) -> bool:
    """The frame is code of a Keras data adapter."""
    return frame is not None and is_of_keras(frame) and "data_adapter" in frame.f_globals["__name__"]


def is_of_keras(frame: FrameType) -> bool:
    """The frame is code of Keras 3 or Keras 2."""
    return str(frame.f_globals.get("__name__", "")).startswith(("keras.", "tf_keras."))


def sequence_of(adapter: object) -> object:
    """The sequence that an adapter goes through; None if it is no adapter of sequences."""
    return getattr(adapter, "py_dataset", getattr(adapter, "_keras_sequence", None))


def running() -> list[object]:
    """The adapters of all `fit`, `evaluate` and `predict` that run now; None for one that has another form.

    Any thread; looks at the stacks of all.
    """
    with _no_collection():
        return [_adapter_of(frame) for frame in _all_frames() if frame.f_code.co_name in RUNS and is_of_keras(frame)]


def fit_of_caller() -> object:
    """The adapter of the innermost `fit` that this thread is in, as where a callback is called; None if in none."""
    fits = (frame for frame in _stack(sys._getframe(1)) if frame.f_code.co_name == "fit" and is_of_keras(frame))
    return next((adapter for frame in fits if (adapter := _adapter_of(frame)) is not None), None)


def let_go(adapter: Any) -> None:  # noqa: ANN401  # of Keras
    """Have an adapter that is not used again not keep its sequence: TensorFlow keeps every adapter for ever."""
    sequence = getattr(adapter, "py_dataset", None)
    if sequence is not None and type(sequence) not in weakref.ProxyTypes:
        adapter.py_dataset = weakref.proxy(sequence)


def _adapter_of(frame: FrameType) -> object:
    """The adapter of a frame of `fit`, `evaluate` or `predict`."""
    found = frame.f_locals
    adapter = getattr(found.get("epoch_iterator"), "data_adapter", None)
    return adapter if adapter is not None else getattr(found.get("data_handler"), "_adapter", None)


_READING = threading.RLock()
"""Held while frames of other threads are read: who ends first does not let collections begin for the other."""

os.register_at_fork(before=_READING.acquire, after_in_parent=_READING.release, after_in_child=_READING.release)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection begins within: what reads frames of other threads, or their variables, does it here.

    In Python 3.11 one may begin while C code reads a frame. What it calls (JAX has a callback) lets the other thread
    return from that frame, and what stands in its memory then is taken for a frame: an AttributeError of a dict, or
    the end of the process. From 3.12 on none begins there.
    """
    with _READING:
        begins = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if begins:
                gc.enable()


def _all_frames() -> Iterator[FrameType]:
    """The frames of all threads, each thread's innermost first."""
    return (frame for top in sys._current_frames().values() for frame in _stack(top))


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _driver_of(frame: FrameType) -> FrameType | None:
    """The generator of Keras for which the frame asks: itself, or one near above it, of an object that wraps."""
    for each in islice(_stack(frame), WRAPPERS_MOST):
        if each.f_code.co_flags & inspect.CO_GENERATOR and is_adapter(each):
            return each
    return None


def _enqueuer_of(frame: FrameType, sequence: object) -> FrameType | None:
    """The run of Keras 2's enqueuer, on a thread of its own, for which one of its workers asks in `frame`."""
    if frame.f_code.co_name != "get_index" or not is_of_keras(frame):
        return None
    with _no_collection():
        for each in _all_frames():
            if each.f_code.co_name != "_run" or not is_of_keras(each):
                continue
            enqueuer = each.f_locals.get("self")
            uid = getattr(enqueuer, "uid", None)
            if getattr(enqueuer, "sequence", None) is sequence and uid == frame.f_locals.get("uid"):
                return each
    return None


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
