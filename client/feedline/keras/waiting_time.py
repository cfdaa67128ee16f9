"""`WaitingTime`: a callback of Keras 3 that reports how much of each epoch was waited for batches."""

from keras.callbacks import Callback

from feedline.keras.waiting import Waiting


class WaitingTime(Waiting, Callback):  # type: ignore[misc]  # keras publishes no types
    """Reports the share of each epoch that the trainer waited for batches: 0 is never, 1 always.

        model.fit(train, callbacks=[feedline.keras.WaitingTime()])

    It is `waiting` in Keras' progress bar and in `history`, and so in TensorBoard, W&B and CSVLogger where those stand
    behind it in the list. Validation is not in it. On TensorFlow, which asks ahead, a wait counts from the end of the
    step before it. `sequence` is found by itself, except in a wrapper of your own; `name` is for two of them. Raises
    InvalidRequest, when `fit` begins, where it finds no sequence of feedline.
    """

    async_safe = True
    """Keras need not wait for the device after each step because of it."""
