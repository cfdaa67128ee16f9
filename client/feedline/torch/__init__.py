"""Batches as PyTorch takes them: for your own loop and Lightning, for `DataLoader`, for accelerate and HF Trainer.

    for x, y in feedline.connect("loader:50051").feed(batch_size=64, rank="auto").torch(device="cuda"):
        ...

One client, one feed, one state: a place saved by any of these forms is one for all of them, and for a plain feed.
"""

from feedline_wire.extras import ExtraMissing, need

try:
    need(["torch"], extra="torch")
except ExtraMissing as missing:
    raise ExtraMissing(f"feedline.torch {missing}") from None

from feedline.torch.batches import Batches, over
from feedline.torch.iterable import IterableBatches
from feedline.torch.map_style import MapBatches, first
from feedline.torch.ranks import rank_and_world

__all__ = ["Batches", "IterableBatches", "MapBatches", "first", "over", "rank_and_world"]
