"""A dataset: samples with ids, the views that name some of them, and how columns make up a batch.

Everything here follows from the declaration and the files, so every process that opens the same declaration has the
same dataset.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from feedline_server.declared.datasets import ColumnsConfig, Declaration
from feedline_server.declared.forms import Table
from feedline_server.host.child_process import ChildProcess
from feedline_server.order.positions import ORDERS, ORDERS_BY_LENGTH
from feedline_server.sources.arrays.stamp import Stamps, adopt, remember
from feedline_server.sources.kinds.opening import describe_source, open_source
from feedline_server.sources.selection import Selection, View
from feedline_server.sources.source import (
    Announcing,
    AnySource,
    GeneratedSource,
    HasFiles,
    Opened,
    RaggedSource,
    ReadElsewhere,
)
from feedline_server.sources.tables.names import called, inputs_and_targets
from feedline_server.sources.validation import Split
from feedline_server.transforms.chain import Chain, open_chain
from feedline_wire.errors import DataError
from feedline_wire.listing import listed
from feedline_wire.structure import Structure, column_names
from feedline_wire.tensors import VARIES, Column, Layout

if TYPE_CHECKING:
    from feedline_server.batches.bad_samples import KnownBad
    from feedline_wire.elementwise import Deferred

NAMES_NBYTES = 1 << 20
"""Of a column's categories that trainers are told: those of ImageNet's 21,841 classes take a third. A description with
more than 4 MiB is refused by a gRPC client with its usual settings."""

STREAM = ("stream",)
"""The only order of what has no ids."""

LATEST = 32
"""Batches among which other orders of a dataset are looked for that are served at once. Of four in turn one is not
among the latest 32 of a worker once in 2,500 times."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A source with views and a structure."""

    name: str
    source: AnySource
    views: Mapping[str, View]
    structure: Structure
    chain: Chain
    """What is done to its samples."""
    notes: tuple[str, ...] = ()
    """What an operator should know at the start and what stops nothing."""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the numbers in a column stand for, by column of the source: the name of number 0, of number 1 and so on."""
    is_batched: bool = False
    """Its ids are units, ready batches, and a key's rows are units: their arrays are laid end to end."""
    is_stream: bool = False
    """It has no ids: whatever is asked for, the next unit comes."""
    is_for_one_worker: bool = False
    """A stream that would be the same in every worker."""
    is_deterministic: bool = True
    """What is read again is the same, or the operator has not said that it is not."""
    orders: tuple[str, ...] = ORDERS
    """What it may be asked in."""
    nan: Literal["allow", "error"] = "allow"
    on_bad_sample: Literal["error", "skip", "substitute"] = "error"
    known_bad: "KnownBad | None" = None
    """Samples that were found to be bad, in this process; None where those are errors."""
    announcing: Announcing | None = None
    """The source, if it should be told early what will be wanted."""
    columns: tuple[Column, ...] = field(init=False, repr=False)
    """The columns that the structure uses, as a batch carries them: the trainer does what is late."""
    only_writes: bool = field(init=False, repr=False)
    """What lies in a batch's slot is not read again while it is assembled, so nothing is learnt from it."""
    files: tuple[Stamps, ...] = ()
    """What the files were that it is read from."""
    layouts: dict[int, Layout] = field(init=False, default_factory=dict, repr=False)
    """Of batches of so many rows; see assembly.layout_of."""
    latest: deque[tuple[str, str, int]] = field(init=False, default_factory=lambda: deque(maxlen=LATEST), repr=False)
    """View, order and seed of the batches that this process assembled last, where it reads ahead."""

    def __post_init__(self) -> None:
        used = set(column_names(self.structure))
        object.__setattr__(self, "columns", tuple(one for one in self.chain.columns if one.name in used))
        object.__setattr__(self, "only_writes", self.chain.is_straight and self.nan == "allow")

    def release(self) -> ChildProcess | None:
        """The process that reads samples of the operator's Python here, to go on as a worker; None if there is none."""
        return self.source.release() if isinstance(self.source, ReadElsewhere) else None

    def close(self) -> None:
        """End that process. Idempotent; it is started again when samples are read."""
        _close(self.source)

    @property
    def sent_categories(self) -> Mapping[str, Sequence[str]]:
        """Those of its columns' categories that trainers are told."""
        used = set(column_names(self.structure))
        return {name: names for name, names in self.categories.items() if name in used and not _are_many(names)}

    @property
    def deferred(self) -> "tuple[Deferred, ...]":
        """What the trainer does to columns that a batch carries."""
        used = set(column_names(self.structure))
        return tuple((name, operation) for name, operation in self.chain.deferred if name in used)


