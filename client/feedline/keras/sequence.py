"""`RemoteSequence`: a view of a dataset for Keras 3, `model.fit(RemoteSequence("loader:50051"))`."""

import os
import sys
from typing import Any

import keras
from keras.backend import backend
from keras.callbacks import LambdaCallback
from keras.utils import PyDataset

from feedline.keras.combined import Combined
from feedline.keras.driven import Driven
from feedline.keras.remote import Remote
from feedline_wire.errors import InvalidRequest

DIVIDES_SEQUENCES_FROM = (3, 16)
"""The first Keras that divides a PyDataset among the processes of a job."""


class _ForKeras3(PyDataset):  # type: ignore[misc]  # keras publishes no types
    """What Keras 3 knows a sequence by."""

    lambda_callback = LambdaCallback

    def _begin(self, ahead: int) -> tuple[str, int]:
        name: str = backend()
        if name == "tensorflow" and os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in {"1", "true"}:
            raise InvalidRequest(
                "TF_USE_LEGACY_KERAS is set, so tf.keras is Keras 2, and its fit cannot take a sequence of Keras 3; "
                "write `from feedline.tf_keras import RemoteSequence`, or unset it to train with Keras 3"
            )
        PyDataset.__init__(self, workers=1, use_multiprocessing=False, max_queue_size=ahead)
        return name, processes() if name == "jax" else 1


def processes() -> int:
    """Processes of a JAX job that train one model in step. Raises InvalidRequest where Keras takes no sequence."""
    jax: Any = sys.modules.get("jax")
    is_initialized = getattr(getattr(jax, "distributed", None), "is_initialized", None)  # of JAX 0.4.34 and later
    # Asked otherwise, JAX would start its devices, which has to wait until the job is complete.
    if is_initialized is None or not is_initialized():
        return 1
    count = int(jax.process_count())
    divides = getattr(keras.distribution.distribution(), "auto_shard_dataset", False)
    if count > 1 and divides and tuple(map(int, keras.__version__.split(".")[:2])) < DIVIDES_SEQUENCES_FROM:
        raise InvalidRequest(
            f"Keras {keras.__version__} divides nothing but a tf.data.Dataset among {count} processes, and its fit "
            f"refuses a sequence; let feedline divide: keras.distribution.DataParallel(auto_shard_dataset=False), and "
            f"RemoteSequence(…, rank=jax.process_index(), world=jax.process_count(), remainder='drop')"
        )
    return count


class Combination(Combined, _ForKeras3):  # pyright: ignore[reportIncompatibleVariableOverride]  # Keras has a property
    """What `RemoteSequence.map` and `feedline.keras.zip` make."""


Combination.combination = Combination


class RemoteSequence(Remote, _ForKeras3):  # pyright: ignore[reportIncompatibleVariableOverride]  # likewise
    """A view of a served dataset, for `model.fit`, `evaluate` and `predict`. Needs no flags. Thread-safe.

    `target` names the loaders: `"loader:50051"`, several of them, or `"dns:///name:port"`. `batch_size` None is 32, or
    the size of the batches that the dataset's own code makes on the loader. `order` is that of the training passes of
    `fit`, each with a new plan of the whole view ("shuffle" by default; docs/orders.md); everything else (`evaluate`,
    `predict`, validation, `fit(shuffle=False)`, `seq[i]` in your code) is in dataset order. `remainder` says what
    becomes of the samples that do not fill a batch: a `"short"` last batch (the default: Keras takes it, nothing is
    lost or repeated), `"drop"`, `"pad"` (a full batch, padding at sample weight 0) or `"wrap"` (filled from the next
    epoch). `prefetch` batches and `prefetch_bytes` bytes bound what is read ahead in each pass; no wait is longer than
    `timeout_s` seconds. `connections`, `checksum`, `compression`, `ca`, `certificate`, `key`, `server_name`, `token`,
    `token_file`, `insecure`, `fingerprint` and `traceparent` are those of `feedline.connect`. `workers`,
    `use_multiprocessing` and `max_queue_size` change nothing but a warning: code that had a `PyDataset` may leave them.

    Blocks until a loader answered. Raises LoaderUnavailable after `connect_timeout_s` seconds (0: when each address was
    tried once), and InvalidRequest if the arguments make no sense together or Keras could not use the batches.
    """

    combination = Combination
    """The class of what `map` and `feedline.keras.zip` make."""


def zip(*sequences: Driven) -> Any:  # noqa: A001, ANN401  # as of the built-in zip
    """One sequence of several: batch i is the tuple of their batches i, which belong together row by row.

    `zip(images, labels)` of two datasets with one part each is `(x, y)`; of batches with several parts it is a tuple of
    tuples, for `map` to put in order. Mixed, read ahead and continued as each of them. Raises InvalidRequest where
    their samples, batch sizes, orders or seeds differ.
    """
    return Combination(sequences, None)
