"""Batches as TensorFlow takes them: eager tensors without a copy, or a `tf.data.Dataset`.

for x, y in feedline.connect("loader:50051").feed(batch_size=64).tf():
    ...

model.fit(feedline.connect("loader:50051").feed(batch_size=64).tf_dataset(), epochs=3)
"""

from feedline_wire.extras import ExtraMissing, need

try:
    need(["tensorflow"], extra="tensorflow")
except ExtraMissing as missing:
    raise ExtraMissing(f"feedline.tf {missing}") from None

from feedline.tf.dataset import data
from feedline.tf.tensors import Tensors, over

__all__ = ["Tensors", "data", "over"]
