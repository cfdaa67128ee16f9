"""A dataset that is a few numpy arrays, and its batches.

A batch is a pure function of its key, here by the plainest means: one whole order an epoch, one index a batch. Its
orders are not those of the real loader; what any loader promises is only that its orders are what their names say.
Only a stream has something to remember: how much of it was given.
"""

import functools
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_wire import BAD, IDS, elementwise, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire import structure as structures
from feedline_wire.elementwise import Deferred
from feedline_wire.errors import DataError, DatasetChanged, InvalidRequest
from feedline_wire.key import Key, most_rows
from feedline_wire.orders import Order, parse
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column, Layout

ORDERS = ("shuffle", "sequential", "replacement", "blocks")
"""The orders it can be asked in."""

Ids = NDArray[np.int64]

Kind: TypeAlias = Literal["samples", "batches", "stream", "endless"]
"""What a position is: a sample; a ready batch; whatever comes next, of so many an epoch; the same without an end."""

Values: TypeAlias = Array | Sequence[Array]
"""A column: its samples as one array, or its ready batches one by one."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a dataset does beside handing out its arrays."""

    kind: Kind = "samples"
    deferred: tuple[Deferred, ...] = ()
    """What trainers are to do to the columns."""
    bad: frozenset[int] | None = None
    """Ids that cannot be read; None: batches do not speak of any."""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the numbers in a column stand for."""
    replaces_bad: bool = False
    """Another sample comes instead of a bad one, which otherwise is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryDataset:
    """Columns, the sample ids of each view, and how the columns make up a batch."""

    name: str
    values: Mapping[str, Values]
    views: Mapping[str, Ids]
    structure: Structure
    declared: Declared
    given: Iterator[int] = field(default_factory=itertools.count)
    """Counts what a stream gave."""

    @property
    def is_stream(self) -> bool:
        """It has no keys."""
        return self.declared.kind in {"stream", "endless"}

    @property
    def is_batched(self) -> bool:
        """A position is a ready batch."""
        return self.declared.kind != "samples"

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.values.values())))

    @property
    def orders(self) -> tuple[str, ...]:
        """What it can be asked in."""
        return ("stream",) if self.is_stream else ORDERS

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns as described to trainers."""
        firsts = {name: values[0] for name, values in self.values.items()}
        return tuple(Column(name, first.dtype, first.shape[self.is_batched :]) for name, first in firsts.items())

    def most_nbytes(self, rows: int) -> int:
        """Bytes that a batch of so many positions takes at most."""
        longest = max(len(unit) for values in self.values.values() for unit in values) if self.is_batched else 1
        columns = [(column.name, column.dtype, (rows * longest, *column.shape)) for column in self.columns]
        return tensors.lay_out([*columns, (IDS, np.dtype("<i8"), (rows,)), *self._bad_column(rows)]).nbytes

    def batch(self, key: Key) -> tuple[Layout, Array]:
        """The batch's layout and body; the key has been checked. DataError if nothing is left of it."""
        arrays = self._arrays(key)
        layout = tensors.lay_out((name, array.dtype, array.shape) for name, array in arrays.items())
        body = np.empty(layout.nbytes, np.uint8)
        tensors.clear_padding(body, layout)
        for name, out in tensors.views(body, layout).items():
            out[...] = arrays[name]
        return layout, body

    def _arrays(self, key: Key) -> dict[str, Array]:
        if self.is_stream:
            ids = np.array([next(self.given) for _ in range(key.rows)])
            return {**self._of(ids % self.samples), IDS: ids}
        view = self.views[key.view]
        wanted = view[positions(key, len(view))]
        unreadable = list(self.declared.bad or ())
        bad = np.isin(wanted, unreadable)
        ids = substituted(wanted, unreadable, view) if self.declared.replaces_bad else wanted[~bad]
        if not len(ids) and (len(wanted) > 1 or self.declared.replaces_bad):
            raise DataError(f"every sample of the batch {key} is bad", samples=wanted)
        arrays = {**self._of(ids), IDS: ids}
        if self.declared.bad is not None:
            arrays[BAD] = np.stack([np.flatnonzero(bad), wanted[bad]], axis=1)
        return arrays

    def _of(self, ids: Ids) -> dict[str, Array]:
        return {
            name: values[ids]
            if isinstance(values, np.ndarray)
            else np.concatenate([values[one] for one in ids] or [values[0][:0]])
            for name, values in self.values.items()
        }

    def _bad_column(self, rows: int) -> list[tuple[str, np.dtype[np.int64], tuple[int, int]]]:
        return [] if self.declared.bad is None else [(BAD, np.dtype("<i8"), (rows, 2))]

    def describe(self, fingerprint: bytes) -> pb.Dataset:
        """What trainers are told about it."""
        ends = self.declared.kind != "endless"
        return pb.Dataset(
            name=self.name,
            fingerprint=fingerprint,
            samples=self.samples if ends else 0,
            columns=tensors.from_columns(self.columns),
            structure=structures.to_message(self.structure),
            views=[pb.View(name=name, samples=len(ids) if ends else 0) for name, ids in self.views.items()],
            orders=self.orders,
            deferred=elementwise.to_messages(self.declared.deferred),
            batched=self.is_batched,
            stream=self.is_stream,
            skips_bad_samples=self.declared.bad is not None and not self.declared.replaces_bad,
            categories=[
                pb.Categories(column=column, names=names) for column, names in self.declared.categories.items()
            ],
        )

    def check(self, key: Key, *, fingerprint: bytes, max_batch_bytes: int) -> int:
        """The bytes its batch takes; InvalidRequest or DatasetChanged if it asks for something that does not exist."""
        if key.dataset != self.name:
            raise InvalidRequest(f"no dataset {key.dataset!r} is served here; there is: {self.name}")
        if key.fingerprint != fingerprint:
            raise DatasetChanged(
                f"dataset {self.name!r} here has the fingerprint {fingerprint.hex()}, not {key.fingerprint.hex()}"
            )
        if key.view not in self.views:
            raise InvalidRequest(
                f"dataset {self.name!r} has no view {key.view!r}; there is: {', '.join(sorted(self.views))}"
            )
        if parse(key.order).family not in self.orders:
            raise InvalidRequest(f"dataset {self.name!r} has no order {key.order!r}; it has: {', '.join(self.orders)}")
        samples = len(self.views[key.view])
        most = most_rows(samples, is_batched=self.is_batched)
        if not 1 <= key.rows <= most:
            raise InvalidRequest(
                f"a batch of {key.rows} rows was wanted; the view {key.view!r} has {samples} samples, ask for 1..{most}"
            )
        if key.offset >= samples and not self.is_stream:
            raise InvalidRequest(
                f"position {key.offset} is past the end of the view {key.view!r} ({samples} samples); "
                f"ask for position {key.offset % samples} of epoch {key.epoch + key.offset // samples}"
            )
        nbytes = self.most_nbytes(key.rows)
        if nbytes > max_batch_bytes:
            raise InvalidRequest(
                f"a batch of {key.rows} rows takes {nbytes} bytes; this loader's largest is {max_batch_bytes}: "
                f"ask for fewer rows"
            )
        return nbytes


