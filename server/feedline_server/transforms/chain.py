"""The transforms of a dataset, one after the other: what comes out of them, and how a batch goes through.

What comes out is decided when the dataset is opened, and it is the same for all views. A function of the operator's own
is tried on a few samples then, so that it fails at the start and not in the night.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import ElementwiseTransform, TransformConfig
from feedline_server.host.stopwatch import Stopwatch
from feedline_server.sources.selection import Selection, ids_at
from feedline_server.sources.source import AnySource, GeneratedSource, SampleRequest
from feedline_server.transforms.reading import Reader, reader
from feedline_server.transforms.rows import Rows, Scratch
from feedline_server.transforms.transform import Spec, Transform
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Array, Column

if TYPE_CHECKING:
    from feedline_wire.elementwise import Deferred

MAKERS = {
    **dict.fromkeys(("cast", "scale", "normalise", "one_hot"), "elementwise.ValueByValue"),
    "pad": "sequences.Pad",
    "truncate": "sequences.Truncate",
    "embed": "embedding.Embed",
    "resize": "images.Resize",
    "crop": "images.Crop",
    "random_crop": "images.RandomCrop",
    "random_resized_crop": "images.RandomResizedCrop",
    "random_flip": "images.RandomFlip",
    "stack": "stacking.Stack",
    "code": "code.Function",
}
"""By name the module, and the class in it, which is imported for the transforms that a dataset has."""

TRIED = 2
"""Samples that an operator's function is tried on: with one, what differs between samples does not show."""

TRIALS = 8
"""How often that is tried with other samples, where bad ones are left out."""


