"""Batches of JAX arrays. `device_put` returns before the bytes are copied, so batches are put ahead of the step.

On the CPU JAX uses the memory that a batch was received into, which is never reused while an array of it is held.
"""

from typing import Any

import jax
import numpy as np

from feedline.reading.batch import Batch
from feedline.reading.converted import ConvertedFeed, arrays, built
from feedline.reading.feed import Feed
from feedline_wire.errors import InvalidRequest
from feedline_wire.tensors import Array


class Arrays(ConvertedFeed[Any]):  # Any: as nested as the dataset declares
    """Batches of JAX arrays, epoch after epoch. Made by `Feed.jax`.

    A batch is what the dataset declares: an array, or a tuple or dict of arrays (a pytree); with `remainder="pad"` a
    tuple that ends with the weights; with `with_ids`, `(batch, ids)`. `sharding` is that of every array: in a job of
    several processes each feed, made with its process' rank, brings the process' part of one global array. Up to
    `ahead` batches that have arrived are put on the devices before they are asked for.

    Reading raises InvalidRequest where a 64-bit integer does not fit JAX's 32 bits. Raises it at once where a sharding
    would meet a last batch of another size.
    """

    is_copying = True
    """Handing a batch over takes time of the trainer's: the stage `device`."""

    def __init__(self, feed: Feed, *, sharding: Any = None, ahead: int = 2, with_ids: bool = False) -> None:  # noqa: ANN401
        plan = feed.plan
        left = plan.samples % plan.stride
        if sharding is not None and plan.remainder == "short" and left:
            raise InvalidRequest(
                f"the last batch of the epoch has {left} samples of {plan.stride}, which the sharding does not divide "
                f"like the others; make the feed with remainder='drop' (leaves {left} out), 'pad' (weight 0) or 'wrap'"
            )
        super().__init__(feed, ahead=ahead)
        self._sharding = sharding
        self._with_ids = with_ids

    def convert(self, batch: Batch) -> Any:  # noqa: ANN401
        """The batch on the devices, or on its way there."""
        return built(batch.columns, [*map(self._put, arrays(batch))], self.feed, with_ids=self._with_ids)

    def _put(self, array: Array) -> Any:  # noqa: ANN401  # a jax.Array
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and not jax.config.jax_enable_x64:
            _check_fits(array)
        if self._sharding is None:
            return jax.device_put(array)
        return jax.make_array_from_process_local_data(self._sharding, array)


def over(feed: Feed, **arguments: Any) -> Arrays:  # noqa: ANN401  # those of Arrays
    """What `Feed.jax` gives."""
    return Arrays(feed, **arguments)


def _check_fits(array: Array) -> None:
    """JAX would cut the upper half off without a word."""
    fits = np.iinfo(np.uint32 if array.dtype.kind == "u" else np.int32)
    if array.size and (array.min() < fits.min or array.max() > fits.max):
        raise InvalidRequest(
            f"a column of {array.dtype.name} holds {array.min()} to {array.max()}, and JAX makes 32 bits of it; write "
            f"jax.config.update('jax_enable_x64', True) before the first array, or cast the column on the loader"
        )
