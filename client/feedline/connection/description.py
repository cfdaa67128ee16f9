"""What a loader serves, as it described itself.

Values only. What arrived is checked here, once; the code below relies on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline_wire import BAD, IDS, structure, tensors, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import DataError, DatasetChanged, FeedlineError, InvalidRequest, ProtocolMismatch
from feedline_wire.key import Key
from feedline_wire.structure import Structure
from feedline_wire.tensors import Column

if TYPE_CHECKING:
    from feedline_wire.elementwise import Deferred

IDS_COLUMN = Column(IDS, np.dtype("<i8"), ())
"""The column that every batch carries beside those of its dataset."""

BAD_COLUMN = Column(BAD, np.dtype("<i8"), (2,))
"""The column of datasets that leave out or replace bad samples: a line for each of them."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One dataset of a loader."""

    name: str
    fingerprint: bytes
    """Identity of specification and content; equal wherever the same is served."""
    samples: int
    """How many there are; of a dataset that is batched, how many batches."""
    arriving: tuple[Column, ...]
    """The columns as they travel."""
    structure: Structure
    """How the columns make up a batch: `("x", "y")` is a pair of arrays."""
    views: Mapping[str, int]
    """Samples of each view, by name; of a dataset that is batched, batches, and 0 of a stream that never ends."""
    orders: tuple[str, ...]
    """What it can be asked in, the default first; `blocks` stands for blocks of any size."""
    deferred: "tuple[Deferred, ...]" = ()
    """What is done to the columns here, after they arrived."""
    is_batched: bool = False
    """Its batches are made by code of its own on the loader, and are of the size that they are."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the numbers in a column stand for, by column: the name of number 0, of number 1 and so on."""
    is_stream: bool = False
    """Whatever its code yields next comes next: nothing can be returned to."""
    is_deterministic: bool = True
    """The same key is the same batch; False where the operator has said that his own code makes others."""
    skips_bad_samples: bool = False
    """Bad samples are left out of its batches; a batch of one such sample has no rows, and the trainer goes on."""
    build: Callable[[Mapping[str, Any]], Any] = field(init=False, repr=False, compare=False)
    """What makes up a batch of its columns."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "build", structure.builder(self.structure))

    def __repr__(self) -> str:
        columns = ", ".join(map(str, self.columns))
        kind = " stream" if self.is_stream else " batched" if self.is_batched else ""
        return f"<DatasetInfo {self.name}{kind} samples={self.samples} views={dict(self.views)} columns=({columns})>"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns as a trainer gets them: dtype, and shape of one sample."""
        if not self.deferred:
            return self.arriving
        from feedline_wire.elementwise import columns_after  # 5 ms, and few datasets need it

        return columns_after(self.arriving, self.deferred)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the target's classes: `classes[y[0]]`. Empty where classes are numbers, or targets several."""
        parts = self.structure if isinstance(self.structure, tuple) else ()
        targets = structure.column_names(parts[1]) if len(parts) > 1 else ()
        named = [self.categories[name] for name in targets if name in self.categories]
        return named[0] if len(named) == 1 else ()

    def nbytes(self, rows: int) -> int:
        """Bytes of a batch's body; a dimension that varies counts as one."""
        return tensors.batch_layout((*self.arriving, IDS_COLUMN), rows).nbytes


