"""`RemoteSequence`: a view of a dataset for Keras 2."""

from typing import Any

from tf_keras.callbacks import LambdaCallback
from tf_keras.utils import Sequence

from feedline.keras.combined import Combined
from feedline.keras.driven import Driven
from feedline.keras.remote import Remote


class _ForKeras2(Sequence):  # type: ignore[misc]  # tf_keras publishes no types
    """What Keras 2 knows a sequence by."""

    lambda_callback = LambdaCallback

    def _begin(self, ahead: int) -> tuple[str, int]:
        self.__dict__.update(workers=1, use_multiprocessing=False, max_queue_size=ahead)
        return "tf_keras", 1


class Combination(Combined, _ForKeras2):
    """What `RemoteSequence.map` and `feedline.tf_keras.zip` make."""


Combination.combination = Combination


class RemoteSequence(Remote, _ForKeras2):
    """`feedline.RemoteSequence` for `fit`, `evaluate` and `predict` of Keras 2, with the same arguments and methods.

    Leave `workers` of `fit` at 1: batches are read ahead all the same. With more, Keras' threads ask beside each other
    and each epoch is the same, but no more is read ahead than they ask for. Not with `use_multiprocessing=True`, which
    forks: a connection does not survive a fork. TensorFlow may keep a sequence that `fit` went through for as long as
    the process lives: close it, or use it with `with`.
    """

    combination = Combination
    """The class of what `map` and `feedline.keras.zip` make."""


def zip(*sequences: Driven) -> Any:  # noqa: A001, ANN401  # as of the built-in zip
    """One sequence of several, see `feedline.keras.zip`."""
    return Combination(sequences, None)
