"""Where arriving bytes are put, and how they become arrays.

A buffer is never reused while anybody holds a view of it: JAX and TensorFlow alias aligned numpy memory, so a batch
given away belongs to whoever has it. Nothing is allocated on the word of a header that was not checked against what
the loader described.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from feedline.connection.description import BAD_COLUMN, IDS_COLUMN, DatasetInfo, Description
from feedline_wire import BAD, IDS, compression, tensors
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.frames import Piece
from feedline_wire.key import Key
from feedline_wire.tensors import ALIGNMENT, VARIES, Array, Column, Layout, Placed

POOLED_NBYTES = 64 << 10
"""Smaller ones come fresh from malloc, which has their pages warm; larger ones might be mapped and faulted in anew."""

KEPT_NBYTES = 512 << 20
"""Twice the default of `prefetch_bytes`: a full window, and as much again with the trainer; more where a feed asks."""

_SIZES_PER_DOUBLING = 8
"""Capacities are rounded up so that batches of varying size share buffers; at most an eighth is unused."""

WARM = 4
"""Buffers that are asked first, in the order in which they were made: a reader who takes batches as they come needs no
more, and they stay in the processor's cache."""

_LAYOUTS_REMEMBERED = 64
"""Checked headers a stream: batches of one shape all have the same, and a dataset has few shapes or one a batch."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole batch in memory that nobody else writes to."""

    body: Array
    layout: Layout
    stages: bytes = b""
    """How long it was in each stage of the loader, as that said it."""

    def arrays(self) -> dict[str, Array]:
        """Its arrays by name, views of the body."""
        return tensors.views(self.body, self.layout)


