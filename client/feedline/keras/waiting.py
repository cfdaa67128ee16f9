"""The share of each epoch in which the trainer stood still for batches, as Keras reports a metric; without Keras."""

import time
from typing import Any

from feedline.keras import caller
from feedline.keras.driven import Driven
from feedline.keras.saving import steps_at_once
from feedline.keras.steps import Steps
from feedline_wire.errors import InvalidRequest

NAME = "waiting"
"""How the share is called in the progress bar, in `history` and in TensorBoard."""


class Waiting:
    """What a `WaitingTime` is, in either Keras."""

    model: Any
    """Set by Keras."""

    def __init__(self, sequence: Driven | None = None, *, name: str = NAME) -> None:
        super().__init__()
        self._sequence = sequence
        self._name = name
        self._steps: list[Steps] = []
        self._began = self._ended = 0.0
        self._at_once = 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the sequence that `fit` goes through. Raises InvalidRequest where it is none of feedline's."""
        adapter = caller.fit_of_caller()
        found = caller.sequence_of(adapter) if self._sequence is None else self._sequence
        if not isinstance(found, Driven):
            if self._sequence is not None:
                raise InvalidRequest(
                    f"WaitingTime has got {found!r}, a {type(found).__name__}; name the sequence that is waited for: "
                    f"WaitingTime(train)"
                )
            what = "something that is no sequence" if found is None else f"a {type(found).__name__}"
            raise InvalidRequest(
                f"fit goes through {what}, in which WaitingTime "
                f"finds no sequence of feedline; name the one that is waited for: WaitingTime(train)"
            )
        self._steps = found._all_steps
        # Not at each step: on JAX whoever looks at the model there takes its state away from the step under way.
        self._at_once = steps_at_once(self.model)
        if adapter is not None:
            for steps in self._steps:
                steps.begin_fit(adapter)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The clock begins."""
        for steps in self._steps:
            steps.begin_epoch()
        self._began = self._ended = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A step is done: the share until now, for the progress bar."""
        for steps in self._steps:
            steps.finish(self._at_once)
        self._ended = time.monotonic()
        self._report(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The share of the epoch, up to its last step: the validation is not in it."""
        self._report(logs)

    def _report(self, logs: dict[str, Any] | None) -> None:
        if logs is not None:
            waited, elapsed = sum(steps.waited_s for steps in self._steps), self._ended - self._began
            logs[self._name] = min(waited / elapsed, 1.0) if elapsed > 0 else 0.0