def in_memory(
    name: str,
    columns: Mapping[str, Values],
    views: Mapping[str, range | slice | Sequence[int]] | None,
    structure: Structure | None,
    *,
    kind: Kind,
    deferred: Sequence[Deferred],
    categories: Mapping[str, Sequence[str]],
    bad: Collection[int] | None,
    on_bad_sample: Literal["skip", "substitute"],
) -> MemoryDataset:
    """The dataset of these arrays; InvalidRequest if they cannot be one."""
    lengths = {
        column: 0 if isinstance(values, np.ndarray) and not values.ndim else len(values)
        for column, values in columns.items()
    }
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InvalidRequest(f"columns must be arrays of one length, at least 1; their lengths are {lengths}")
    for own in {IDS, BAD} & set(columns):
        raise InvalidRequest(f"the column {own!r} is the loader's own; name yours otherwise")
    values = {column: _values(column, of, kind) for column, of in columns.items()}
    samples = next(iter(lengths.values()))
    ids = {"train": np.arange(samples)} if views is None else {view: _ids(of, samples) for view, of in views.items()}
    for view, of_view in ids.items():
        if not len(of_view) or of_view.min() < 0 or of_view.max() >= samples:
            raise InvalidRequest(f"the view {view!r} must name some of the samples 0..{samples - 1}; it is {of_view}")
    if structure is None:
        structure = tuple(values) if len(values) > 1 else next(iter(values))
    if unknown := set(structures.column_names(structure)) - set(values):
        raise InvalidRequest(f"the structure names {', '.join(sorted(unknown))}; the columns are {', '.join(values)}")
    declared = Declared(
        kind, tuple(deferred), None if bad is None else frozenset(bad), categories, on_bad_sample == "substitute"
    )
    dataset = MemoryDataset(name, values, ids, structure, declared)
    elementwise.columns_after(dataset.columns, dataset.declared.deferred)
    return dataset


