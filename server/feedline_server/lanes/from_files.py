"""Batches that are sent from where their rows lie: no worker assembles them, and they take no memory.

Of plain columns in the page cache a batch is nothing but rows of mapped files, and the kernel can take them from there
as well as from a slot: one copy less, and two processes less on the way (docs/design.md has what it gains).

What is sent is, byte for byte, what a worker would have assembled; what is not certain is left to the
workers. They wait for the disk side by side, they may end over a file that was cut, and their errors are the ones that
trainers are told. The sample ids, a batch's last bytes, are sent when the files were seen to be the same once more.
"""

import errno
import math
import resource
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feedline_server.batches.assembly import LAYOUTS, NUMBERS, layout_of, sample_ids
from feedline_server.batches.dataset import Dataset
from feedline_server.lanes.iovec import Checkpoint, Iovec, Pieces, address_of
from feedline_server.sources.arrays.stored import Extent, read_into
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import HasExtents
from feedline_wire import IDS
from feedline_wire.errors import DataError, FeedlineError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Layout

LEAST_ROW_NBYTES = 2048
"""Shorter rows are gathered: the kernel takes 0.2 us for each piece. Alone against gather and send in one process, rows
of 2 KiB were sent 1.5 times as fast, of 512 bytes half as fast."""

SHORT_ROW_NBYTES, MOST_OF_SHORT_NBYTES = 8 << 10, 4 << 20
"""Of rows shorter than the first, batches larger than the second are gathered: one thread that copies such rows out of
memory is slower than one that copies batches which workers gathered (8 MiB of 4 KiB: 0.94 of the throughput, though for
0.88 of the CPU; 4 MiB: 1.06; 8 MiB of 16 KiB: 1.25)."""

KEPT_NBYTES = 64 << 20
"""Of columns with shorter rows, labels mostly, that are read once and kept: those of eight million samples."""

REST_S, LONGEST_REST_S = 1.0, 32.0
"""How long batches are left to the workers after the disk was waited for, and what that grows to each time it happens
again: data that is read for the first time, or that the page cache does not hold."""


class ZeroCopySource:
    """What of one dataset can be sent from where it lies."""

    def __init__(self, dataset: Dataset, extents: Mapping[str, tuple[Extent, ...]]) -> None:
        self._dataset = dataset
        self._files = {extent.stamp: extent for one in extents.values() for extent in one}
        self._long = {name: _Rows(one) for name, one in extents.items() if one[0].row_nbytes >= LEAST_ROW_NBYTES}
        nbytes = sum(one.nbytes for one in self._long.values())
        is_short = nbytes < SHORT_ROW_NBYTES * len(self._long)
        self._most_rows = MOST_OF_SHORT_NBYTES // nbytes if is_short else math.inf
        self._short = {name: one for name, one in extents.items() if name not in self._long}
        self._forms: dict[int, _Form] = {}
        self._rest_s = REST_S
        self._resting_until = 0.0
        self._given_up = False

    def __repr__(self) -> str:
        state = "given up" if self._given_up else "resting" if not self.is_of_use else "of use"
        return f"<ZeroCopySource {self._dataset.name} {state}>"

    @property
    def is_of_use(self) -> bool:
        """Batches can be sent so now; else workers assemble them."""
        return not self._given_up and time.monotonic() >= self._resting_until

    def takes(self, rows: int) -> bool:
        """A batch of so many rows should be sent so now."""
        return rows <= self._most_rows and self.is_of_use

    def give_up(self) -> None:
        """Leave it all to the workers from now on: a file is not what it was."""
        self._given_up = True

    def note_disk(self, *, was_waited_for: bool) -> None:
        """Batches were sent. If the kernel had to wait for the disk, workers should do so for a while."""
        if was_waited_for:
            self._resting_until = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        else:
            self._rest_s = REST_S

    def batch(self, key: Key) -> tuple[Layout, Iovec] | None:
        """How the batch lies in its body, and the pieces of the body; None if a worker has to assemble it."""
        if not self.is_of_use:
            return None
        try:
            return self._located(key)
        except FeedlineError:  # a worker finds it too, and its error is the one that trainers get
            self.give_up()
            return None

    def _located(self, key: Key) -> tuple[Layout, Iovec]:
        """The batch where it lies. DataError if a file changed."""
        self._check()
        ids = sample_ids(self._dataset, key)
        check_ids(ids, self._dataset.source.samples)  # an address is made of each
        form = self._form(key.rows)
        pieces: Pieces = np.empty((form.pieces, 2), np.uint64)
        held: list[object] = [self]
        at = 0
        for part in form.parts:
            if isinstance(part, _Rows):
                part.locate(ids, pieces[at : at + len(ids)])
                at += len(ids)
                continue
            memory = np.zeros(part.nbytes, np.uint8)
            for name, place in part.arrays:
                found = np.ascontiguousarray(ids, NUMBERS).view(np.uint8) if name == IDS else self._kept[name][ids]
                memory[place] = found.reshape(-1)
            pieces[at, 0], pieces[at, 1] = address_of(memory), part.nbytes
            held.append(memory)
            at += 1
        # Over a slow network it takes long until the last row is taken, and by then the file may be another one.
        return form.layout, Iovec(pieces, held, [Checkpoint(at - 1, self._check)])

    def _form(self, rows: int) -> "_Form":
        """Of what a batch of so many rows consists. The last part holds the sample ids."""
        if (form := self._forms.get(rows)) is not None:
            return form
        layout = layout_of(self._dataset, rows)
        parts: list[_Rows | _Small] = []
        between: list[tuple[str, slice]] = []
        begin = end = 0
        for array in layout.arrays:
            if (of_column := self._long.get(array.name)) is not None:
                if array.offset > begin:
                    parts.append(_Small(array.offset - begin, tuple(between)))
                parts.append(of_column)
                between = []
                begin = end = array.offset + array.nbytes
            else:
                end = array.offset + array.nbytes
                between.append((array.name, slice(array.offset - begin, end - begin)))
        parts.append(_Small(end - begin, tuple(between)))
        if len(self._forms) >= LAYOUTS:
            self._forms.clear()
        count = sum(rows if isinstance(part, _Rows) else 1 for part in parts)
        form = self._forms[rows] = _Form(layout, parts, count)
        return form

    def _check(self) -> None:
        """DataError if a file is not what it was."""
        for stamp, extent in self._files.items():
            stamp.check(extent.fd)

    @cached_property
    def _kept(self) -> dict[str, Array]:
        """Columns with short rows, whole (uint8, one a row)."""
        return {name: np.concatenate([_read(extent) for extent in one]) for name, one in self._short.items()}


