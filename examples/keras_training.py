"""A training with Keras that is killed in mid-epoch and continued by `SaveState`, to the same weights."""

import contextlib
import os
import tempfile
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

import keras
import numpy as np
from serving import digits, served

from feedline import RemoteSequence, SaveState

EPOCHS, BATCH, STOP_AT = 6, 32, (3, 20)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == STOP_AT:
            raise Killed


def new():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((8, 8)), *layers])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, served(digits(Path(temporary) / "digits")) as address:
        with RemoteSequence(address, batch_size=BATCH, seed=7) as train:
            undisturbed = new()
            undisturbed.fit(train, epochs=EPOCHS, verbose=0)

        run = Path(temporary) / "run"
        with RemoteSequence(address, batch_size=BATCH, seed=7) as train, contextlib.suppress(Killed):
            SaveState(run, train, every=10).fit(new(), epochs=EPOCHS, callbacks=[Kill()], verbose=0)

        with RemoteSequence(address, batch_size=BATCH, seed=7) as train:  # as in a new process
            model = new()
            history = SaveState(run, train, every=10).fit(model, epochs=EPOCHS, verbose=0)
        assert history.epoch[0] == STOP_AT[0], "it goes on in the epoch that it was in"
        for one, other in zip(model.get_weights(), undisturbed.get_weights(), strict=True):
            assert np.array_equal(one, other), "the weights are those of a training that was not stopped"

        with RemoteSequence(address, view="validation", batch_size=64) as validation:
            _, found = model.evaluate(validation, verbose=0)
        assert found > 0.95
    print(f"{found:.1%} of the held-out digits after {EPOCHS} epochs, killed in the fourth and continued")


if __name__ == "__main__":
    main()
