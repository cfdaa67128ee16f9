"""feedline: a data loader that streams ready batches from loader servers.

    model.fit(feedline.RemoteSequence("loader:50051"))

    for batch in feedline.connect("loader:50051").epoch(3, start=118):
        x, y = batch

Importing it imports no framework; `RemoteSequence` brings keras in when it is first named.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from feedline.batch import Batch
from feedline.feed import Epoch, Feed
from feedline.loader import Loader, connect
from feedline.tally import EpochIncomplete
from feedline_wire.errors import (
    BadSample,
    BatchKillsWorkers,
    Closed,
    DataError,
    DatasetChanged,
    FeedlineError,
    InvalidRequest,
    LoaderBroken,
    LoaderBusy,
    LoaderDraining,
    LoaderStalled,
    LoaderUnavailable,
    NotAllowed,
    NotTrusted,
    ProtocolMismatch,
)

if TYPE_CHECKING:
    from feedline.keras import RemoteSequence

__version__ = version("feedline")

__all__ = [
    "BadSample",
    "Batch",
    "BatchKillsWorkers",
    "Closed",
    "DataError",
    "DatasetChanged",
    "Epoch",
    "EpochIncomplete",
    "Feed",
    "FeedlineError",
    "InvalidRequest",
    "Loader",
    "LoaderBroken",
    "LoaderBusy",
    "LoaderDraining",
    "LoaderStalled",
    "LoaderUnavailable",
    "NotAllowed",
    "NotTrusted",
    "ProtocolMismatch",
    "RemoteSequence",
    "connect",
]


def __getattr__(name: str) -> type["RemoteSequence"]:
    if name == "RemoteSequence":
        from feedline.keras import RemoteSequence

        return RemoteSequence
    raise AttributeError(f"module 'feedline' has no attribute {name!r}")