def _values(column: str, values: Values, kind: Kind) -> Values:
    """A column as it travels: one array, or ready batches that differ in their rows alone."""
    if kind == "samples":
        array = np.asarray(values)
        return array.astype(tensors.wire_dtype(array.dtype), copy=False)
    units = [array.astype(tensors.wire_dtype(array.dtype), copy=False) for array in values]
    kinds = {(unit.dtype.name, unit.shape[1:] if unit.ndim else None) for unit in units}
    if len(kinds) > 1 or any(not unit.ndim for unit in units):
        raise InvalidRequest(f"the batches of {column!r} may differ in their rows alone; they are {sorted(kinds)}")
    return units


def _ids(of: range | slice | Sequence[int], samples: int) -> Ids:
    return np.arange(samples)[of] if isinstance(of, slice) else np.array(list(of), np.int64)


def fingerprint_of(dataset: MemoryDataset) -> bytes:
    """Identity by content: two loaders that serve equal arrays the same way agree."""
    digest = hashlib.blake2b(digest_size=16)
    for column in dataset.columns:
        digest.update(str(column).encode())
        values = dataset.values[column.name]
        for one in [values] if isinstance(values, np.ndarray) else values:
            digest.update(f"{one.shape}".encode())
            digest.update(np.ascontiguousarray(one).tobytes())
    for view, ids in dataset.views.items():
        digest.update(f"{view} {len(ids)}".encode())
        digest.update(ids.tobytes())
    digest.update(repr(dataset.structure).encode())
    digest.update(repr(replace(dataset.declared, categories={})).encode())
    return digest.digest()


def substituted(wanted: Ids, unreadable: Collection[int], view: Ids) -> Ids:
    """The ids wanted, with the next good one of the view in place of each bad one; without good ones, none."""
    ids = wanted.copy()
    for row in np.flatnonzero(np.isin(wanted, list(unreadable))):
        from_there = np.roll(view, -int(np.flatnonzero(view == wanted[row])[0]))
        good = from_there[~np.isin(from_there, list(unreadable))]
        if not len(good):
            return ids[:0]
        ids[row] = good[0]
    return ids


# ---- orders ----


def positions(key: Key, samples: int) -> Ids:
    """Indices into the view; those past its end are of the next epoch."""
    order = str(parse(key.order))
    epochs = range(key.epoch, key.epoch + -(-(key.offset + key.rows) // samples))
    line = [order_of(order, samples, key.seed, epoch) for epoch in epochs]
    return (line[0] if len(line) == 1 else np.concatenate(line))[key.offset : key.offset + key.rows]


@functools.lru_cache(maxsize=16)  # an epoch and the next, for the few views and seeds of a test
def order_of(order: str, samples: int, seed: int, epoch: int) -> Ids:
    """A whole epoch's order. Seed and epoch are kept apart: (3, 1) is not (4, 0)."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,))))
    named = parse(order)
    match named.family:
        case "sequential":
            return np.arange(samples)
        case "replacement":
            return random.integers(samples, size=samples)
        case "blocks":
            return _blocks(named, samples, random)
        case _:
            return random.permutation(samples)


def _blocks(order: Order, samples: int, random: np.random.Generator) -> Ids:
    lying = np.split(np.arange(samples), range(order.size, samples, order.size))
    if not order.window:
        whole = [block for block in lying if len(block) == order.size]
        mixed = [whole[place] for place in random.permutation(len(whole))]
        return np.concatenate([*mixed, *lying[len(whole) :]])
    blocks = [lying[place] for place in random.permutation(len(lying))]
    windows = (blocks[first : first + order.window] for first in range(0, len(blocks), order.window))
    return np.concatenate([random.permutation(np.concatenate(window)) for window in windows])
