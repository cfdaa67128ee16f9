"""What Keras goes through, of either generation: batches by index, the runs of Keras, copies of nothing, callbacks.

`seq[i]` is the same batch for every caller, from any thread, any number of times: batch i in dataset order. The one
exception is a training pass of `fit`, where it is a batch of that pass' own shuffled plan. Which order Keras will ask
in is used only to read ahead (docs/keras.md). Imports no framework: each door adds the base class of its Keras.
"""

import operator
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from types import FrameType
from typing import Any, ClassVar, Self, overload

from feedline.keras import caller
from feedline.keras.caller import Run
from feedline.keras.statistics import SequenceStatistics
from feedline.keras.steps import Steps, Trained
from feedline.reading.plan import Cursor
from feedline_wire.verdict import Verdict

STAY = {
    "workers": "Keras' own workers lose and repeat batches; use prefetch= and more loader workers",
    "use_multiprocessing": "the work is done by the loaders' processes",
    "max_queue_size": "Keras makes no queue here; use prefetch=",
}
"""What Keras may not change, and why: batches are fetched in parallel already (docs/keras.md)."""


class Driven(ABC):
    """A sequence of batches for `fit`, `evaluate` and `predict`. Thread-safe."""

    lambda_callback: ClassVar[Any]
    """Keras' `LambdaCallback`."""
    combination: ClassVar[Any]
    """The class of what `map` and `zip` make."""
    rank: int
    """Which trainer of the job this is."""
    max_queue_size: int
    """What is read ahead to begin with."""
    _begin: Callable[[int], tuple[str, int]]
    """Makes the base class of the door's Keras, with this `max_queue_size`; backend and processes, see `Client`."""
    _warned: set[str]

    def __len__(self) -> int:
        """Batches of a pass."""
        return self._steps

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, ...]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Batch `index`: `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Blocks until it is there, `timeout_s` at most.

        In dataset order, except where Keras itself asks in a training pass. A slice is a list of batches, read ahead.
        Raises IndexError if there is no such batch, LoaderStalled or LoaderUnavailable after `timeout_s`, and what the
        loader says is wrong with the batch.
        """
        # A subclass with a __getitem__ of its own may change batches in place, so its batches are its alone.
        overridden = self._is_overridden
        if isinstance(index, slice):
            if overridden:
                raise TypeError(
                    f"{type(self).__name__} has a __getitem__ of its own, which takes one index; for several batches "
                    f"write [sequence[i] for i in range(…)]"
                )
            return list(self._each(range(*index.indices(len(self)))))
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no batch {number}; this sequence has {len(self)}")
        frame = caller.asking_frame(self)
        keep = caller.is_adapter(frame) and not overridden
        run = caller.run_of(frame, self, overridden=overridden, iteration=Driven._each.__code__)
        return self._answer(run, number % len(self), keep=keep, paired=False)

    def __iter__(self) -> Generator[tuple[Any, ...], None, None]:
        """All batches in dataset order, read ahead."""
        return self._each(range(len(self)))

    def _each(self, indices: range) -> Generator[tuple[Any, ...], None, None]:
        # `indices` is read by caller.Run, as the order of this run.
        try:
            for index in indices:
                yield self[index]
        finally:
            self._leave(sys._getframe())

    @property
    def _is_overridden(self) -> bool:
        return type(self).__getitem__ is not Driven.__getitem__

    # ---- other batches of these ----

    def map(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401  # of the door's class
        """The same sequence, of `function(*batch)` instead of each batch: `train.map(lambda x, y: (x / 255, y))`.

        For `fit`, `evaluate` and `predict` alike, read ahead and mixed as this one. `function` gets arrays that it may
        change in place and returns `x`, `(x, y)` or `(x, y, sample_weight)`; the thread that asks runs it, so what
        takes long is done on the loader instead. Shares the connection: closing one closes both. Raises InvalidRequest
        of a subclass with a `__getitem__` of its own.
        """
        return self.combination([self], function)

    # ---- epochs ----

    def follow_epochs(self) -> Any:  # noqa: ANN401  # a callback of the door's Keras
        """A callback that gives each epoch of `fit` the plan of its own number, also with `initial_epoch`.

        Without it passes count from 0 in every process: each has a new plan, but a restarted training repeats the
        first ones.
        """
        return self.lambda_callback(on_epoch_begin=lambda epoch, logs=None: self.set_epoch(epoch))

    # ---- what is seen ----

    def trained(self, batch: int) -> Trained:
        """Which batch `fit` trained as number `batch` of the pass under way: its key and the ids of its samples.

        For `on_train_batch_end(batch, logs)` of a callback: `print(train.trained(batch).key)` where the loss jumps, and
        `feedline peek TARGET --batch-key KEY` shows what it was. With `steps_per_epoch`, count on over the epochs of a
        pass. Raises InvalidRequest where the batch was not given, or too long ago.
        """
        return self._all_steps[0].trained(batch)

    def show_why(self) -> Any:  # noqa: ANN401  # likewise
        """A callback that prints `why()` after each epoch of `fit`."""
        return self.lambda_callback(on_epoch_end=lambda epoch, logs=None: print(self.why(), flush=True))  # noqa: T201

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401  # any attribute
        if name in STAY:
            self._stay(name, value, stacklevel=3)
        else:
            super().__setattr__(name, value)

    def _stay(self, name: str, value: object, *, stacklevel: int) -> None:
        """Warn, once, that something stays what it is."""
        if value != (stays := getattr(self, name)) and name not in self._warned:
            self._warned.add(name)
            message = f"{name} of a RemoteSequence stays {stays}, not {value}: {STAY[name]}"
            warnings.warn(message, stacklevel=stacklevel)

    # ---- what a kind of sequence is ----

    @property
    @abstractmethod
    def _steps(self) -> int:
        """Batches of a pass."""

    @property
    @abstractmethod
    def _all_steps(self) -> list[Steps]:
        """Of each view that is read."""

    @abstractmethod
    def _answer(self, run: Run | None, index: int, *, keep: bool, paired: bool) -> tuple[Any, ...]:
        """Batch `index` of a run. `keep`: see `Passes.answer`. `paired`: each row must be that of its position."""

    @abstractmethod
    def _leave(self, frame: FrameType) -> None:
        """The run of this frame asks for nothing more."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """The next training pass uses the plan of `epoch`, those after it the plans that follow."""

    @abstractmethod
    def state_dict(self, epoch: int, trained: int = 0) -> dict[str, Any]:
        """Where a training is that has trained so many batches of the pass of `epoch`."""

    @abstractmethod
    def place_of(self, state: Mapping[str, object]) -> Cursor:
        """The epoch that a state was saved in, and how many of its positions were trained."""

    @abstractmethod
    def rest(self, state: Mapping[str, object]) -> "Driven":
        """What is left of the epoch that a state was saved in."""

    @property
    @abstractmethod
    def stats(self) -> SequenceStatistics:
        """Counters until now."""

    @abstractmethod
    def why(self) -> Verdict:
        """What holds `fit` back, of about the last minute: `print(train.why())` is one sentence with a remedy."""

    @abstractmethod
    def close(self) -> None:
        """End the connection; threads that wait for a batch get Closed. Idempotent."""