@dataclass(frozen=True, slots=True)
class Description:
    """One loader."""

    version: str
    replica: str
    datasets: Mapping[str, DatasetInfo]
    max_batch_nbytes: int
    max_window: int
    """Keys wanted and unanswered, a stream."""
    lanes: Mapping[str, str] = field(default_factory=dict)
    """How batches may travel from it beside gRPC: the address of each lane, by name."""
    older: Mapping[str, tuple[DatasetInfo, ...]] = field(default_factory=dict)
    """Versions of datasets that it serves beside the newest, the newer ones first."""
    disagreed: Mapping[str, FeedlineError] = field(default_factory=dict)
    """Of what all loaders of a target serve: datasets of which they have no version in common."""
    features: frozenset[str] = frozenset()
    """What it and this trainer have in common, see feedline_wire.versions."""
    identities: frozenset[tuple[str, bytes]] = field(init=False, repr=False)
    """Name and fingerprint of each version that it serves."""

    def __post_init__(self) -> None:
        every = (one for name in self.datasets for one in self.versions(name))
        object.__setattr__(self, "identities", frozenset((one.name, one.fingerprint) for one in every))

    def versions(self, name: str) -> tuple[DatasetInfo, ...]:
        """Those of a dataset that it serves, the newest first."""
        return (self.datasets[name], *self.older.get(name, ())) if name in self.datasets else ()

    def served(self, key: Key) -> DatasetInfo | None:
        """The dataset of a key, as the loader serves it; None if it does not."""
        newest = self.datasets.get(key.dataset)
        if newest is not None and newest.fingerprint == key.fingerprint:  # nearly always
            return newest
        return next((one for one in self.older.get(key.dataset, ()) if one.fingerprint == key.fingerprint), None)

    def may_give(self, key: Key, nbytes: int) -> bool:
        """It serves what the key names, and assembles batches of so many bytes."""
        return (key.dataset, key.fingerprint) in self.identities and nbytes <= self.max_batch_nbytes

    def refusal(self, key: Key, nbytes: int, address: str) -> FeedlineError | None:
        """Why the loader at an address, which described itself so, will not give a batch; None if it may."""
        if self.may_give(key, nbytes):
            return None
        if (key.dataset, key.fingerprint) not in self.identities:
            newest = self.datasets.get(key.dataset)
            found = f"the fingerprint {newest.fingerprint.hex()}" if newest is not None else "no such dataset"
            return DatasetChanged(
                f"the loader at {address} now has {found} for {key.dataset!r}; this trainer began with "
                f"{key.fingerprint.hex()}. Serve the same data and specification again, or connect anew and start over"
            )
        return InvalidRequest(
            f"the loader at {address} assembles batches of {self.max_batch_nbytes} bytes at most, and {key} takes "
            f"{nbytes}; give it as much memory as the other loaders have, or ask for smaller batches"
        )


def from_message(message: pb.Description, address: str) -> Description:
    """The description that arrived from an address; ProtocolMismatch if it makes no sense."""
    loader = versions.read(message, "loader", f"the loader at {address}")
    agreement = versions.agree(versions.here("trainer"), loader)
    if not message.limits.max_batch_bytes or not message.limits.max_window:
        raise ProtocolMismatch(f"the loader at {address} states no limits; is it a feedline loader?")
    found: dict[str, list[DatasetInfo]] = {}
    for dataset in message.datasets:
        found.setdefault(dataset.name, []).insert(0, _dataset(dataset, address))
    return Description(
        version=message.version,
        replica=message.replica,
        datasets={name: newest for name, (newest, *_) in found.items()},
        older={name: tuple(older) for name, (_, *older) in found.items() if older},
        max_batch_nbytes=message.limits.max_batch_bytes,
        max_window=message.limits.max_window,
        lanes={lane.name: lane.address for lane in message.lanes},
        features=agreement.features,
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
    if not message.orders:
        raise ProtocolMismatch(f"dataset {message.name!r} at {address} says no order that it can be asked in")
    info = DatasetInfo(
        name=message.name,
        fingerprint=message.fingerprint,
        samples=message.samples,
        arriving=columns,
        structure=built_of,
        views={view.name: view.samples for view in message.views},
        orders=tuple(message.orders),
        deferred=_deferred(message),
        is_batched=message.batched,
        categories={one.column: tuple(one.names) for one in message.categories},
        is_stream=message.stream,
        is_deterministic=not message.nondeterministic,
        skips_bad_samples=message.skips_bad_samples,
    )
    try:
        _ = info.columns
    except DataError as error:
        raise ProtocolMismatch(f"dataset {message.name!r} at {address} cannot be finished here: {error}") from error
    return info


def _deferred(message: pb.Dataset) -> "tuple[Deferred, ...]":
    if not message.deferred:
        return ()
    from feedline_wire.elementwise import from_messages

    return from_messages(message.deferred)