def open_dataset(name: str, config: Declaration, others: Iterable[Declaration] = ()) -> Dataset:
    """The dataset that a declaration means, looked at as a whole: every file of a list, every sample that is filtered.

    DataError naming file, found, wanted and what to change if there is none. `close` it when it is described. What the
    `others` that are served beside it are or name is not noted as left out of it.
    """
    with _reading(config):
        opened = describe_source(config)
    try:
        opened = _split(config, opened)
        with _reading(config):
            notes = (*opened.notes(), *_left_out(config, opened, list(others)))
            files = remember(_files(opened), trusts_times=config.trust is not None)
        if config.filters:
            from feedline_server.batches.filters import filtered

            opened = replace(opened, views=filtered(name, config, opened.source, opened.views))
        dataset = dataset_of(name, config, opened, notes)
        return replace(dataset, files=files, notes=(*dataset.notes, *_missing(config, opened, dataset)))
    except BaseException:
        _close(opened.source)
        raise


@contextmanager
def _reading(config: Declaration) -> Iterator[None]:
    """DataError if something of its files cannot be read: a disk that fails does so at any call."""
    try:
        yield
    except OSError as error:
        if config.kind == "python":  # which is the operator's own code
            raise
        raise DataError(f"{error.filename or config.path}: cannot be read ({error.strerror or error})") from error


def _left_out(config: Declaration, opened: Opened, others: Sequence[Declaration]) -> Iterable[str]:
    """A note if the declared folder has files that are neither served nor named in the declaration."""
    if opened.files is None or not config.path.is_dir():
        return ()
    from feedline_server.sources.files.left_out import left_out  # workers do not ask

    named = _texts([one.set_fields() for one in (config, *others)])
    return left_out(config.path, (*opened.files, *named), [str(one.path) for one in others])


