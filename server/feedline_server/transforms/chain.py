"""The transforms of a dataset, one after the other: what comes out of them, and how a batch goes through.

The law: what comes out is decided when the dataset is opened, and it is the same for all views. A transform of the
operator's own is tried on a few samples then, so that it fails at the start and not in the night.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import (
    CodeTransform,
    ElementwiseTransform,
    EmbedTransform,
    PadTransform,
    TransformConfig,
    TruncateTransform,
)
from feedline_server.sources.selection import Selection, ids_at
from feedline_server.sources.source import AnySource, GeneratedSource, SampleRequest, Source
from feedline_server.transforms.reading import Reader, reader
from feedline_server.transforms.rows import Rows, Scratch
from feedline_server.transforms.transform import Spec, Transform
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Array, Column

if TYPE_CHECKING:
    from feedline_wire.elementwise import Deferred

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

    @property
    def is_fixed(self) -> bool:
        """How large a batch is follows from the number of its ids."""
        return not self.is_batched and not any(VARIES in column.shape for column in self.columns)

    def reading_for(self, used: Collection[str]) -> "Chain":
        """The same, reading only what these columns of a batch and the transforms need."""
        touched = {name for way in self.ways.values() for step in way.steps for name in step.columns}
        return replace(self, reads=tuple(name for name in self.reads if name in used or name in touched))

    def prepared(self, view: str, request: SampleRequest, out: Mapping[str, Array]) -> Rows:
        """These samples, read and transformed; columns of `out` are written there where that saves a copy."""
        way = self.ways[view]
        rows = self.read(request, self.reads, _part(out, way.ends[0]), self.scratch)
        return through(way, rows, out)


def through(way: Way, rows: Rows, out: Mapping[str, Array]) -> Rows:
    """The samples behind the last step."""
    for step, ends in zip(way.steps, way.ends[1:], strict=True):
        rows.begin(step.purpose, step.named, _part(out, ends))
        step.transform.apply(rows)
    return rows


def _part(out: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    return {name: array for name, array in out.items() if name in names}


# ---- opening ----


def untouched(source: Source, views: Iterable[str]) -> Chain:
    """A chain that does nothing."""
    return Chain(
        columns=source.columns,
        longest={},
        unit_rows=1,
        reads=tuple(column.name for column in source.columns),
        ways=dict.fromkeys(views, Way((), (frozenset(),))),
        deferred=(),
        content=(),
        is_straight=True,
        is_generated=False,
        read=reader(source, is_batched=False),
        gather=source.gather,
    )


def open_chain(
    dataset: str, config: Declaration, source: AnySource, views: Mapping[str, Selection], *, is_batched: bool
) -> Chain:
    """The transforms that a declaration means, tried; DataError naming the transform if one does not fit."""
    return _Opening(dataset, config, source, views, is_batched=is_batched).chain()


class _Opening:
    """A chain while it is found out: view by view, step by step."""

    def __init__(
        self, dataset: str, config: Declaration, source: AnySource, views: Mapping[str, Selection], *, is_batched: bool
    ) -> None:
        self._dataset = dataset
        self._config = config
        self._views = views
        self._source = source
        self._is_drawn = isinstance(source, GeneratedSource)
        self._is_batched = is_batched
        self._read = reader(source, is_batched=is_batched)
        self._scratch = Scratch()
        longest: Mapping[str, int] = getattr(source, "longest", {})
        self._specs = {column.name: Spec(column, longest.get(column.name, 0)) for column in source.columns}
        self._unit_rows = max([1, *longest.values()]) if is_batched else 1
        self._made: list[_Made] = []

    def chain(self) -> Chain:
        """All of it."""
        early, deferred = self._parted()
        walked = {view: self._walk(view, early) for view in self._views}
        (first, (_, out)), *others = walked.items()
        for view, (_, other) in others:
            self._check_alike(first, out, view, other)
        columns = tuple(spec.column for spec in out.values())
        if deferred:
            self._check_deferred(columns, deferred)
        ways = {view: way for view, (way, _) in walked.items()}
        varies = any(VARIES in column.shape for column in columns)
        return Chain(
            columns=columns,
            longest={name: spec.longest for name, spec in out.items() if spec.varies},
            unit_rows=self._unit_rows,
            reads=tuple(self._specs),
            ways=ways,
            deferred=deferred,
            content=tuple(chunk for made in self._made for chunk in getattr(made.transform, "content", ())),
            is_straight=not (self._is_drawn or varies or any(way.steps for way in ways.values())),
            is_generated=self._is_drawn,
            read=self._read,
            is_batched=self._is_batched,
            gather=_never if isinstance(self._source, GeneratedSource) else self._source.gather,
        )

    def _parted(self) -> "tuple[list[tuple[int, TransformConfig]], tuple[Deferred, ...]]":
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

    def _walk(self, view: str, early: list[tuple[int, TransformConfig]]) -> tuple[Way, dict[str, Spec]]:
        """What the samples of a view go through, and what comes out."""
        steps: list[Step] = []
        specs = self._specs
        for number, config in early:
            if config.views is not None and view not in config.views:
                continue
            named = self._named(number, config)
            before = specs
            transform, specs = self._step(view, number, config, steps, specs)
            columns = tuple({**before, **specs}) if config.columns is None else config.columns
            steps.append(Step(f"{number} {config.key}", named, columns, transform))
        return Way(tuple(steps), _ends(steps, tuple(self._specs))), specs

    def _step(
        self, view: str, number: int, config: TransformConfig, before: list[Step], specs: dict[str, Spec]
    ) -> tuple[Transform, dict[str, Spec]]:
        """The transform, made for these columns, and what comes out of it."""
        for made in self._made:
            if made.number == number and made.before == specs:
                return made.transform, made.after
        named = self._named(number, config)
        # Always to be tried with the first samples alone, where bad ones are errors.
        trials = TRIALS if self._config.on_bad_sample != "error" else 1
        for trial in range(trials):
            try:
                transform = make(config, self._config)
                after = transform.columns(
                    specs, partial(self._trial, view, before, f"{number} {config.key}", named, trial)
                )
            except BadSample:
                if trial == trials - 1:
                    raise
            except DataError as error:
                said = str(error.args[0])
                if said.startswith(named):
                    raise
                raise DataError(f"{named}: {said}", traceback=error.traceback, samples=error.samples) from error
            else:
                self._made.append(_Made(number, specs, transform, after))
                return transform, after
        raise AssertionError("the last trial returns or raises")

    def _trial(self, view: str, before: list[Step], purpose: str, named: str, trial: int) -> Rows:
        """A few samples of a view as they come out of these steps, ready for the next."""
        selection = self._views[view]
        places = np.arange(trial * TRIED, min((trial + 1) * TRIED, len(selection)), dtype=np.int64)
        if not len(places):
            places = np.zeros(1, np.int64)
        ids = ids_at(selection, places)
        request = SampleRequest(ids, np.zeros(len(ids), np.int64), seed=0)
        way = Way(tuple(before), _ends(before, tuple(self._specs)))
        rows = through(way, self._read(request, tuple(self._specs), {}, self._scratch), {})
        rows.begin(purpose, named, {})
        return rows

    def _check_deferred(self, columns: Sequence[Column], deferred: "Sequence[Deferred]") -> None:
        from feedline_wire.elementwise import columns_after

        try:
            columns_after(columns, deferred)
        except DataError as error:
            raise DataError(f"dataset {self._dataset!r}, late transforms: {error}") from error

    def _check_alike(self, first: str, one: dict[str, Spec], view: str, other: dict[str, Spec]) -> None:
        columns, others = [spec.column for spec in one.values()], [spec.column for spec in other.values()]
        if columns != others:
            raise DataError(
                f"dataset {self._dataset!r}: the transforms make {listed(columns)} of view {first!r}, but "
                f"{listed(others)} of view {view!r}; give all views the same columns: where one has random_crop, "
                "the other wants crop"
            )

    def _named(self, number: int, config: TransformConfig) -> str:
        return f"dataset {self._dataset!r}, transforms.{number} ({config.key})"


@dataclass(frozen=True, slots=True)
class _Made:
    """A transform, made for some columns: views that have the same at this place share it."""

    number: int
    before: dict[str, Spec]
    transform: Transform
    after: dict[str, Spec]


def make(config: TransformConfig, declaration: Declaration) -> Transform:
    """The transform that a table means; DataError if its code or its files are not there.

    Its module is imported for it: a worker without transforms needs none of them.
    """
    match config:
        case ElementwiseTransform():
            from feedline_server.transforms.elementwise import ValueByValue

            return ValueByValue(config)
        case PadTransform() | TruncateTransform():
            from feedline_server.transforms import sequences

            return sequences.Pad(config) if isinstance(config, PadTransform) else sequences.Truncate(config)
        case EmbedTransform():
            from feedline_server.transforms.embedding import Embed

            return Embed(config, declaration)
        case CodeTransform():
            from feedline_server.host.user_code import imported
            from feedline_server.transforms.code import Function

            return Function(config, imported(config.code, declaration.code_folders))
    from feedline_server.transforms import images

    return images.make(config)


def _never(ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
    raise AssertionError("what is drawn is not gathered")


def _ends(steps: list[Step], read: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    """Which columns are done with before the first step, and by each."""
    ends: list[frozenset[str]] = []
    later: frozenset[str] = frozenset()
    for step in reversed(steps):
        ends.append(frozenset(step.columns) - later)
        later |= frozenset(step.columns)
    return (frozenset(read) - later, *reversed(ends))