@dataclass(frozen=True, slots=True)
class Step:
    """A transform at its place."""

    purpose: str
    """What it draws for: its number and name."""
    named: str
    """What messages call it."""
    columns: tuple[str, ...]
    """What it needs and changes."""
    transform: Transform


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What the samples of one view go through."""

    steps: tuple[Step, ...]
    ends: tuple[frozenset[str], ...]
    """For each step the columns that no later one touches, and before all of them those that none touches."""

    @property
    def is_random(self) -> bool:
        """A sample may come out otherwise in another epoch."""
        return any(step.transform.is_random for step in self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """All transforms of a dataset."""

    columns: tuple[Column, ...]
    """What comes out."""
    longest: Mapping[str, int]
    """How long samples of varying columns are at most, as far as is known."""
    unit_rows: int
    """How many rows an id has at most: of a batched dataset those of a unit, else 1."""
    reads: tuple[str, ...]
    """The columns of the source that are needed."""
    ways: Mapping[str, Way]
    """By view."""
    deferred: "tuple[Deferred, ...]"
    """What the trainer does, after everything else."""
    content: tuple[bytes, ...]
    """What stands for code and tables in the dataset's identity."""
    is_fixed: bool
    """How large a batch is follows from the number of its ids."""
    is_straight: bool
    """Samples go from their source to the slot as they are."""
    is_generated: bool
    """The source itself may draw random numbers."""
    read: Reader
    gather: Callable[[NDArray[np.int64], Mapping[str, Array]], None]
    """Of what is straight: the source's own."""
    is_batched: bool = False
    """An id is a unit of any number of rows; `unit_rows` is an estimate."""
    scratch: Scratch = field(default_factory=Scratch)
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Of the thread that assembles."""

    def reading_for(self, used: Collection[str]) -> "Chain":
        """The same, reading only what these columns of a batch and the transforms need."""
        touched = {name for way in self.ways.values() for step in way.steps for name in step.columns}
        return replace(self, reads=tuple(name for name in self.reads if name in used or name in touched))

    def prepared(self, view: str, request: SampleRequest, out: Mapping[str, Array]) -> Rows:
        """These samples, read and transformed; columns of `out` are written there where that saves a copy."""
        way = self.ways[view]
        self.watch.begin_read()
        rows = self.read(request, self.reads, _part(out, way.ends[0]), self.scratch)
        self.watch.end_read(is_own=self.is_generated)
        return through(way, rows, out, self.watch)


def through(way: Way, rows: Rows, out: Mapping[str, Array], watch: Stopwatch) -> Rows:
    """The samples behind the last step."""
    for step, ends in zip(way.steps, way.ends[1:], strict=True):
        rows.begin(step.purpose, step.named, _part(out, ends))
        step.transform.apply(rows)
        watch.lap(step.purpose)
    return rows


def _part(out: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    return {name: array for name, array in out.items() if name in names}


# ---- opening ----


def make(config: TransformConfig, declaration: Declaration) -> Transform:
    """The transform that a table means; DataError if its code or its files are not there."""
    module, _, name = MAKERS[config.name].partition(".")
    made: Transform = getattr(import_module(f"feedline_server.transforms.{module}"), name)(config, declaration)
    return made


def open_chain(
    dataset: str, config: Declaration, source: AnySource, views: Mapping[str, Selection], *, is_batched: bool
) -> Chain:
    """The transforms that a declaration means, tried; DataError naming the transform if one does not fit."""
    opening = _Opening(dataset, config, source, views, is_batched=is_batched)
    early, deferred = opening.parted()
    opened = {view: opening.way(view, early) for view in views}
    (first, (_, out)), *others = opened.items()
    columns = tuple(spec.column for spec in out.values())
    for view, (_, other) in others:
        found = tuple(spec.column for spec in other.values())
        if found != columns:
            raise DataError(
                f"dataset {dataset!r}: the transforms make {listed(columns)} of view {first!r}, but {listed(found)} of "
                f"view {view!r}; give all views the same columns: where one has random_crop, the other wants crop"
            )
    if deferred:
        from feedline_wire.elementwise import columns_after

        try:
            columns_after(columns, deferred)
        except DataError as error:
            raise DataError(f"dataset {dataset!r}, late transforms: {error}") from error
    ways = {view: way for view, (way, _) in opened.items()}
    is_generated = isinstance(source, GeneratedSource)
    varies = any(VARIES in column.shape for column in columns)
    return Chain(
        columns=columns,
        longest={name: spec.longest for name, spec in out.items() if spec.varies},
        unit_rows=source.unit_rows if isinstance(source, GeneratedSource) else 1,
        reads=tuple(column.name for column in source.columns),
        ways=ways,
        deferred=deferred,
        content=tuple(chunk for _, _, transform, _ in opening.made for chunk in transform.content),
        is_fixed=not (is_batched or varies),
        is_straight=not (is_generated or varies or any(way.steps for way in ways.values())),
        is_generated=is_generated,
        read=opening.read,
        is_batched=is_batched,
        gather=_never if isinstance(source, GeneratedSource) else source.gather,
    )


class _Opening:
    """A chain while it is opened: view by view, step by step."""

    def __init__(
        self, dataset: str, config: Declaration, source: AnySource, views: Mapping[str, Selection], *, is_batched: bool
    ) -> None:
        self._dataset = dataset
        self._config = config
        self._views = views
        self.read = reader(source, is_batched=is_batched)
        self._scratch = Scratch()
        longest = _longest(source)
        self._specs = {column.name: Spec(column, longest.get(column.name, 0)) for column in source.columns}
        self.made: list[tuple[int, dict[str, Spec], Transform, dict[str, Spec]]] = []
        """Every transform: its number, what it was made for, and what comes out. Views that are alike share it."""

    def parted(self) -> "tuple[list[tuple[int, TransformConfig]], tuple[Deferred, ...]]":
        """What the loader does, numbered, and what the trainer does; DataError if their order cannot be kept."""
        early: list[tuple[int, TransformConfig]] = []
        deferred: list[Deferred] = []
        finished: dict[str, str] = {}
        for number, config in enumerate(self._config.transforms):
            named = self._named(number, config)
            if config.views is not None and (unknown := [view for view in config.views if view not in self._views]):
                raise DataError(f"{named}: there is no view {unknown[0]!r}; the views are {', '.join(self._views)}")
            if isinstance(config, ElementwiseTransform) and config.late:
                if config.views is not None:
                    raise DataError(f"{named}: is late, so it is done for all views; leave out views, or late")
                deferred += [(name, config.operation) for name in config.columns]
                finished |= dict.fromkeys(config.columns, named)
                continue
            touched = [name for name in finished if config.columns is None or name in config.columns]
            if touched:
                raise DataError(
                    f"{named}: comes after {finished[touched[0]]}, which is late and so is the last for column "
                    f"{touched[0]!r}; move late transforms to the end"
                )
            early.append((number, config))
        return early, tuple(deferred)

    def way(self, view: str, early: list[tuple[int, TransformConfig]]) -> tuple[Way, dict[str, Spec]]:
        """What the samples of a view go through, and what comes out."""
        steps: list[Step] = []
        specs = self._specs
        for number, config in early:
            if config.views is None or view in config.views:
                before = specs
                transform, specs = self._step(view, number, config, steps, specs)
                columns = tuple({**before, **specs}) if config.columns is None else config.columns
                steps.append(Step(f"{number} {config.key}", self._named(number, config), columns, transform))
        return self._way(steps), specs

    def _way(self, steps: list[Step]) -> Way:
        ends: list[frozenset[str]] = []
        later: frozenset[str] = frozenset()
        for step in reversed(steps):
            ends.append(frozenset(step.columns) - later)
            later |= frozenset(step.columns)
        return Way(tuple(steps), (frozenset(self._specs) - later, *reversed(ends)))

    def _step(
        self, view: str, number: int, config: TransformConfig, before: list[Step], specs: dict[str, Spec]
    ) -> tuple[Transform, dict[str, Spec]]:
        """The transform, made for these columns, and what comes out of it."""
        for made, made_for, transform, after in self.made:
            if made == number and made_for == specs:
                return transform, after
        named = self._named(number, config)
        # Always to be tried with the first samples alone, where bad ones are errors.
        trials = TRIALS if self._config.on_bad_sample != "error" else 1
        for trial in range(trials):
            try:
                transform = make(config, self._config)
                samples = partial(self._trial, view, before, f"{number} {config.key}", named, trial)
                after = transform.columns(specs, samples)
            except BadSample:
                if trial == trials - 1:
                    raise
            except DataError as error:
                message = str(error.args[0])
                if message.startswith(named):
                    raise
                raise DataError(f"{named}: {message}", traceback=error.traceback, samples=error.samples) from error
            else:
                self.made.append((number, specs, transform, after))
                return transform, after
        raise AssertionError("the last trial returns or raises")

    def _trial(self, view: str, before: list[Step], purpose: str, named: str, trial: int) -> Rows:
        """A few samples of a view as they come out of these steps, ready for the next."""
        selection = self._views[view]
        places = np.arange(trial * TRIED, min((trial + 1) * TRIED, len(selection)), dtype=np.int64)
        ids = ids_at(selection, places if len(places) else np.zeros(1, np.int64))
        request = SampleRequest(ids, np.zeros(len(ids), np.int64), seed=0)
        rows = through(self._way(before), self.read(request, tuple(self._specs), {}, self._scratch), {}, Stopwatch())
        rows.begin(purpose, named, {})
        return rows

    def _named(self, number: int, config: TransformConfig) -> str:
        return f"dataset {self._dataset!r}, transforms.{number} ({config.key})"


def _longest(source: AnySource) -> Mapping[str, int]:
    longest: Mapping[str, int] = getattr(source, "longest", {})
    return longest


def _never(ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
    raise AssertionError("what is generated is not gathered")
