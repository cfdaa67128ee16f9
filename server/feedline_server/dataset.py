"""A dataset: samples with ids, the views that name some of them, and how columns make up a batch.

The law: everything here follows from the declaration and the files, so every process that opens the same
declaration has the same dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feedline_server.declaration import DatasetConfig, Declaration
from feedline_server.order import ORDERS
from feedline_server.sources.opening import open_source
from feedline_server.sources.selection import Selection
from feedline_server.sources.source import AnySource
from feedline_wire.elementwise import Late
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.structure import Structure, column_names
from feedline_wire.tensors import Column

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
        # Past the end of one view begins another: trained on what should be measured on, and nobody would know.
        if len(indices) and (indices.min() < 0 or indices.max() >= self.samples):
            raise InvalidRequest(
                f"view {self.name!r} has places 0..{self.samples - 1}; {indices.min()}..{indices.max()} were asked for"
            )
        if isinstance(self.selection, range):
            return indices + self.selection.start
        return self.selection[indices]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A source with views and a structure."""

    name: str
    source: AnySource
    views: Mapping[str, View]
    structure: Structure
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
    late: tuple[Late, ...] = ()
    """What trainers do to the columns when they have arrived; `columns` are as they travel."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the structure uses: what a batch carries."""
        used = set(column_names(self.structure))
        return tuple(column for column in self.source.columns if column.name in used)


def open_dataset(name: str, config: DatasetConfig, *, checked: bool = False) -> Dataset:
    """The dataset that a declaration means; DataError naming file, found, wanted and what to change if there is none.

    `checked` is for workers: the front has opened the same declaration, so long checks and notes are left out.
    """
    opened = open_source(config, checked=checked)
    said = config.inputs is not None or config.targets is not None or config.sample_weight is not None
    structure = opened.structure if not said else None
    if structure is None:
        structure = structure_of([column.name for column in opened.source.columns], config)
    unused = [column.name for column in opened.source.columns if column.name not in set(column_names(structure))]
    notes = (*opened.notes, *(f"column {column!r} is in no part of a batch and is not served" for column in unused))
    views = {view: View(view, selection) for view, selection in opened.views.items()}
    return Dataset(
        name,
        opened.source,
        views,
        structure,
        notes,
        opened.classes,
        is_batched=opened.is_batched,
        is_stream=opened.is_stream,
        orders=opened.orders or (STREAM if opened.is_stream else ORDERS),
    )


def structure_of(columns: Sequence[str], config: Declaration) -> Structure:
    """How the columns make up (inputs[, targets[, sample weight]]): as declared, else by their names."""
    weight = [config.sample_weight] if config.sample_weight else []
    said = [*(config.inputs or ()), *(config.targets or ()), *weight]
    unknown = [name for name in said if name not in columns]
    if unknown:
        raise DataError(f"{config.path}: there is no column {unknown[0]!r}; the columns are {', '.join(columns)}")
    inputs, targets = _inputs_and_targets([name for name in columns if name not in said], config)
    if not inputs:
        raise DataError(
            f"{config.path}: the columns {', '.join(columns)} do not show which are inputs and which are targets; "
            f'say so in loader.toml, such as inputs = ["{columns[0]}"] and targets = ["{columns[-1]}"]'
        )
    if weight and not targets:
        raise DataError(f"{config.path}: sample_weight = {weight[0]!r}, but there are no targets; declare targets too")
    return tuple([_part(names) for names in (inputs, targets, weight) if names])


def _inputs_and_targets(free: Sequence[str], config: Declaration) -> tuple[Sequence[str], Sequence[str]]:
    """What is declared; what is not, from the columns nobody named. No inputs: the names do not show them."""
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
