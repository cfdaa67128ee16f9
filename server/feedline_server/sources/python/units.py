"""Ready batches that the operator's code makes, by number or as a stream: units, with any number of rows each.

All arrays of a unit have the same number of rows, and the rows of every unit have the shape and dtype of the first
unit's.
"""

import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feedline_server.host.user_code import exception_line
from feedline_server.sources.python import seeding
from feedline_server.sources.python.copies import Copies
from feedline_server.sources.python.objects import Built, Ids, calling, generators
from feedline_server.sources.python.returned import Form, Unfit, form_of
from feedline_server.sources.ragged import Ragged, joined
from feedline_server.sources.source import SampleRequest, check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

KEPT = 4
"""Epochs whose copies are kept: a training and its validation, each at the turn of an epoch."""

PROBED = 2
"""Units that stand for all in the fingerprint, the first and the last: every worker makes them when it starts."""

_NOTIFIED = ("on_epoch_end", "on_epoch_begin")
"""What Keras calls between the batches of two epochs, in its order."""

_ENDED = object()


class Units:
    """Units of objects that are laid end to end: what they are made of is known from the first of them."""

    def __init__(self, ids: Ids, first: Any, name: str, wanted: Sequence[str] | None) -> None:  # noqa: ANN401 - the operator's
        self._ids = ids
        self.samples = len(ids)
        self._first_name = name
        self.columns: tuple[Column, ...] = ()
        """A row of a unit."""
        try:
            self.form: Form = form_of(first, wanted)
            arrays = self._arrays(first)
        except Unfit as error:
            raise DataError(f"{name} {error}") from error
        self.columns = tuple(Column(name, array.dtype, array.shape[1:]) for name, array in arrays.items())
        self.longest = {name: len(array) for name, array in arrays.items()}

    def forget(self) -> None:
        """Begin all epochs anew, as far as that can be."""

    def _checked(self, value: Any) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        """A unit's arrays. Raises Unfit if it is unlike the first."""
        arrays = self._arrays(value)
        for column in self.columns:
            array = arrays[column.name]
            if array.dtype != column.dtype or array.shape[1:] != column.shape:
                found = Column(column.name, array.dtype, array.shape[1:])
                raise Unfit(
                    f"has rows of {found}, {self._first_name} has {column}; give the rows of all batches one shape and "
                    "dtype: pad or cut them to one length where they are made"
                )
        return arrays

    def _arrays(self, value: Any) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        arrays = self.form.arrays(value, {column.name: column.dtype for column in self.columns} or None)
        for name, array in arrays.items():
            if not array.ndim:
                raise Unfit(f"holds the single number {array} in {name}; return arrays with a row for each sample")
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise Unfit(f"has columns of different numbers of rows ({rows}); give each as many as it has samples")
        return arrays


def _together(units: Sequence[dict[str, Array]]) -> dict[str, Array | Ragged]:
    """Units as the columns of a batch, one sample a unit."""
    if len(units) == 1:  # nearly always: not copied
        return {name: Ragged(array, np.array([0, len(array)], np.int64)) for name, array in units[0].items()}
    return {name: joined([unit[name] for unit in units]) for name in units[0]}


def _copied(unit: dict[str, Array]) -> dict[str, Array]:
    """A unit that stays what it is: code may fill the same array for each batch."""
    return {name: array.copy() for name, array in unit.items()}


# ---- by number ----


@dataclass(frozen=True, slots=True, eq=False)
class _Epoch:
    value: Any
    generators: list[seeding.Generator]


class Batches(Units):
    """Objects whose `object[i]` is a whole batch, such as a Keras Sequence.

    Unit i of an epoch is a function of (seed, epoch, i). Each epoch has a copy of the object as it was built, which is
    seeded from (seed, epoch) and told of the epoch as Keras would tell it; each of its batches is seeded from
    (seed, epoch, i). What an epoch does to the object reaches no other epoch.
    """

    probed = PROBED

    def __init__(self, objects: Sequence[Built], wanted: Sequence[str] | None) -> None:
        self._objects = objects
        self._ids = Ids(objects)
        self._another = [_another(one) for one in objects]
        self._epochs: OrderedDict[tuple[int, int, int], _Epoch] = OrderedDict()
        super().__init__(self._ids, self._value(0, 0, 0), self._ids.named(0, "batch"), wanted)

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        places = zip(request.ids.tolist(), request.epochs.tolist(), strict=True)
        units = (self._unit(unit, epoch, request.seed) for unit, epoch in places)
        return _together(list(units) if len(request.ids) == 1 else [_copied(unit) for unit in units])

    def forget(self) -> None:
        """See Units."""
        self._epochs.clear()

    def _unit(self, unit: int, epoch: int, seed: int) -> dict[str, Array]:
        try:
            return self._checked(self._value(unit, epoch, seed))
        except Unfit as error:
            raise BadSample(f"{self._ids.named(unit, 'batch')} {error}", samples=[unit]) from error

    def _value(self, unit: int, epoch: int, seed: int) -> Any:  # noqa: ANN401 - the operator's
        view, index = self._ids.locate(unit)
        of_epoch = self._epoch(view, seed, epoch)
        seeding.seed(seeding.number("batch", seed, epoch, unit), of_epoch.generators)
        sentence = f"{self._ids.named(unit, 'batch')} cannot be made: it"
        return calling(sentence, lambda: of_epoch.value[index], BadSample, samples=[unit])

    def _epoch(self, view: int, seed: int, epoch: int) -> _Epoch:
        key = (view, seed, epoch)
        if key not in self._epochs:
            begun = self._begun(view, seed, epoch)
            while len(self._epochs) >= KEPT:
                self._epochs.popitem(last=False)
            self._epochs[key] = begun
        self._epochs.move_to_end(key)
        return self._epochs[key]

    def _begun(self, view: int, seed: int, epoch: int) -> _Epoch:
        built = self._objects[view]
        value = self._another[view]()
        found = _Epoch(value, generators(built, value))
        seeding.seed(seeding.number("epoch", seed, epoch), found.generators)
        if callable(set_epoch := getattr(value, "set_epoch", None)):
            calling(f"{built.reference}: set_epoch({epoch})", lambda: set_epoch(epoch))
        for name in _NOTIFIED:
            if callable(method := getattr(value, name, None)):
                calling(f"{built.reference}: {name}()", method)
        return found


