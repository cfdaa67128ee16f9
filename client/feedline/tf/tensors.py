"""Batches of eager tensors, which are the memory that a batch was received into."""

from typing import Any

import tensorflow as tf

from feedline.reading.batch import Batch
from feedline.reading.converted import ConvertedFeed, arrays, built
from feedline.reading.feed import Feed
from feedline_wire.tensors import ALIGNMENT, Array


class Tensors(ConvertedFeed[Any]):  # Any: as nested as the dataset declares
    """Batches of eager tensors, epoch after epoch. Made by `Feed.tf`.

    A batch is what the dataset declares: a tensor, or a tuple or dict of tensors; with `remainder="pad"` a tuple that
    ends with the weights; with `with_ids`, `(batch, ids)`. They are handed over by DLPack, without a copy.
    """

    def __init__(self, feed: Feed, *, with_ids: bool = False) -> None:
        super().__init__(feed)
        self._with_ids = with_ids

    def convert(self, batch: Batch) -> Any:  # noqa: ANN401
        """The batch as tensors."""
        return built(batch.columns, [*map(_tensor, arrays(batch))], self.feed, with_ids=self._with_ids)


def over(feed: Feed, **arguments: Any) -> Tensors:  # noqa: ANN401  # those of Tensors
    """What `Feed.tf` gives."""
    return Tensors(feed, **arguments)


def _tensor(array: Array) -> Any:  # noqa: ANN401  # a tf.Tensor
    # TensorFlow's kernels count on the alignment; what a deferred transform made has numpy's own.
    if array.ctypes.data % ALIGNMENT or not array.size:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
