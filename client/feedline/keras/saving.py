"""Training with Keras that may be killed at any moment: the weights and the place in the data, saved as one.

`state.json` is written last, in one step, and names the weights that belong to it. So whatever interrupts a save, what
the folder holds is one moment of the training, and no batch is trained twice or left out. Imports no framework: each
door adds the base class of its Keras.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feedline.keras.driven import Driven
from feedline_wire.errors import InvalidRequest

STATE = "state.json"

WEIGHTS = ".weights.h5"
"""How Keras wants the name of such a file to end."""

log = logging.getLogger("feedline")


class Saving:
    """What a `SaveState` is, in either Keras."""

    model: Any
    """Set by Keras."""
    params: Any
    """Likewise."""

    def __init__(self, folder: str | os.PathLike[str], sequence: Driven, *, every: int | None = None) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise InvalidRequest(f"every is {every}; it is the number of batches between two saves, at least 1")
        sequence.state_dict(0)
        self._folder = Path(folder)
        self._sequence = self._running = sequence  # the whole, and what fit goes through now
        self._every = every
        self._epoch = self._trained = self._unsaved = 0
        self._at_once = 1  # batches between two calls

    def __repr__(self) -> str:
        return f"<SaveState {self._folder} epoch={self._epoch} trained={self._trained}>"

    def fit(
        self,
        model: Any,  # noqa: ANN401  # a model of the door's Keras, as are the callbacks and the history
        *,
        epochs: int,
        callbacks: Sequence[Any] = (),
        **arguments: Any,  # noqa: ANN401  # whatever fit takes
    ) -> Any:  # noqa: ANN401
        """`model.fit` over the sequence, from where the folder says that the training is; the arguments are fit's.

        What is left of an epoch is a `fit` of its own, because Keras asks for the length of a sequence once a `fit`.
        Returns the history of this process. Raises what `restore` raises.
        """
        epoch, state = self.restore(model)
        with_self = [*callbacks, self]
        begun: Any = None  # a History
        if self._sequence.place_of(state).offset and epoch < epochs:
            with self._sequence.rest(state) as self._running:
                begun = model.fit(
                    self._running, epochs=epoch + 1, initial_epoch=epoch, callbacks=with_self, **arguments
                )
            self._running = self._sequence
            epoch += 1
            if model.stop_training:
                return begun
        history = model.fit(
            self._sequence, epochs=epochs, initial_epoch=min(epoch, epochs), callbacks=with_self, **arguments
        )
        return history if begun is None else _joined(begun, history)

    def restore(self, model: Any) -> tuple[int, Mapping[str, object]]:  # noqa: ANN401
        """Load the weights that were saved, if any were. Returns the epoch to go on with, and the state they belong to.

        For code that calls `model.fit` itself: the epoch is `initial_epoch`, and `RemoteSequence.rest` takes the state.
        Raises InvalidRequest or DatasetChanged if it was saved on something else.
        """
        path = self._folder / STATE
        if not path.exists():
            return 0, self._sequence.state_dict(0)
        try:
            saved = json.loads(path.read_text())
            state, weights, random = dict(saved["state"]), str(saved["weights"]), list(saved["random"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{path} is not what SaveState writes ({error!r}); give another folder, or delete it to start anew"
            ) from error
        place = self._sequence.place_of(state)
        if not model.built:
            model(self._sequence[0][0])
        optimizer = model.optimizer
        if optimizer is not None and not hasattr(optimizer, "build"):
            raise InvalidRequest(
                f"{type(optimizer).__module__}.{type(optimizer).__name__} is not saved with the weights, so a training "
                f"could not be continued as it was; use tf_keras.optimizers.{type(optimizer).__name__}, not legacy"
            )
        # In Keras 2 it is `_built`, once it is.
        if optimizer is not None and not getattr(optimizer, "built", getattr(optimizer, "_built", False)):
            optimizer.build(model.trainable_variables)  # else Keras would leave out what was saved of it
        model.load_weights(self._folder / weights)
        _put_back(random, model)
        return place.epoch, state

    def to_numpy(self, variable: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401  # of the door's Keras
        """The values of a variable."""
        raise NotImplementedError

    # ---- called by Keras ----

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that Keras counts the sequence's batches. Raises InvalidRequest if not."""
        steps = self.params.get("steps")
        if steps != len(self._running):
            raise InvalidRequest(
                f"fit goes through {steps} batches an epoch and the sequence has {len(self._running)}: with "
                f"steps_per_epoch SaveState cannot tell what was trained; leave it out"
            )
        self._at_once = steps_at_once(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the epoch the plan of its number."""
        self._running.set_epoch(epoch)
        self._epoch, self._trained, self._unsaved = epoch, 0, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count what was trained. Not by `batch`: with `steps_per_execution` Keras versions mean different ones."""
        trained = min(self._trained + self._at_once, len(self._running))
        self._unsaved += trained - self._trained
        self._trained = trained
        if self._every is not None and self._unsaved >= self._every:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save; where training was stopped in mid-epoch, that place."""
        self._save()

    # ---- the folder ----

    def _save(self) -> None:
        self._unsaved = 0
        if self._sequence.rank:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = self._running.state_dict(self._epoch, self._trained)
        # A name of its own: the weights that are named now stay whole until others are.
        weights = f"weights-{1 + max(map(_number, self._folder.glob(f'weights-*{WEIGHTS}')), default=0)}{WEIGHTS}"
        self.model.save_weights(self._folder / weights, overwrite=True)
        _put(self._folder / weights)
        new = self._folder / f"{STATE}.new"
        random = [self.to_numpy(each).tolist() for each in _random(self.model)]
        new.write_text(json.dumps({"state": state, "weights": weights, "random": random}, indent=2) + "\n")
        _put(new)
        new.replace(self._folder / STATE)
        _put(self._folder)
        for old in self._folder.glob(f"weights-*{WEIGHTS}"):
            if old.name != weights:
                old.unlink(missing_ok=True)


def steps_at_once(model: Any) -> int:  # noqa: ANN401
    """Steps between two calls of `on_train_batch_end`."""
    steps = getattr(model, "steps_per_execution", None) or getattr(model, "_steps_per_execution", None)
    return 1 if steps is None else int(steps)


def _number(weights: Path) -> int:
    number = weights.name.removeprefix("weights-").removesuffix(WEIGHTS)
    return int(number) if number.isdecimal() else 0


def _random(model: Any) -> list[Any]:  # noqa: ANN401
    """The states of what draws random numbers, which Keras does not save with the weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _put_back(random: Sequence[Any], model: Any) -> None:  # noqa: ANN401
    states = _random(model)
    if len(states) != len(random):
        log.warning(
            "the model has %d layers that draw random numbers, and had %d when it was saved: they begin anew",
            len(states),
            len(random),
        )
        return
    for state, value in zip(states, random, strict=True):
        state.assign(value)


def _put(path: Path) -> None:
    """Flush it to the disk, so that a machine that loses power does not keep the name without what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _joined(first: Any, second: Any) -> Any:  # noqa: ANN401  # two `History`
    """One history of two fits, in the second's place."""
    second.epoch = [*first.epoch, *second.epoch]
    names = dict.fromkeys([*first.history, *second.history])
    second.history = {name: [*first.history.get(name, []), *second.history.get(name, [])] for name in names}
    return second
