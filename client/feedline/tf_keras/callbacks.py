"""`SaveState` and `WaitingTime` for Keras 2."""

from typing import Any

import numpy as np
from tf_keras.callbacks import Callback

from feedline.keras.driven import Driven
from feedline.keras.saving import Saving
from feedline.keras.waiting import NAME, Waiting


class SaveState(Saving, Callback):  # type: ignore[misc]  # tf_keras publishes no types
    """`feedline.SaveState` for Keras 2: weights, optimizer and place in the data, saved as one.

    States of layers that draw random numbers are not saved: TensorFlow keeps them to itself.
    """

    def to_numpy(self, variable: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401  # of Keras
        """The values of a variable."""
        return np.asarray(variable)


class WaitingTime(Waiting, Callback):  # type: ignore[misc]  # tf_keras publishes no types
    """`feedline.keras.WaitingTime` for Keras 2."""

    def __init__(self, sequence: Driven | None = None, *, name: str = NAME) -> None:
        super().__init__(sequence, name=name)
        self._supports_tf_logs = True  # the dict that it adds to is that of the progress bar
