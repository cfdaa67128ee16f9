"""Training with Keras that may be killed at any moment: the weights and the place in the data, saved as one.

`state.json` is written last, in one step, and names the weights that belong to it. So whatever interrupts a save, what
the folder holds is one moment of the training, and no batch is trained twice or left out.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import Model, Variable, ops
from keras.callbacks import Callback, History

from feedline.keras.sequence import RemoteSequence
from feedline_wire.errors import InvalidRequest

STATE = "state.json"

WEIGHTS = ".weights.h5"
"""How Keras wants the name of such a file to end."""

log = logging.getLogger("feedline")


class SaveState(Callback):  # type: ignore[misc]  # keras publishes no types
    """Saves a training in a folder, its weights and its place in the data: after each epoch, and after `every` batches.

        saved = SaveState("run", train, every=500)
        saved.fit(model, epochs=20, validation_data=validation)

    The same line begins the training and, in a new process, continues it with the very next batch, in mid-epoch too.
    The optimizer and the random states of `Dropout` and the like are saved with the weights. With ranks, rank 0 saves
    and all of them restore; what is saved holds for any number of ranks and any batch size. Raises InvalidRequest if a
    training with this sequence cannot be continued, see `RemoteSequence.state_dict`.
    """

    def __init__(self, folder: str | os.PathLike[str], sequence: RemoteSequence, *, every: int | None = None) -> None:
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
        model: Model,
        *,
        epochs: int,
        callbacks: Sequence[Callback] = (),
        **arguments: Any,  # noqa: ANN401  # whatever fit takes
    ) -> History:
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
        history: History = model.fit(
            self._sequence, epochs=epochs, initial_epoch=min(epoch, epochs), callbacks=with_self, **arguments
        )
        return history if begun is None else _joined(begun, history)

    def restore(self, model: Model) -> tuple[int, Mapping[str, object]]:
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
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)  # else Keras would leave out what was saved of it
        model.load_weights(self._folder / weights)
        _put_back(random, model)
        return place.epoch, state

    # ---- called by Keras ----

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that Keras counts the sequence's batches. Raises InvalidRequest if not."""
        params: Any = self.params  # for type checkers None, like the model; not when Keras calls
        steps = params.get("steps")
        if steps != len(self._running):
            raise InvalidRequest(
                f"fit goes through {steps} batches an epoch and the sequence has {len(self._running)}: with "
                f"steps_per_epoch SaveState cannot tell what was trained; leave it out"
            )
        model: Any = self.model
        self._at_once = model.steps_per_execution

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
        model: Any = self.model
        self._folder.mkdir(parents=True, exist_ok=True)
        state = self._running.state_dict(self._epoch, self._trained)
        # A name of its own: the weights that are named now stay whole until others are.
        weights = f"weights-{1 + max(map(_number, self._folder.glob(f'weights-*{WEIGHTS}')), default=0)}{WEIGHTS}"
        model.save_weights(self._folder / weights, overwrite=True)
        _put(self._folder / weights)
        new = self._folder / f"{STATE}.new"
        random = [np.asarray(ops.convert_to_numpy(each)).tolist() for each in _random(model)]
        new.write_text(json.dumps({"state": state, "weights": weights, "random": random}, indent=2) + "\n")
        _put(new)
        new.replace(self._folder / STATE)
        _put(self._folder)
        for old in self._folder.glob(f"weights-*{WEIGHTS}"):
            if old.name != weights:
                old.unlink(missing_ok=True)


def _number(weights: Path) -> int:
    number = weights.name.removeprefix("weights-").removesuffix(WEIGHTS)
    return int(number) if number.isdecimal() else 0


def _random(model: Model) -> list[Variable]:
    """The states of what draws random numbers, which Keras does not save with the weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _put_back(random: Sequence[Any], model: Model) -> None:
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


def _joined(first: History, second: History) -> History:
    """One history of two fits, in the second's place."""
    second.epoch = [*first.epoch, *second.epoch]
    names = dict.fromkeys([*first.history, *second.history])
    second.history = {name: [*first.history.get(name, []), *second.history.get(name, [])] for name in names}
    return second
