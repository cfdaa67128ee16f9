"""Objects whose `object[i]` is a sample, as a source.

A sample is a function of (seed, epoch, sample id), whatever was read before: what the object draws from is seeded from
these before each `object[i]`. What it was never seen to draw from is not seeded, and compared after each batch; at the
first draw the batch is made again. Samples of other shapes or dtypes than the first are refused.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.python.draws import Draws
from feedline_server.sources.python.held import returned
from feedline_server.sources.python.objects import (
    RAISED,
    Built,
    Ids,
    calling,
    check_length,
    failed,
    first_good,
    generators,
)
from feedline_server.sources.python.returned import Form, Unfit, form_of, wanted
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample
from feedline_wire.tensors import Array, Column

Places: TypeAlias = Sequence[tuple[int, int]]
"""Samples of one object: what its code calls them, and their ids."""


class SampleRows:
    """Samples of the form of the first one, and together."""

    unit_rows = 1

    def __init__(self, config: PythonConfig, named: Callable[[int], str]) -> None:
        """`named` gives a sample's name for messages."""
        self._wanted, self._dropped = wanted(config), config.drop
        self._named = named
        self.longest: dict[str, int] = {}

    def begin(self, first: Any, name: str) -> None:  # noqa: ANN401 - the operator's
        """Take the form of the first sample. BadSample if it has none."""
        try:
            self.form: Form = form_of(first, self._wanted, self._dropped)
            arrays = self.form.arrays(first)
        except Unfit as error:
            raise BadSample(f"{name} {error}") from error
        self._first_name = name
        self.columns = tuple(Column(name, array.dtype, array.shape) for name, array in arrays.items())
        self._dtypes = {column.name: column.dtype for column in self.columns}

    def together(self, values: list[Any], samples: list[int]) -> dict[str, Array]:
        """The columns of these samples. BadSample naming one that is unlike the first."""
        found = self.form.together(values, self.columns)
        if found is not None:
            return found
        out = {column.name: np.empty((len(values), *column.shape), column.dtype) for column in self.columns}
        for row, (value, sample) in enumerate(zip(values, samples, strict=True)):
            for name, array in self._arrays(value, sample).items():
                out[name][row] = array
        return out

    def _arrays(self, value: Any, sample: int) -> dict[str, Array]:  # noqa: ANN401 - the operator's
        try:
            arrays = self.form.arrays(value, self._dtypes)
        except Unfit as error:
            raise BadSample(f"{self._named(sample)} {error}", samples=[sample], evidence=returned(value)) from error
        for column in self.columns:
            array = arrays[column.name]
            if array.shape != column.shape or array.dtype != column.dtype:
                raise BadSample(self._other(sample, column, array), samples=[sample], evidence=returned(value))
        return arrays

    def _other(self, sample: int, column: Column, array: Array) -> str:
        found = Column(column.name, array.dtype, array.shape)
        remedy = (
            "give all samples one shape: pad or cut them where they are made"
            if array.shape != column.shape
            else f"return one dtype, such as with .astype({column.dtype.name!r})"
        )
        return f"{self._named(sample)} holds {found}, {self._first_name} holds {column}; {remedy}"


class Samples(SampleRows):
    """Map-style objects laid end to end."""

    probed = 4
    """Samples that stand for all in the fingerprint, evenly spread: each may cost what an image does."""

    def __init__(self, objects: Sequence[Built], config: PythonConfig) -> None:
        self._ids = Ids(objects)
        super().__init__(config, self._ids.named)
        self.samples = len(self._ids)
        self._objects = [_Object(one) for one in objects]
        first_good(config, objects[0].length, self._first)  # what is made with the first call is there now
        self._objects = [_Object(one) for one in objects]
        first_good(config, objects[0].length, self._first)

    def watch(self, *, on: bool) -> None:
        """See Batches; here it is always known."""

    @property
    def draws(self) -> bool:
        """Whether reading was seen to draw random numbers."""
        return any(one.draws.drawn for one in self._objects)

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        samples, values = request.ids.tolist(), list[Any]()
        located = zip(map(self._ids.locate, samples), samples, request.epochs.tolist(), strict=True)
        for (view, epoch), of_epoch in groupby(located, lambda one: (one[0][0], one[2])):
            places = [(index, sample) for (_, index), sample, _ in of_epoch]
            values += self._read(view, request.seed, epoch, places)
        return dict(self.together(values, samples))

    def _first(self, sample: int) -> None:
        self.begin(self._read(0, 0, 0, [(sample, sample)])[0], self._named(sample))

    def forget(self) -> None:
        """Nothing is remembered."""

    def _read(self, view: int, seed: int, epoch: int, places: Places) -> list[Any]:
        one = self._objects[view]
        one.tell(seed, epoch)
        while True:
            before = one.draws.begin()
            try:
                values = one.read(seed, epoch, places, self._ids)
            except BadSample:
                if not one.draws.learn(before):
                    raise
            else:
                if not one.draws.learn(before):
                    return values


class _Object:
    """One object, and what is known of how it is read."""

    def __init__(self, built: Built) -> None:
        self._built = built
        self._own = generators(built, built.value)
        self.draws = Draws(self._own)
        self._epoch: tuple[int, int] | None = None
        """Seed and epoch that it was told of."""

    def tell(self, seed: int, epoch: int) -> None:
        """Tell an object that wants to know it which epoch it is asked for, as torch's samplers are told."""
        set_epoch = getattr(self._built.value, "set_epoch", None)
        if callable(set_epoch) and self._epoch != (seed, epoch):
            seeding.seed(seeding.number("epoch", seed, epoch), self._own)
            calling(f"{self._built.reference}: set_epoch({epoch})", lambda: set_epoch(epoch))
            check_length(self._built, self._built.value, epoch)
            self._epoch = (seed, epoch)

    def read(self, seed: int, epoch: int, places: Places, ids: Ids) -> list[Any]:
        """What it returns for these. Raises BadSample."""
        value, values = self._built.value, list[Any]()
        is_seeded = self.draws.is_each_seeded
        if not is_seeded and len(places) > 1 and hasattr(value, "__getitems__"):
            with suppress(*RAISED):  # one by one it is known which
                values = list(value.__getitems__([index for index, _ in places]))
                if len(values) == len(places):
                    return values
                values = []
        try:
            for index, sample in places:
                if is_seeded:
                    self.draws.seed(seeding.number("sample", seed, epoch, sample))
                values.append(value[index])
        except RAISED as raised:
            sample = places[len(values)][1]
            raise failed(f"{ids.named(sample)} cannot be read: it", raised, BadSample, samples=[sample]) from raised
        return values
