"""Batches as a Grain `IterDataset`: `.map(…)`, `grain.experimental.device_put`, checkpoints by `get_state`.

for x, y in feedline.grain.dataset(feedline.connect("loader:50051").feed(batch_size=64)):
    ...
"""

from feedline_wire.extras import ExtraMissing, need

try:
    need(["grain"], extra="grain")
except ExtraMissing as missing:
    raise ExtraMissing(f"feedline.grain {missing}") from None

from feedline.grain.batches import Batches, dataset

__all__ = ["Batches", "dataset"]
