"""What data is to the rest of the loader: samples with ids 0..samples-1, in named columns.

A source writes exactly what its files hold, or raises. It never fills in: a model would train on zeros unnoticed.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import Declaration, PythonConfig
from feedline_server.host.child_process import ChildProcess
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Extent
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import Selection
from feedline_server.sources.validation import Identities
from feedline_wire.errors import BadSample, DataError
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column


class Data(Protocol):
    """Samples with ids 0..samples-1, in named columns. Opening them is cheap: every worker does it."""

    @property
    def samples(self) -> int:
        """How many samples there are."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column: little-endian dtype and the shape of one sample, which begins with VARIES if samples differ."""
        ...

    def content(self) -> Iterator[bytes]:
        """What the data's identity is made of: sizes, headers, sampled blocks of bytes; never paths or times."""
        ...


class Source(Data, Protocol):
    """Data that is read by sample id."""

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """Write the samples with these ids, in any order, repeats allowed, into the columns that `out` names.

        Each array of `out` is C-contiguous, of the column's dtype and of shape (len(ids), *column.shape). Raises
        BadSample, whose `samples` name the ids, if one cannot be read, and DataError if a file changed since it was
        opened.
        """
        ...


@runtime_checkable
class Announcing(Source, Protocol):
    """Data whose files the kernel can be asked to read before it is gathered."""

    @property
    def most_ahead(self) -> int:
        """How many samples may be announced before they are gathered: 0 if the page cache holds all anyway."""
        ...

    def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
        """These columns of these samples are gathered soon: have them read from the disk meanwhile.

        Nothing is waited for. Raises as `gather` does where files have to be opened for it.
        """
        ...


@runtime_checkable
class HasExtents(Protocol):
    """Data that may lie in memory as it travels, so that it need not be gathered."""

    def extents(self, name: str) -> tuple[Extent, ...] | None:
        """Where the samples of a column lie, by their ids from 0 on; None if they have to be gathered."""
        ...


@runtime_checkable
class HasFiles(Protocol):
    """Data that is read from files."""

    def files(self) -> Iterator[Stamps]:
        """What they were when they were opened, in an order that follows from the declaration and the files' names."""
        ...


@runtime_checkable
class RaggedSource(Source, Protocol):
    """Data with a column whose samples differ in their first dimension: its shape begins with VARIES.

    Those columns are read, never gathered: how large a batch becomes shows when its samples are known.
    """

    @property
    def longest(self) -> Mapping[str, int]:
        """The largest first dimension that a sample of each varying column has: what a slot is lent by."""
        ...

    def read(self, ids: NDArray[np.int64]) -> dict[str, Array | Ragged]:
        """Every column of these samples: an array of shape (len(ids), …), or Ragged where the column varies.

        Raises as `gather` does.
        """
        ...

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How long each of these samples is; bucketing sorts by it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SampleRequest:
    """Samples as a key means them: where the same sample may differ from epoch to epoch, ids alone are not enough."""

    ids: NDArray[np.int64]
    epochs: NDArray[np.int64]
    """The epoch of each of them: positions past the view's end belong to the next. From 2^63 on they are negative."""
    seed: int
    rows: NDArray[np.int64] | None = None
    """Of a unit's rows, laid end to end: which of its unit's each is. None while it is of ids."""

    def only(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "SampleRequest":
        """Some of these samples, by their places or by a mask."""
        return SampleRequest(self.ids[chosen], self.epochs[chosen], self.seed)


@runtime_checkable
class GeneratedSource(Data, Protocol):
    """Data whose samples are made by code that may draw random numbers, or that comes in ready batches or streams.

    Of a batched dataset an id is a unit, one ready batch; every column is then Ragged with one sample a unit, its shape
    is that of one row of a unit, which varies where units are padded to lengths of their own.
    """

    @property
    def unit_rows(self) -> int:
        """How many rows a unit has at most, as far as is known; 1 where an id is a sample."""
        ...

    @property
    def longest(self) -> Mapping[str, int]:
        """The largest first dimension of each column that is Ragged, as far as is known."""
        ...

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """Every column of these samples, as `RaggedSource.read` gives them: equal for equal (id, epoch, seed)."""
        ...


@runtime_checkable
class ReadElsewhere(Protocol):
    """Data that a child process reads. It is started when it is needed, also after `close` and `release`."""

    def release(self) -> ChildProcess | None:
        """The child, which is the caller's from now on; None if there is none."""
        ...

    def close(self) -> None:
        """End the child. Idempotent."""
        ...


AnySource: TypeAlias = Source | GeneratedSource
"""A RaggedSource is a Source too, of which only the columns that do not vary can be gathered."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A source, and what its files say about views."""

    source: AnySource
    views: Mapping[str, Selection]
    notes: Callable[[], Iterable[str]] = tuple
    """Looks at what takes long, every file and every boundary, and says what an operator should know at the start.

    DataError if something is wrong. Called once, by the process that serves; workers open what was looked at.
    """
    files: Collection[str | Path] | None = None
    """What is read of the declared folder, absolute or relative to it: other files there are noted as left out. None
    where that is not known."""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the numbers in a column stand for, by column: the name of number 0, of number 1 and so on."""
    identities: Identities | None = None
    """What a validation split tells samples by; None: their numbers."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """How many samples have no value in a column, as far as the files themselves say it."""
    is_batched: bool = False
    """An id is a unit, one ready batch, and a key's rows are units: the source is a GeneratedSource."""
    is_stream: bool = False
    """There are no ids: whatever is asked for, the next unit comes. The source is a GeneratedSource."""
    is_for_one_worker: bool = False
    """A stream that would be the same in every worker."""
    is_deterministic: bool = True
    """What is read again is the same, or the operator has not said that it is not."""
    orders: tuple[str, ...] | None = None
    """What the dataset may be asked in, the first by default; None: every order, or of a stream only `stream`."""
    structure: Structure | None = None
    """How the columns make up a batch, where the data itself says so; a declaration comes before it."""


def gathered(source: Source, ids: NDArray[np.int64], columns: Iterable[Column]) -> dict[str, Array]:
    """These columns of these samples, in arrays of their own. Raises as `gather` does."""
    out = {column.name: np.empty((len(ids), *column.shape), column.dtype) for column in columns}
    source.gather(ids, out)
    return out


def of_samples(error: BadSample, samples: Iterable[int], where: str = "") -> BadSample:
    """The same error by other ids: a part counts from 0, and so do the rows of a file."""
    return BadSample(f"{where}{error.args[0]}", traceback=error.traceback, samples=samples)


def took_too_long(declaration: Declaration, where: str) -> DataError:
    """The error of a dataset that was not opened in time, with what was being done."""
    what, doing = str(declaration.path), "opening it"
    if isinstance(declaration, PythonConfig):
        what, doing = ", ".join(declaration.objects.values()), "importing and building it"
    return DataError(
        f"{what}: {doing} took longer than {declaration.start_timeout_s:g} s and was given up; make it "
        "quicker, or raise start_timeout_s in loader.toml",
        traceback=where,
        elsewhere=True,
    )
