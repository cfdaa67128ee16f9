"""A dataset: samples with ids, the views that name some of them, and how columns make up a batch.

Everything here follows from the declaration and the files, so every process that opens the same declaration has the
same dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ColumnsConfig, Declaration
from feedline_server.host.child_process import ChildProcess
from feedline_server.order.positions import ORDERS, ORDERS_BY_LENGTH
from feedline_server.sources.kinds.opening import describe_source, open_source
from feedline_server.sources.selection import Selection, ids_at
from feedline_server.sources.source import Announcing, AnySource, Opened, RaggedSource, ReadElsewhere
from feedline_server.transforms.chain import Chain, open_chain
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.structure import Structure, column_names
from feedline_wire.tensors import Column, Layout

if TYPE_CHECKING:
    from feedline_server.batches.bad_samples import KnownBad
    from feedline_wire.elementwise import Deferred

STREAM = ("stream",)
"""The only order of what has no ids."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A named choice of a dataset's samples, in an order of its own."""

    name: str
    selection: Selection

    def __repr__(self) -> str:
        return f"<View {self.name} {self.samples} samples>"

    @property
    def samples(self) -> int:
        """How many samples the view has."""
        return len(self.selection)

    def ids(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample ids at these places (0..samples-1) of the view."""
        # Past the end of one view begins another: trained on what should be measured on, unnoticed.
        if len(indices) and (indices.min() < 0 or indices.max() >= self.samples):
            raise InvalidRequest(
                f"view {self.name!r} has places 0..{self.samples - 1}; {indices.min()}..{indices.max()} were asked for"
            )
        return ids_at(self.selection, indices)


@dataclass(frozen=True, slots=True)
class ViewLengths:
    """How long the samples of a view are: a Measure, and two of the same view and source are equal."""

    view: View
    source: RaggedSource

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See Measure."""
        return self.source.lengths(self.view.ids(indices))


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
    classes: Mapping[str, int] = field(default_factory=dict)
    """How many samples each class has, in the order of their numbers; empty where there are no classes."""
    is_batched: bool = False
    """Its ids are units, ready batches, and a key's rows are units: their arrays are laid end to end."""
    is_stream: bool = False
    """It has no ids: whatever is asked for, the next unit comes."""
    orders: tuple[str, ...] = ORDERS
    """What it may be asked in."""
    nan: Literal["allow", "error"] = "allow"
    on_bad_sample: Literal["error", "skip", "substitute"] = "error"
    known_bad: "KnownBad | None" = None
    """Samples that were found to be bad, in this process; None where those are errors."""
    announcing: Announcing | None = None
    """The source, if it should be told early what will be wanted."""
    layouts: dict[int, Layout] = field(init=False, default_factory=dict, repr=False)
    """Of batches of so many rows; see assembly.layout_of."""

    def lengths(self, view: View) -> ViewLengths | None:
        """How long the samples of a view are; None where all samples are of one length."""
        # Asked for every batch: a protocol's isinstance would cost more than its order.
        return ViewLengths(view, self.source) if "buckets" in self.orders else None  # type: ignore[arg-type]

    def release(self) -> ChildProcess | None:
        """The process that reads samples of the operator's Python here, to go on as a worker; None if there is none."""
        return self.source.release() if isinstance(self.source, ReadElsewhere) else None

    def close(self) -> None:
        """End that process. Idempotent; it is started again when samples are read."""
        _close(self.source)

    @property
    def only_writes(self) -> bool:
        """What lies in a batch's slot is not read again while it is assembled, so nothing is learnt from it."""
        return self.chain.is_straight and self.nan == "allow"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the structure uses, as a batch carries them: the trainer does what is late."""
        used = set(column_names(self.structure))
        return tuple(column for column in self.chain.columns if column.name in used)

    @property
    def deferred(self) -> "tuple[Deferred, ...]":
        """What the trainer does to columns that a batch carries."""
        used = set(column_names(self.structure))
        return tuple((name, operation) for name, operation in self.chain.deferred if name in used)


def open_dataset(name: str, config: Declaration) -> Dataset:
    """The dataset that a declaration means, looked at as a whole: every file of a list, every sample that is filtered.

    DataError naming file, found, wanted and what to change if there is none. `close` it when it is described.
    """
    opened = describe_source(config)
    try:
        notes = tuple(opened.notes())
        if config.filters:
            from feedline_server.batches.filters import filtered

            opened = replace(opened, views=filtered(name, config, opened.source, opened.views))
        return dataset_of(name, config, opened, notes)
    except BaseException:
        _close(opened.source)
        raise


def open_dataset_in_worker(
    name: str, config: Declaration, kept: Mapping[str, Selection] | None = None, opened: Opened | None = None
) -> Dataset:
    """The same to read from, after another process has looked at it, which knows what filters `kept` of each view.

    `opened` is the source, if it is open in this process already.
    """
    opened = opened or open_source(config)
    return dataset_of(name, config, opened if kept is None else replace(opened, views=kept))


def dataset_of(name: str, config: Declaration, opened: Opened, notes: Sequence[str] = ()) -> Dataset:
    """The dataset that a declaration makes of an open source; DataError if its columns or transforms do not fit."""
    source = opened.source
    chain = open_chain(name, config, source, opened.views, is_batched=opened.is_batched)
    columns = [column.name for column in chain.columns]
    structure = _own_structure(opened, columns, config) or structure_of(columns, config)
    used = set(column_names(structure))
    unused = [column for column in columns if column not in used]
    notes = (*notes, *(f"column {column!r} is in no part of a batch and is not served" for column in unused))
    return Dataset(
        name,
        source,
        {view: View(view, selection) for view, selection in opened.views.items()},
        structure,
        chain.reading_for(used),
        notes,
        opened.classes,
        is_batched=opened.is_batched,
        is_stream=opened.is_stream,
        orders=opened.orders or _orders(opened),
        nan=config.nan,
        on_bad_sample=config.on_bad_sample,
        known_bad=_known_bad(name) if config.on_bad_sample != "error" else None,
        announcing=source if isinstance(source, Announcing) and source.most_ahead else None,
    )


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
        return config.inputs, _called("y", free) if config.targets is None else config.targets
    if config.targets is not None:
        return free if len(free) == 1 else _called("x", free), config.targets
    inputs, targets = (free, ()) if len(free) == 1 else (_called("x", free), _called("y", free))
    # Names beside a plain x and y are left out with a note; without them, a guess that leaves some out is no answer.
    if len(inputs) + len(targets) < len(free) and not {"x", "y"} <= set(free):
        return (), ()
    return inputs, targets


def _called(letter: str, names: Sequence[str]) -> list[str]:
    """The column of just that name, or else all whose names begin with it."""
    return [letter] if letter in names else [name for name in names if name.lower().startswith(letter)]


def _part(names: Sequence[str]) -> Structure:
    """One column as itself, several as a mapping: what Keras takes for several inputs."""
    return names[0] if len(names) == 1 else {name: name for name in names}
