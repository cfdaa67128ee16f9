"""`SaveState`: saves a training with Keras 3, its weights and its place in the data, as one."""

from typing import Any

import numpy as np
from keras import ops
from keras.callbacks import Callback

from feedline.keras.saving import Saving


class SaveState(Saving, Callback):  # type: ignore[misc]  # keras publishes no types
    """Saves a training in a folder, its weights and its place in the data: after each epoch, and after `every` batches.

        saved = SaveState("run", train, every=500)
        saved.fit(model, epochs=20, validation_data=validation)

    The same line begins the training and, in a new process, continues it with the very next batch, in mid-epoch too.
    The optimizer and the random states of `Dropout` and the like are saved with the weights. With ranks, rank 0 saves
    and all of them restore; what is saved holds for any number of ranks and any batch size. Raises InvalidRequest if a
    training with this sequence cannot be continued, see `RemoteSequence.state_dict`.
    """

    def to_numpy(self, variable: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401  # of Keras
        """The values of a variable."""
        return np.asarray(ops.convert_to_numpy(variable))