@contextmanager
def sending(sources: Collection[ZeroCopySource]) -> Iterator[None]:
    """While batches of these sources are sent on this thread: notes what stands in the way of sending more so.

    Raises what the send raises. A source whose memory is no longer there, or whose file changed, is given up: a worker
    says to trainers what is wrong.
    """
    before = _waits_for_disk()
    try:
        yield
    except (OSError, FeedlineError) as error:
        if isinstance(error, FeedlineError) or error.errno == errno.EFAULT:
            for source in sources:
                source.give_up()
        raise
    was_waited_for = _waits_for_disk() != before
    for source in sources:
        source.note_disk(was_waited_for=was_waited_for)


def zero_copy_source(dataset: Dataset) -> ZeroCopySource | None:
    """What can be sent of it without being assembled; None if nothing can."""
    source = dataset.source
    if (
        dataset.is_stream
        or dataset.on_bad_sample != "error"
        or not dataset.only_writes
        or not isinstance(source, HasExtents)
    ):
        return None
    extents: dict[str, tuple[Extent, ...]] = {}
    for column in dataset.columns:
        found = source.extents(column.name)
        if not found:
            return None
        extents[column.name] = found
    short = [one for one in extents.values() if one[0].row_nbytes < LEAST_ROW_NBYTES]
    if len(short) == len(extents) or sum(_nbytes(one) for one in short) > KEPT_NBYTES:
        return None
    return ZeroCopySource(dataset, extents)


@dataclass(frozen=True, slots=True)
class _Small:
    """What lies between columns of long rows: short ones, sample ids, and zeros."""

    nbytes: int
    arrays: tuple[tuple[str, slice], ...]
    """Names, and where in it."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Of what batches of one number of rows consist."""

    layout: Layout
    parts: "Sequence[_Rows | _Small]"
    pieces: int


class _Rows:
    """A column's rows, by sample id."""

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self.nbytes = extents[0].row_nbytes
        self._starts = np.cumsum([0, *(extent.rows for extent in extents[:-1])], dtype=np.int64)
        # Where sample 0 would lie if each extent went on before its beginning: one addition less for each row.
        self._origins = np.array([extent.address for extent in extents], np.int64) - self._starts * self.nbytes
        self._held = extents

    def locate(self, ids: NDArray[np.int64], pieces: Pieces) -> None:
        """Write where these lie."""
        extent = 0 if len(self._held) == 1 else np.searchsorted(self._starts, ids, side="right") - 1
        pieces[:, 0] = ids * self.nbytes + self._origins[extent]
        pieces[:, 1] = self.nbytes


def _nbytes(extents: tuple[Extent, ...]) -> int:
    return sum(extent.rows * extent.row_nbytes for extent in extents)


def _read(extent: Extent) -> Array:
    """The rows (uint8, one a row), read and not mapped: a file that is cut meanwhile must not end this process."""
    extent.stamp.check(extent.fd)
    rows = np.empty(extent.rows * extent.row_nbytes, np.uint8)
    try:
        read_into(extent.fd, rows.data, extent.offset)
    except OSError as error:
        raise DataError(f"{extent.stamp.path}: cannot be read ({error.strerror})") from error
    extent.stamp.check(extent.fd)  # also where it ended before
    return rows.reshape(extent.rows, extent.row_nbytes)


def _waits_for_disk() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