class Buffers:
    """Receive buffers that come back by themselves. Any thread.

    The root arrays are kept here, and a root to which nobody else has a reference is free. Views made by slicing,
    `view` and `reshape` have the root as their `base`, directly or through one another, and so do the objects
    frameworks hold while they use the memory: as long as any of them lives the count is higher. A free root is
    reachable from here alone, so it cannot be picked up meanwhile.
    """

    def __init__(self, kept_nbytes: int) -> None:
        self.kept_nbytes = kept_nbytes
        """What may be here at once, lent and free; what is lent beyond it is forgotten."""
        self.allocate: Callable[[int], Array] | None = None
        """Memory from elsewhere, whose owner knows when it may be used again; None: from here."""
        self._lock = threading.Lock()
        self._roots: list[Array] = []  # oldest first
        self._next = 0  # behind the one lent last
        self._starts: list[int] = []  # where an aligned buffer begins in each: asking numpy takes as long as the rest

    def __repr__(self) -> str:
        with self._lock:
            free = sum(sys.getrefcount(self._roots[at]) == _UNUSED for at in range(len(self._roots)))
            return f"<Buffers kept={len(self._roots)} free={free} nbytes={sum(root.nbytes for root in self._roots)}>"

    def expect(self, nbytes: int) -> None:
        """Somebody will read so many bytes ahead. Else batches of a gigabyte would be faulted in page by page each."""
        self.kept_nbytes = max(self.kept_nbytes, 2 * nbytes)

    def forget(self) -> None:
        """Keep none any more: what is lent is gone with its last view, and the rest at once. Idempotent."""
        with self._lock:
            self.kept_nbytes = 0
            self._roots, self._starts, self._next = [], [], 0

    def lend(self, nbytes: int) -> Array:
        """Memory for `nbytes` (uint8, 1-D, aligned) with anything in it; free again when its last view is gone."""
        if self.allocate is not None:
            return self.allocate(nbytes)
        if nbytes < POOLED_NBYTES:
            small = np.empty(nbytes + ALIGNMENT, np.uint8)
            start = _start(small)
            return small[start : start + nbytes]
        step = (1 << nbytes.bit_length() - 1) // _SIZES_PER_DOUBLING
        whole = -(-nbytes // step) * step + ALIGNMENT
        with self._lock:
            count = len(self._roots)
            # A window comes back in the order in which it was lent, so behind the one lent last is the one that is lent
            # the longest. To ask all of a wide window took longer than to receive a small batch.
            for at in chain(range(min(WARM, count)), range(self._next, count), range(self._next)):
                if self._roots[at].nbytes == whole and sys.getrefcount(self._roots[at]) == _UNUSED:
                    self._next = at + 1 if at >= WARM else self._next
                    start = self._starts[at]
                    return self._roots[at][start : start + nbytes]
            root = np.empty(whole, np.uint8)
            start = _start(root)
            self._keep(root, start)
            self._next = len(self._roots)
            return root[start : start + nbytes]

    def _keep(self, root: Array, start: int) -> None:
        """Remember a root, and forget the oldest that are too much: their memory goes when their last view does."""
        # Without what aligning takes, or four of just a quarter would be a few bytes too many.
        if root.nbytes - ALIGNMENT > self.kept_nbytes:
            return
        self._roots.append(root)
        self._starts.append(start)
        while sum(root.nbytes - ALIGNMENT for root in self._roots) > self.kept_nbytes:
            del self._roots[0], self._starts[0]


_root = [np.empty(0, np.uint8)]
_UNUSED = sys.getrefcount(_root[0])
"""What is counted for a root that only its list refers to; asked of the interpreter, because versions differ."""


def _start(root: Array) -> int:
    """Where in it the first boundary is."""
    return -root.ctypes.data % ALIGNMENT


class Receiver:
    """Puts one stream's pieces together. One thread."""

    def __init__(self, description: Description, buffers: Buffers, *, may_be_compressed: bool) -> None:
        self._description = description
        self._buffers = buffers
        self._may_be_compressed = may_be_compressed
        self._scratch = np.empty(0, np.uint8)
        self._arrivals: dict[int, _Arrival] = {}
        self._layouts: dict[tuple[str, bytes, int, bytes], Layout] = {}

    def take(self, piece: Piece, key: Key) -> Received | None:
        """Take a piece of the batch `key`; the batch when it is whole. ProtocolMismatch if it cannot be right."""
        arrival = self._arrivals.get(piece.ticket)
        # A header in its middle: the loader needed the memory while we did not read, and begins the batch anew.
        if arrival is None or piece.header is not None:
            arrival = self._begin(piece, key)
        arrival.put(piece, key)
        if arrival.arrived < len(arrival.body):
            self._arrivals[piece.ticket] = arrival
            return None
        self._arrivals.pop(piece.ticket, None)
        body = arrival.body
        if arrival.lengths is not None:
            body = self._decompressed(body, arrival.lengths, arrival.layout)
        return Received(body, arrival.layout, arrival.stages)

    def whole(self, piece: Piece, nbytes: int, key: Key, incoming: Array | Callable[[memoryview], None]) -> Received:
        """The batch whose whole body lies somewhere, or is read from a lane, where it follows its piece.

        ProtocolMismatch if the piece cannot be right; raises what reading raises.
        """
        layout = self._layout(piece, key)
        lengths = self._lengths(piece, layout)
        announced = layout.nbytes if lengths is None else sum(lengths)
        if nbytes != announced:
            raise ProtocolMismatch(f"the batch {key} has {announced} bytes; {nbytes} were announced")
        if isinstance(incoming, np.ndarray):
            if lengths is not None:
                raise ProtocolMismatch(f"the batch {key} was placed here, and compressed")
            return Received(incoming, layout, piece.stages)
        if lengths is None:
            body = self._buffers.lend(nbytes)
            incoming(body.data)
            return Received(body, layout, piece.stages)
        if len(self._scratch) < nbytes:
            self._scratch = np.empty(nbytes, np.uint8)
        incoming(self._scratch[:nbytes].data)
        return Received(self._decompressed(self._scratch[:nbytes], lengths, layout), layout, piece.stages)

    def _decompressed(self, source: Array, lengths: Sequence[int], layout: Layout) -> Array:
        body = self._buffers.lend(layout.nbytes)
        compression.read_body(source.data, lengths, layout, body)
        return body

    def _lengths(self, piece: Piece, layout: Layout) -> list[int] | None:
        """How many bytes stand for each chunk of the batch; None if it comes as it is."""
        if not piece.compressed:
            return None
        if not self._may_be_compressed:
            raise ProtocolMismatch("a batch came compressed, which was not asked for")
        return compression.read_lengths(piece.compressed, layout)

    def forget(self, ticket: int) -> None:
        """The batch is no longer wanted: what came of it may go."""
        self._arrivals.pop(ticket, None)

    def _begin(self, piece: Piece, key: Key) -> "_Arrival":
        layout = self._layout(piece, key)
        lengths = self._lengths(piece, layout)
        body = self._buffers.lend(layout.nbytes) if lengths is None else np.empty(sum(lengths), np.uint8)
        return _Arrival(layout, body, piece.stages, lengths)

    def _layout(self, piece: Piece, key: Key) -> Layout:
        if piece.header is None:
            raise ProtocolMismatch(f"the batch {key} came without a header")
        known = (key.dataset, key.fingerprint, key.rows, piece.header)
        layout = self._layouts.get(known)
        if layout is None:
            dataset = self._description.served(key)
            assert dataset is not None, "a loader is asked for what it serves"
            layout = checked_layout(piece.header, dataset, key.rows, self._description.max_batch_nbytes)
            if len(self._layouts) >= _LAYOUTS_REMEMBERED:
                self._layouts.clear()
            self._layouts[known] = layout
        return layout


class _Arrival:
    """One batch on its way."""

    __slots__ = ("arrived", "body", "layout", "lengths", "stages")

    def __init__(self, layout: Layout, body: Array, stages: bytes, lengths: list[int] | None) -> None:
        self.layout = layout
        self.lengths = lengths
        self.body = body
        self.stages = stages
        self.arrived = 0

    def put(self, piece: Piece, key: Key) -> None:
        # Pieces come in order, so a gap, a repetition and an overlap all show as a start that is not where the last
        # piece ended.
        end = piece.start + len(piece.data)
        if piece.start != self.arrived or end > len(self.body):
            raise ProtocolMismatch(
                f"the batch {key} has {len(self.body)} bytes of which {self.arrived} arrived; "
                f"a piece came for bytes {piece.start}..{end}"
            )
        self.body[piece.start : end] = np.frombuffer(piece.data, np.uint8)
        self.arrived = end


def checked_layout(header: bytes, dataset: DatasetInfo, rows: int, max_nbytes: int) -> Layout:
    """A batch's layout from its header: just the columns that were described, with the rows that were asked for.

    Fewer rows only beside as many bad samples. ProtocolMismatch if it is anything else, or more bytes than the loader
    said a batch may have.
    """
    layout = tensors.read_header(header)
    wanted = {column.name: column for column in (*dataset.arriving, IDS_COLUMN)}
    found = {array.name: array for array in layout.arrays}
    if BAD in found:
        wanted[BAD] = BAD_COLUMN
    if found.keys() != wanted.keys() or len(layout.arrays) != len(found):
        raise ProtocolMismatch(
            f"a batch of {dataset.name!r} came with the columns {', '.join(found)}; described were {', '.join(wanted)}"
        )
    lengths = _lengths(found, rows)
    for name, array in found.items():
        length = VARIES if dataset.is_batched and name not in {IDS, BAD} else lengths[name == BAD]
        if not _is_of(wanted[name], length, array):
            raise ProtocolMismatch(
                f"a batch of {rows} rows of {dataset.name!r} came with {name} as {array.dtype.name}{array.shape}; "
                f"described was {wanted[name]}"
            )
    if layout.nbytes > max_nbytes:
        raise ProtocolMismatch(
            f"a batch of {dataset.name!r} announced {layout.nbytes} bytes; the loader's limit is {max_nbytes}"
        )
    return layout


def _lengths(found: Mapping[str, Placed], rows: int) -> tuple[int, int]:
    """Rows that are in a batch for which so many were asked, and how many samples it names as bad."""
    ids, bad = (found[name].shape[:1] if name in found else (0,) for name in (IDS, BAD))
    left_out = rows - ids[0] if ids else 0
    makes_sense = bad and ids and (ids[0] > 0 or rows == 1) and left_out in {0, bad[0]} and bad[0] <= rows
    return (ids[0], bad[0]) if makes_sense else (rows, 0)


def _is_of(column: Column, length: int, array: Placed) -> bool:
    """The array is of a column, with so many rows; VARIES is any number of them."""
    shape = (length, *column.shape)
    return (
        array.dtype == column.dtype
        and len(array.shape) == len(shape)
        and all(size_wanted in {size, VARIES} for size, size_wanted in zip(array.shape, shape, strict=True))
    )
