"""What Keras can take as batches, said before training starts and not in the middle of an epoch.

Pure: values in, InvalidRequest or nothing out. The limits were measured on TensorFlow, JAX and torch.
"""

import operator
from collections.abc import Iterable

from feedline_wire.errors import InvalidRequest
from feedline_wire.structure import Structure
from feedline_wire.tensors import VARIES, Column


def check_parts(structure: Structure, remainder: str | None) -> None:
    """A batch is `(x,)`, `(x, y)` or `(x, y, sample_weight)`, and padding needs a weight to be marked by."""
    parts = len(structure) if isinstance(structure, tuple) else 1
    if not 1 <= parts <= 3:
        raise InvalidRequest(
            f"a batch of this dataset has {parts} parts, Keras takes (x,), (x, y) or (x, y, sample_weight); declare "
            f"the dataset with nested parts, for example ((x1, x2), y)"
        )
    if remainder == "pad" and parts == 1:
        raise InvalidRequest(
            "remainder='pad' marks padding by a sample weight of 0, which Keras takes only beside (x, y), and this "
            "dataset has no y; use remainder='short', 'drop' or 'wrap'"
        )


def check_shapes(columns: Iterable[Column], backend: str) -> None:
    """Keras on TensorFlow takes the shapes of the first two batches for those of all; only the rows may differ."""
    varying = [str(column) for column in columns if VARIES in column.shape]
    if varying and backend == "tensorflow":
        raise InvalidRequest(
            f"the shape of {', '.join(varying)} varies from batch to batch (where ? is), and Keras on TensorFlow "
            f"expects of all batches what the first two happen to have, so training could fail in the middle of an "
            f"epoch; make them one length on the loader, with the transforms truncate and pad, or train with "
            f"KERAS_BACKEND=jax or torch"
        )


def check_shards(shards: int, world: int) -> None:
    """The data is divided by Keras or by us, not by both."""
    if shards > 1 and world > 1:
        raise InvalidRequest(
            f"Keras divides this sequence among {shards} processes and world={world} divides it again, so most samples "
            f"would never be seen; leave rank and world out, or set auto_shard_dataset=False in Keras' distribution"
        )


def checked_epoch(epoch: int) -> int:
    """The number as an int."""
    number = operator.index(epoch)
    if number < 0:
        raise InvalidRequest(f"epoch is {number}; epochs count from 0")
    return number
