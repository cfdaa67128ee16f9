"""A dataset that is a few numpy arrays, and its batches.

A batch is a pure function of its key, here by the plainest means: one permutation an epoch, one index a batch. Its
`shuffle` is not the order of the real loader; that any loader's order is a bijection is all that anybody may rely on.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedline_wire import IDS, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire import structure as structures
from feedline_wire.errors import DatasetChanged, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column, Layout

ORDERS = ("shuffle", "sequential")
"""The orders it can be asked in."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryDataset:
    """Columns, the sample ids of each view, and how the columns make up a batch."""

    name: str
    arrays: Mapping[str, Array]
    views: Mapping[str, Ids]
    structure: Structure

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.arrays.values())))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns as described to trainers."""
        return tuple(Column(name, array.dtype, array.shape[1:]) for name, array in self.arrays.items())

    def layout(self, rows: int) -> Layout:
        """How a batch of that many rows lies in its body."""
        return tensors.batch_layout((*self.columns, Column(IDS, np.dtype("<i8"), ())), rows)

    def batch(self, key: Key) -> tuple[Layout, Array]:
        """The batch's layout and body; the key has been checked."""
        view = self.views[key.view]
        ids = view[positions(key, len(view))]
        layout = self.layout(key.rows)
        body = np.empty(layout.nbytes, np.uint8)
        tensors.clear_padding(body, layout)
        for name, out in tensors.views(body, layout).items():
            out[...] = ids if name == IDS else self.arrays[name][ids]
        return layout, body

    def describe(self, fingerprint: bytes) -> pb.Dataset:
        """What trainers are told about it."""
        return pb.Dataset(
            name=self.name,
            fingerprint=fingerprint,
            samples=self.samples,
            columns=tensors.from_columns(self.columns),
            structure=structures.to_message(self.structure),
            views=[pb.View(name=name, samples=len(ids)) for name, ids in self.views.items()],
            orders=ORDERS,
        )

    def check(self, key: Key, *, fingerprint: bytes, max_batch_bytes: int) -> int:
        """The bytes its batch takes; InvalidRequest or DatasetChanged if it asks for something that does not exist."""
        if key.dataset != self.name:
            raise InvalidRequest(f"no dataset {key.dataset!r} is served here; there is: {self.name}")
        if key.fingerprint != fingerprint:
            raise DatasetChanged(
                f"dataset {self.name!r} here has the fingerprint {fingerprint.hex()}, asked was {key.fingerprint.hex()}"
            )
        if key.view not in self.views:
            raise InvalidRequest(
                f"dataset {self.name!r} has no view {key.view!r}; there is: {', '.join(sorted(self.views))}"
            )
        if key.order not in ORDERS:
            raise InvalidRequest(f"there is no order {key.order!r}; there is: {', '.join(ORDERS)}")
        samples = len(self.views[key.view])
        if not 1 <= key.rows <= samples:
            raise InvalidRequest(
                f"a batch of {key.rows} rows was asked; the view {key.view!r} has {samples} samples, "
                f"ask for 1..{samples}"
            )
        if key.offset >= samples:
            raise InvalidRequest(
                f"position {key.offset} is past the end of the view {key.view!r} ({samples} samples); "
                f"ask for position {key.offset % samples} of epoch {key.epoch + key.offset // samples}"
            )
        nbytes = self.layout(key.rows).nbytes
        if nbytes > max_batch_bytes:
            raise InvalidRequest(
                f"a batch of {key.rows} rows takes {nbytes} bytes; this loader's largest is {max_batch_bytes}: "
                f"ask for fewer rows"
            )
        return nbytes


def in_memory(
    name: str,
    columns: Mapping[str, Array],
    views: Mapping[str, range | slice | Sequence[int]] | None,
    structure: Structure | None,
) -> MemoryDataset:
    """The dataset of these arrays; InvalidRequest if they cannot be one."""
    lengths = {column: len(array) if array.ndim else 0 for column, array in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InvalidRequest(f"columns must be arrays of one length, at least 1; their lengths are {lengths}")
    if IDS in columns:
        raise InvalidRequest(f"the column {IDS!r} is the loader's own; name yours otherwise")
    arrays = {column: array.astype(tensors.wire_dtype(array.dtype), copy=False) for column, array in columns.items()}
    samples = next(iter(lengths.values()))
    ids = {"train": np.arange(samples)} if views is None else {view: _ids(of, samples) for view, of in views.items()}
    for view, of_view in ids.items():
        if not len(of_view) or of_view.min() < 0 or of_view.max() >= samples:
            raise InvalidRequest(f"the view {view!r} must name some of the samples 0..{samples - 1}; it is {of_view}")
    if structure is None:
        structure = tuple(arrays) if len(arrays) > 1 else next(iter(arrays))
    if unknown := set(structures.column_names(structure)) - set(arrays):
        raise InvalidRequest(f"the structure names {', '.join(sorted(unknown))}; the columns are {', '.join(arrays)}")
    return MemoryDataset(name, arrays, ids, structure)


def _ids(of: range | slice | Sequence[int], samples: int) -> Ids:
    return np.arange(samples)[of] if isinstance(of, slice) else np.array(list(of), np.int64)


def fingerprint_of(dataset: MemoryDataset) -> bytes:
    """Identity by content: two loaders that serve equal arrays the same way agree."""
    digest = hashlib.blake2b(digest_size=16)
    for column in dataset.columns:
        digest.update(str(column).encode())
        digest.update(np.ascontiguousarray(dataset.arrays[column.name]).tobytes())
    for view, ids in dataset.views.items():
        digest.update(f"{view} {len(ids)}".encode())
        digest.update(ids.tobytes())
    digest.update(repr(dataset.structure).encode())
    return digest.digest()


def positions(key: Key, samples: int) -> Ids:
    """Indices into the view; those past its end are of the next epoch."""
    here = order_of(key.order, samples, key.seed, key.epoch)[key.offset : key.offset + key.rows]
    if len(here) == key.rows:
        return here
    further = order_of(key.order, samples, key.seed, key.epoch + 1)[: key.rows - len(here)]
    return np.concatenate([here, further])


@functools.lru_cache(maxsize=16)  # an epoch and the next, for the few views and seeds of a test
def order_of(order: str, samples: int, seed: int, epoch: int) -> Ids:
    """A whole epoch's order. Seed and epoch are kept apart: (3, 1) is not (4, 0)."""
    if order == "sequential":
        return np.arange(samples)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,)))).permutation(samples)