def _another(built: Built) -> Callable[[], Any]:
    """What gives an object as it was built, as often as it is called."""
    try:
        copies = Copies(built.value)
        copies.another()
    except Exception as error:  # TooLarge, or whatever the object's parts raise when they are taken apart
        if built.anew is not None:
            return built.anew
        raise DataError(
            f"{built.reference}: cannot be copied for each epoch ({exception_line(error)}); name a function or class "
            "that makes it instead, or keep what is large in one array or a file"
        ) from error
    return copies.another


# ---- as a stream ----


class Streams(Units):
    """Generators, of which each is a view.

    Every unit that a generator yields is served at most once. Each worker runs a generator of its own with random
    numbers of its own, so what comes depends on the workers and on when it is asked for; of an id only its view counts.
    """

    probed = 0

    def __init__(self, objects: Sequence[Built], wanted: Sequence[str] | None) -> None:
        worker = secrets.randbits(64)
        self._names = [one.reference for one in objects]
        self._running = [_Running(one, worker + view) for view, one in enumerate(objects)]
        self._first: Any = self._running[0].next()
        super().__init__(Ids(objects), self._first, f"the first batch of {self._names[0]}", wanted)

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        return _together([self._unit(self._ids.locate(unit)[0]) for unit in request.ids.tolist()])

    def _unit(self, view: int) -> dict[str, Array]:
        if view == 0 and self._first is not None:
            value, self._first = self._first, None
        else:
            value = self._running[view].next()
        try:
            return _copied(self._checked(value))
        except Unfit as error:
            raise DataError(f"a batch of {self._names[view]} {error}") from error


class _Running:
    """One generator, begun with the first `next`, and again when it has ended or raised."""

    def __init__(self, built: Built, worker: int) -> None:
        self._built = built
        self._worker = worker
        self._iterator: Iterator[Any] | None = None
        self._begun = 0
        self._yielded = 0  # since it was begun
        self._steps = 0

    def next(self) -> Any:  # noqa: ANN401 - the operator's
        # Before each, because samples of other datasets seed the same generators to the same numbers in every worker.
        self._steps += 1
        seeding.seed(seeding.number("stream", self._worker, self._steps))
        value = self._next()
        if value is _ENDED:
            self._log_its_end()
            self._iterator = None
            value = self._next()
        if value is _ENDED:
            raise DataError(f"{self._built.reference}: ended before it yielded anything")
        self._yielded += 1
        return value

    def _next(self) -> Any:  # noqa: ANN401 - the operator's
        reference = self._built.reference
        try:
            if self._iterator is None:
                self._begun += 1
                self._yielded = 0
                self._iterator = iter(calling(f"{reference}: beginning it", self._begin))
            iterator = self._iterator
            return calling(f"{reference}: its next batch", lambda: next(iterator, _ENDED))
        except DataError:
            self._iterator = None  # a generator that raised has ended
            raise

    def _begin(self) -> Any:  # noqa: ANN401 - the operator's
        assert self._built.anew is not None, "a stream can always be begun"
        if not self._built.takes_seed:
            return self._built.anew()
        return self._built.anew(seed=seeding.number("seed", self._worker, self._begun) & 0x7FFFFFFF)

    def _log_its_end(self) -> None:
        if self._begun == 1 and self._yielded:
            print(  # noqa: T201 - a worker's log is its standard error
                f"feedline: {self._built.reference} ended after {self._yielded} batches and begins again; "
                "let it loop (while True:) if beginning takes long",
                file=sys.stderr,
                flush=True,
            )
