"""`feedline demo-train`: a trainer as people write them: a small Keras model, two RemoteSequences, `model.fit`.

The only module of the command line that imports keras.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from feedline.cli.arguments import add_target, connected, credentials, positive
from feedline_wire.command_line import Command
from feedline_wire.extras import ExtraMissing, pip_install
from feedline_wire.text import many, share

if TYPE_CHECKING:
    import keras

EPILOG = """\
The loader serves the demo's digits: views `train` and `validation`, batches (x, y).

examples:
  feedline demo-train 127.0.0.1:50051
  KERAS_BACKEND=torch feedline demo-train loader:50051
"""

CODES = ("validation accuracy is 95 % or more", "it is less or something failed")

EPOCHS = 12
"""Six seeds tried reached 97.3 to 98.3 %."""

BATCH_SIZE = 32

WANTED_ACCURACY = 0.95
"""What the demo promises; a linear model does not get there."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    parser.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help=f"default {EPOCHS}")


def run(args: argparse.Namespace) -> int:
    """Train, report, and judge the accuracy; the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reports its build on standard error otherwise
    try:
        import keras
    except ImportError as error:
        raise ExtraMissing(
            f"needs Keras and one of its backends ({error}); install with: {pip_install('demo')}"
        ) from error
    from feedline.keras.sequence import RemoteSequence

    keras.utils.set_random_seed(0)
    secure = credentials(args)
    with (
        connected(args) as loader,
        RemoteSequence(args.target, view="train", batch_size=BATCH_SIZE, **secure) as digits,
        RemoteSequence(args.target, view="validation", batch_size=BATCH_SIZE, **secure) as held_out,
    ):
        views = loader.dataset().views
        trained = _model().fit(
            digits,
            validation_data=held_out,
            epochs=args.epochs,
            verbose=2,  # pyright: ignore[reportArgumentType] - keras has no types; a str is guessed from its default
        )
        stats = digits.stats
    accuracy = float(trained.history["val_accuracy"][-1])
    samples = args.epochs * views["train"]
    print(
        f"validation accuracy {share(accuracy)} on {many(views['validation'])} digits after {args.epochs} epochs\n"
        f"{many(samples)} samples in {stats.passes_s:.1f} s of training: {many(samples / stats.passes_s)} samples/s\n"
        f"the trainer waited for data {share(stats.waiting_share)} of that time"
    )
    if accuracy < WANTED_ACCURACY:
        print(
            f"feedline demo-train: that is less than {share(WANTED_ACCURACY)}; train longer: --epochs", file=sys.stderr
        )
        return 1
    return 0


def _model() -> "keras.Model":
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


COMMAND = Command("demo-train", "train a small Keras model on the demo's digits", run, declare, EPILOG, CODES)
