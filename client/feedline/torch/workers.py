"""A feed for datasets that a DataLoader takes into worker processes.

No connection is shared by processes: a spawned worker connects anew, and a forked one has a process that does.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch

from feedline.reading.batch import Batch
from feedline.reading.converted import arrays, built
from feedline.reading.feed import Feed
from feedline.reading.plan import Step
from feedline.reading.readahead import ReadAhead
from feedline.reading.relay import Relay, RelayedReadAhead


class OwnFeed:
    """A feed whose batches come over a connection of this process' own."""

    def __init__(self, feed: Feed, *, with_ids: bool) -> None:
        self.feed = feed
        """For its plan and its place; in a forked process its own connection is of no use."""
        self.with_ids = with_ids
        self.process = os.getpid()
        self._relay: Relay | None = None

    def fetch(self, step: Step) -> Batch:
        """See `Feed.fetch`."""
        relay = self._relayed()
        return self.feed.fetch(step) if relay is None else relay.fetch(step)

    def readahead(self, steps: Iterable[Step]) -> ReadAhead | RelayedReadAhead:
        """See `Feed.readahead`. The steps can be pickled."""
        relay = self._relayed()
        return self.feed.readahead(steps) if relay is None else relay.readahead(steps, self.feed.state_dict())

    def tensors(self, batch: Batch) -> Any:  # noqa: ANN401  # as nested as the dataset declares
        """The batch as tensors."""
        return built(batch.columns, [*map(torch.from_numpy, arrays(batch))], self.feed, with_ids=self.with_ids)

    def _relayed(self) -> Relay | None:
        if self.process != os.getpid():
            self._relay, self.process = Relay(self.feed), os.getpid()
        return self._relay

    def __reduce__(self) -> tuple[object, ...]:
        return _own_feed, (self.feed, self.with_ids)


def _own_feed(feed: Feed, with_ids: bool) -> OwnFeed:
    return OwnFeed(feed, with_ids=with_ids)
