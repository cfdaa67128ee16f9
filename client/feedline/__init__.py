"""feedline: a data loader that streams ready batches from loader servers.

    model.fit(feedline.RemoteSequence("loader:50051"))

    for batch in feedline.connect("loader:50051").epoch(3, start=118):
        x, y = batch

Importing it imports no framework; `RemoteSequence` and `SaveState` bring keras in when they are first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from feedline.reading.batch import Batch
from feedline.reading.epoch import Epoch, EpochIncomplete
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader, connect
from feedline_wire import VERSION
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
    LoaderStarting,
    LoaderUnavailable,
    NotAllowed,
    NotTrusted,
    ProtocolMismatch,
)

if TYPE_CHECKING:
    from feedline.keras.resume import SaveState
    from feedline.keras.sequence import RemoteSequence
    from feedline.local.loaders import serve

__version__ = VERSION

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
    "LoaderStarting",
    "LoaderUnavailable",
    "NotAllowed",
    "NotTrusted",
    "ProtocolMismatch",
    "RemoteSequence",
    "SaveState",
    "connect",
    "serve",
]


_LATER = {
    "RemoteSequence": "feedline.keras",
    "SaveState": "feedline.keras",
    "serve": "feedline.local.loaders",
}
"""What is imported when it is first named: few programs need it, or it needs what few have."""


def __getattr__(name: str) -> Any:  # noqa: ANN401  # what the annotations above name
    if name not in _LATER:
        raise AttributeError(f"module 'feedline' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
