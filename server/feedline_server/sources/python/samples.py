"""Objects whose `object[i]` is a sample, as a source.

Before each `object[i]` everything random is seeded from (seed, epoch, sample id), so a sample is a function of these,
whatever was read before. Samples of other shapes or dtypes than the first are refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from feedline_server.sources.python import seeding
from feedline_server.sources.python.objects import RAISED, Built, Ids, failed, generators
from feedline_server.sources.python.returned import Form, Unfit, form_of
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest, check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

PROBED = 4
"""Samples that stand for all in the fingerprint, evenly spread: each may cost what an image does, in every worker."""


class Samples:
    """Map-style objects laid end to end."""

    probed = PROBED

    def __init__(self, objects: Sequence[Built], wanted: Sequence[str] | None) -> None:
        self._objects = objects
        self._ids = Ids(objects)
        self.samples = len(self._ids)
        self._generators = [generators(one, one.value) for one in objects]
        first = self._value(0, 0, 0)
        try:
            self.form: Form = form_of(first, wanted)
            arrays = self.form.arrays(first)
        except Unfit as error:
            raise DataError(f"{self._ids.named(0)} {error}") from error
        self.columns = tuple(Column(name, array.dtype, array.shape) for name, array in arrays.items())
        self.longest: dict[str, int] = {}
        self._dtypes = {column.name: column.dtype for column in self.columns}

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        out = {column.name: np.empty((len(request.ids), *column.shape), column.dtype) for column in self.columns}
        for row, (sample, epoch) in enumerate(zip(request.ids.tolist(), request.epochs.tolist(), strict=True)):
            for name, array in self._arrays(sample, epoch, request.seed).items():
                out[name][row] = array
        return dict(out)

    def forget(self) -> None:
        """Nothing is remembered."""

    def _arrays(self, sample: int, epoch: int, seed: int) -> dict[str, Array]:
        try:
            arrays = self.form.arrays(self._value(sample, epoch, seed), self._dtypes)
        except Unfit as error:
            raise BadSample(f"{self._ids.named(sample)} {error}", samples=[sample]) from error
        for column in self.columns:
            array = arrays[column.name]
            if array.shape != column.shape or array.dtype != column.dtype:
                raise BadSample(self._other(sample, column, array), samples=[sample])
        return arrays

    def _value(self, sample: int, epoch: int, seed: int) -> Any:  # noqa: ANN401 - the operator's
        view, index = self._ids.locate(sample)
        seeding.seed(seeding.number("sample", seed, epoch, sample), self._generators[view])
        try:
            return self._objects[view].value[index]
        except RAISED as raised:
            sentence = f"{self._ids.named(sample)} cannot be read: it"
            raise failed(sentence, raised, BadSample, samples=[sample]) from raised

    def _other(self, sample: int, column: Column, array: Array) -> str:
        found = Column(column.name, array.dtype, array.shape)
        remedy = (
            "give all samples one shape: pad or cut them where they are made"
            if array.shape != column.shape
            else f"return one dtype, such as with .astype({column.dtype.name!r})"
        )
        return f"{self._ids.named(sample)} holds {found}, {self._ids.named(0)} holds {column}; {remedy}"
