"""What a loader serves, as it described itself.

Values only; whatever arrived is checked here, once, so that nobody below has to ask whether it makes sense.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feedline_wire import IDS, PROTOCOL, structure, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import DatasetChanged, FeedlineError, InvalidRequest, ProtocolMismatch
from feedline_wire.key import Key
from feedline_wire.structure import Structure
from feedline_wire.tensors import Column

IDS_COLUMN = Column(IDS, np.dtype("<i8"), ())
"""The column that every batch carries beside those of its dataset."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One dataset of a loader."""

    name: str
    fingerprint: bytes
    """Identity of specification and content; equal wherever the same is served."""
    samples: int
    columns: tuple[Column, ...]
    structure: Structure
    """How the columns make up a batch: `("x", "y")` is a pair of arrays."""
    views: Mapping[str, int]
    """Samples of each view, by name."""
    orders: tuple[str, ...]

    def __repr__(self) -> str:
        columns = ", ".join(map(str, self.columns))
        return f"<DatasetInfo {self.name} samples={self.samples} views={dict(self.views)} columns=({columns})>"

    def nbytes(self, rows: int) -> int:
        """Bytes of a batch's body; a dimension that varies counts as one."""
        return tensors.batch_layout((*self.columns, IDS_COLUMN), rows).nbytes


@dataclass(frozen=True, slots=True)
class Description:
    """One loader."""

    version: str
    replica: str
    datasets: Mapping[str, DatasetInfo]
    max_batch_nbytes: int
    max_window: int
    """Keys wanted and unanswered, a stream."""
    lanes: tuple[str, ...] = ("grpc",)
    """How bytes may travel from it."""
    tcp_port: int = 0
    """Where its tcp lane is; 0 if it has none."""

    def refusal(self, key: Key, nbytes: int, address: str) -> FeedlineError | None:
        """Why the loader at an address, which described itself so, will not give a batch; None if it may."""
        served = self.datasets.get(key.dataset)
        if served is None or served.fingerprint != key.fingerprint:
            found = f"the fingerprint {served.fingerprint.hex()}" if served is not None else "no such dataset"
            return DatasetChanged(
                f"the loader at {address} now has {found} for {key.dataset!r}; this trainer began with "
                f"{key.fingerprint.hex()}. Serve the same data and specification again, or connect anew and start over"
            )
        if nbytes > self.max_batch_nbytes:
            return InvalidRequest(
                f"the loader at {address} assembles batches of {self.max_batch_nbytes} bytes at most, and {key} takes "
                f"{nbytes}; give it as much memory as the other loaders have, or ask for smaller batches"
            )
        return None


def from_message(message: pb.Description, address: str) -> Description:
    """The description that arrived from an address; ProtocolMismatch if it makes no sense."""
    if message.protocol != PROTOCOL:
        raise ProtocolMismatch(
            f"the loader at {address} (feedline {message.version or 'unknown'}) speaks version {message.protocol} of "
            f"feedline's protocol, this trainer version {PROTOCOL}; install the same feedline on both sides"
        )
    if not message.limits.max_batch_bytes or not message.limits.max_window:
        raise ProtocolMismatch(f"the loader at {address} states no limits; is it a feedline loader?")
    datasets = {dataset.name: _dataset(dataset, address) for dataset in message.datasets}
    return Description(
        version=message.version,
        replica=message.replica,
        datasets=datasets,
        max_batch_nbytes=message.limits.max_batch_bytes,
        max_window=message.limits.max_window,
        lanes=tuple(message.lanes),
        tcp_port=message.tcp_port,
    )


def _dataset(message: pb.Dataset, address: str) -> DatasetInfo:
    columns = tensors.to_columns(message.columns)
    built_of = structure.from_message(message.structure)
    unknown = set(structure.column_names(built_of)) - {column.name for column in columns}
    if unknown:
        raise ProtocolMismatch(
            f"dataset {message.name!r} at {address} is made of columns that it does not have: "
            f"{', '.join(sorted(unknown))}"
        )
    return DatasetInfo(
        name=message.name,
        fingerprint=message.fingerprint,
        samples=message.samples,
        columns=columns,
        structure=built_of,
        views={view.name: view.samples for view in message.views},
        orders=tuple(message.orders),
    )
