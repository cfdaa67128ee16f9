"""feedline: a data loader that streams ready batches from loader servers.

    model.fit(feedline.RemoteSequence("loader:50051"))

    for batch in feedline.connect("loader:50051").epoch(3, start=118):
        x, y = batch

Importing it imports no framework; `RemoteSequence` and `SaveState` bring keras in when they are first named.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from feedline.reading.batch import Batch
from feedline.reading.epoch import Epoch, EpochIncomplete
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader, connect
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
from feedline_wire.extras import ExtraMissing, need

if TYPE_CHECKING:
    from feedline.keras.resume import SaveState
    from feedline.keras.sequence import RemoteSequence

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
    "SaveState",
    "connect",
]


_OF_KERAS = {"RemoteSequence": "feedline.keras.sequence", "SaveState": "feedline.keras.resume"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a class, which the annotations above name
    if name not in _OF_KERAS:
        raise AttributeError(f"module 'feedline' has no attribute {name!r}")
    try:
        need(["keras"], extra="keras")
    except ExtraMissing as missing:
        raise ExtraMissing(f"feedline.{name} {missing}") from None
    return getattr(import_module(_OF_KERAS[name]), name)
