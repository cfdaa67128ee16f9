"""Form (c): a map-style dataset whose items are ready batches, for whoever chooses the indices himself."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.options import epoch_number
from feedline.reading.plan import EveryNth
from feedline.reading.readahead import ReadAhead
from feedline.reading.relay import RelayedReadAhead
from feedline.torch.ranks import world_size
from feedline.torch.workers import OwnFeed
from feedline_wire.errors import InvalidRequest


class MapBatches(Dataset):  # type: ignore[misc]  # torch is not installed where this is checked
    """Batch i of an epoch as item i, for whoever chooses indices himself: accelerate, HF Trainer, DistributedSampler.

    `DataLoader(MapBatches(feed), batch_size=1, collate_fn=feedline.torch.first)`, and in HF Trainer
    `data_collator=feedline.torch.first` with a batch size of 1. The feed is made without rank and world: each rank asks
    for batches of its own. The batches are shuffled already; `set_epoch(e)` makes them
    those of epoch e, also in persistent workers: accelerate and HF Trainer call it in a job of one process, in one of
    several it is yours to call (docs/torch.md). Without it every pass has those of the feed's epoch.
    """

    def __init__(self, feed: Feed, *, with_ids: bool = False) -> None:
        plan = feed.plan
        if feed.dataset.is_stream:
            raise InvalidRequest(f"{feed.dataset.name!r} is a stream: its batches have no numbers; use feed.torch()")
        if plan.world > 1:
            raise InvalidRequest(
                f"the feed is of rank {plan.rank} of {plan.world}, and here each rank chooses from the batches of the "
                f"whole view; make it without rank and world, or use feed.torch(), which reads this rank's"
            )
        self._own = OwnFeed(feed, with_ids=with_ids)
        self._epoch = torch.tensor(int(feed.state_dict()["epoch"])).share_memory_()
        self._following = _Following()
        _warn_of_repeated_batches(len(feed))

    def __len__(self) -> int:
        """Batches of the epoch."""
        return self._own.feed.plan.steps_in(int(self._epoch))

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401  # as nested as the dataset declares
        """Batch `index` of the epoch. Read ahead where indices follow each other at equal distances."""
        return self._own.tensors(self._following.batch(self._own, int(self._epoch), index))

    def set_epoch(self, epoch: int) -> None:
        """Let the items be the batches of this epoch."""
        self._epoch.fill_(epoch_number(epoch))

    def close(self) -> None:
        """Close the feed. Idempotent."""
        self._own.feed.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_following": _Following()}


class _Following:
    """Batches by number, fetched ahead once two steps from number to number were of one length."""

    def __init__(self) -> None:
        self._last, self._distance = -1, 0
        self._ahead: ReadAhead | RelayedReadAhead | None = None
        self._next: tuple[int, int, int] | None = None  # what comes out of it: in which process, epoch, number

    def batch(self, own: OwnFeed, epoch: int, index: int) -> Batch:
        step = own.feed.plan.step(epoch, index)
        distance = index - self._last if index > self._last else index + 1
        if self._next != (os.getpid(), epoch, index):
            if self._ahead is not None and own.process == os.getpid():
                self._ahead.close()
            is_second = distance == self._distance
            self._ahead = own.readahead(EveryNth(own.feed.plan, epoch, None, index, distance)) if is_second else None
        batch = own.fetch(step) if self._ahead is None else self._ahead.take()
        assert batch is not None
        self._last, self._distance, self._next = index, distance, (os.getpid(), epoch, index + distance)
        return batch


def first(items: Sequence[Any]) -> Any:  # noqa: ANN401
    """The one batch of a list: `collate_fn` or `data_collator` beside a batch size of 1."""
    (item,) = items
    return item


def _warn_of_repeated_batches(batches: int) -> None:
    world = world_size()
    if over := batches % world:
        warnings.warn(
            f"{batches} batches an epoch for {world} ranks: accelerate and DistributedSampler repeat {world - over} of "
            f"them so that all ranks have as many steps; to read none twice, leave {over} out: "
            f"torch.utils.data.Subset(MapBatches(feed), range({batches - over}))",
            stacklevel=3,
        )