def _texts(value: object) -> Iterator[str]:
    """Every text in a declared value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Table):
        yield from _texts(value.set_fields())
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, Iterable):
        for one in value:
            yield from _texts(one)


def open_dataset_in_worker(
    name: str,
    config: Declaration,
    kept: Mapping[str, Selection] | None = None,
    opened: Opened | None = None,
    records: memoryview | None = None,
) -> Dataset:
    """The same to read from, after another process has looked at it, which knows what filters `kept` of each view.

    `opened` is the source, if it is open in this process already; `records` are what its files were for the other one.
    DataError if they are not that any more.
    """
    with _reading(config):
        opened = opened or open_source(config)
        if records is not None:
            adopt(_files(opened), records, trusts_times=config.trust is not None)
    return dataset_of(name, config, _split(config, opened) if kept is None else replace(opened, views=kept))


def _split(config: Declaration, opened: Opened) -> Opened:
    """With a share of `train` as `validation`, where that is declared. DataError if the data has no such share."""
    if config.validation_split is None:
        return opened
    if opened.is_batched or opened.is_stream:
        what = "makes ready batches, each of samples of its own choice"
        if opened.is_stream:
            what = "yields what it likes, and both views would be read from it: the same samples in either"
        raise DataError(
            f"{config.path}: validation_split is of samples that have a number, and this code {what}; part them in the "
            "code, and name an object for each view: views = {train = …, validation = …}"
        )
    split = Split(config.validation_split, config.validation_seed)
    return replace(opened, views=split.applied(opened.views, opened.identities, config.path))


def dataset_of(name: str, config: Declaration, opened: Opened, notes: Sequence[str] = ()) -> Dataset:
    """The dataset that a declaration makes of an open source; DataError if its columns or transforms do not fit."""
    source = opened.source
    chain = open_chain(name, config, source, opened.views, is_batched=opened.is_batched)
    columns = [column.name for column in chain.columns]
    structure = _own_structure(opened, columns, config) or structure_of(columns, config)
    used = set(column_names(structure))
    unused = [column for column in columns if column not in used]
    categories = _categories(opened, config)
    notes = (
        *notes,
        *(f"column {column!r} is in no part of a batch and is not served" for column in unused),
        *(
            f"the names of the {len(names):,} categories of {column!r} take more than {NAMES_NBYTES >> 20} MiB and are "
            "not sent to trainers; `feedline inspect --json` lists them"
            for column, names in categories.items()
            if _are_many(names)
        ),
        *_doubles(name, config, source, [column for column in chain.columns if column.name in used]),
    )
    orders = opened.orders or _orders(opened)
    measure = source.lengths if isinstance(source, RaggedSource) and "buckets" in orders else None
    return Dataset(
        name,
        source,
        {view: View(view, selection, measure) for view, selection in opened.views.items()},
        structure,
        chain.reading_for(used),
        notes,
        categories,
        is_batched=opened.is_batched,
        is_stream=opened.is_stream,
        is_for_one_worker=opened.is_for_one_worker,
        is_deterministic=opened.is_deterministic,
        orders=orders,
        nan=config.nan,
        on_bad_sample=config.on_bad_sample,
        known_bad=_known_bad(name) if config.on_bad_sample != "error" else None,
        announcing=source if isinstance(source, Announcing) and source.most_ahead else None,
    )


def _doubles(dataset: str, config: Declaration, source: AnySource, columns: Sequence[Column]) -> Iterator[str]:
    """A remark on each column that is float64 because code made it so, and neither files nor a declaration."""
    stored = () if isinstance(source, GeneratedSource) else source.columns
    meant = {column.name for column in stored if column.dtype == np.float64}
    for one in config.transforms:
        if getattr(one, "dtype", None) == "float64":
            meant |= set(one.columns or ())
    for column in columns:
        if column.dtype == np.float64 and column.name not in meant:
            nbytes = column.dtype.itemsize * prod(size for size in column.shape if size != VARIES)
            row = "step" if VARIES in column.shape else "sample"
            yield (
                f"column {column.name!r} is float64, as code returns it: {nbytes:,} bytes a {row} where float32 takes "
                f"{nbytes // 2:,}. If the model takes float32, add [[datasets.{dataset}.transforms]] "
                f'name = "cast", column = "{column.name}", dtype = "float32"'
            )


def _missing(config: Declaration, opened: Opened, dataset: Dataset) -> Iterator[str]:
    """A remark on columns that are read and lack values; DataError if views are of all rows and none may be bad."""
    found = {name: count for name, count in opened.missing.items() if name in dataset.chain.reads}
    if not found:
        return
    counts = listed(f"{name} in {count:,} of {opened.source.samples:,} rows" for name, count in found.items())
    fill = ", ".join(f"{name} = …" for name in found)
    text = (
        f"{config.path}: columns have no value (null): {counts}; say what stands there, fill = {{{fill}}}, or leave "
        'such rows out with on_bad_sample = "skip"'
    )
    if config.on_bad_sample == "error" and not config.filters and not getattr(config, "views", {}):
        raise DataError(text)
    yield text


def _are_many(names: Sequence[str]) -> bool:
    return sum(len(name.encode()) for name in names) > NAMES_NBYTES


def _categories(opened: Opened, config: Declaration) -> Mapping[str, tuple[str, ...]]:
    """As declared and as the data itself says; DataError if what is declared is about no column."""
    columns = [column.name for column in opened.source.columns]
    if unknown := [name for name in config.categories if name not in columns]:
        raise DataError(
            f"{config.path}: categories name the column {unknown[0]!r}; the columns are {', '.join(columns)}"
        )
    # A folder's name may be no text, and messages are; what is shown is then nearly the name.
    return {
        column: tuple(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names)
        for column, names in {**opened.categories, **config.categories}.items()
    }


def _files(opened: Opened) -> Iterable[Stamps]:
    return opened.source.files() if isinstance(opened.source, HasFiles) else ()


def _close(source: AnySource) -> None:
    if isinstance(source, ReadElsewhere):
        source.close()


def _known_bad(name: str) -> "KnownBad":
    from feedline_server.batches.bad_samples import KnownBad

    return KnownBad(name)


def _orders(opened: Opened) -> tuple[str, ...]:
    if opened.is_stream:
        return STREAM
    return ORDERS_BY_LENGTH if isinstance(opened.source, RaggedSource) else ORDERS


def _own_structure(opened: Opened, columns: Sequence[str], config: Declaration) -> Structure | None:
    """What the data itself says, unless the declaration says otherwise or a transform made other columns."""
    if opened.structure is None or config.inputs is not None or config.targets is not None or config.sample_weight:
        return None
    return opened.structure if set(column_names(opened.structure)) <= set(columns) else None


def structure_of(columns: Sequence[str], config: Declaration) -> Structure:
    """How the columns make up (inputs[, targets[, sample weight]]): as declared, else by their names."""
    weight = [config.sample_weight] if config.sample_weight else []
    declared = [*(config.inputs or ()), *(config.targets or ()), *weight]
    unknown = [name for name in declared if name not in columns]
    if unknown:
        raise DataError(f"{config.path}: there is no column {unknown[0]!r}; the columns are {', '.join(columns)}")
    inputs, targets = _inputs_and_targets([name for name in columns if name not in declared], config)
    if not inputs:
        from feedline_server.sources.kinds.columns import another_kind

        raise DataError(
            f"{config.path}: the columns {', '.join(columns)} do not show which are inputs and which are targets; "
            f'say so in loader.toml, such as inputs = ["{columns[0]}"] and targets = ["{columns[-1]}"]'
            + (another_kind(config.path) if isinstance(config, ColumnsConfig) else "")
        )
    if weight and not targets:
        raise DataError(f"{config.path}: sample_weight = {weight[0]!r}, but there are no targets; declare targets too")
    return tuple([_part(names) for names in (inputs, targets, weight) if names])


def _inputs_and_targets(free: Sequence[str], config: Declaration) -> tuple[Sequence[str], Sequence[str]]:
    """What is declared; what is not, from the other columns. No inputs: the names do not show them."""
    if config.inputs is not None:
        return config.inputs, called("y", free) if config.targets is None else config.targets
    if config.targets is not None:
        return free if len(free) == 1 else called("x", free), config.targets
    return inputs_and_targets(free)


def _part(names: Sequence[str]) -> Structure:
    """One column as itself, several as a mapping: what Keras takes for several inputs."""
    return names[0] if len(names) == 1 else {name: name for name in names}
