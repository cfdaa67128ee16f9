"""Generators, as a source of units without end.

The law: there is none but this: every unit that a generator yields is served once at most. Each worker runs a generator
of its own with random numbers of its own, so what comes depends on the workers and on who asks when. One that ends is
begun again.
"""

import secrets
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from feedline_server.sources.python import seeding as python_random
from feedline_server.sources.python.ids import Ids
from feedline_server.sources.python.objects import Built, calling
from feedline_server.sources.python.returned import Form, Unfit
from feedline_server.sources.python.units import Units, kept, together
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest, check_ids
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array, Column

_ENDED = object()


class _Running:
    """One generator, begun when it is first asked, and begun again when it has ended or raised."""

    def __init__(self, built: Built, worker: int) -> None:
        self._built = built
        self._worker = worker
        self._iterator: Iterator[Any] | None = None
        self._begun = 0
        self._yielded = 0  # since it was begun
        self._asked = 0

    def next(self) -> Any:  # noqa: ANN401 - the operator's
        # Before each, because samples of other datasets seed the same generators to the same numbers in every worker.
        self._asked += 1
        python_random.seed(python_random.number("stream", self._worker, self._asked))
        value = self._next()
        if value is _ENDED:
            self._say_that_it_ended()
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
        return self._built.anew(seed=python_random.number("seed", self._worker, self._begun) & 0x7FFFFFFF)

    def _say_that_it_ended(self) -> None:
        if self._begun == 1 and self._yielded:
            print(  # noqa: T201 - a worker's log is its standard error
                f"feedline: {self._built.reference} ended after {self._yielded} batches and begins again; "
                "let it loop (while True:) if beginning takes long",
                file=sys.stderr,
                flush=True,
            )


class Streams:
    """Generators, of which each is a view. Of an id only that is read whose it is."""

    probed = 0

    def __init__(self, objects: Sequence[Built], wanted: Sequence[str] | None) -> None:
        worker = secrets.randbits(64)
        self._ids = Ids(objects)
        self._names = [one.reference for one in objects]
        self._running = [_Running(one, worker + place) for place, one in enumerate(objects)]
        self._first: Any = self._running[0].next()
        self._units = Units(self._first, f"the first batch of {self._names[0]}", wanted)

    @property
    def form(self) -> Form:
        """How a unit is made up."""
        return self._units.form

    @property
    def samples(self) -> int:
        """See GeneratedSource."""
        return len(self._ids)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See GeneratedSource."""
        return self._units.columns

    @property
    def longest(self) -> dict[str, int]:
        """See GeneratedSource."""
        return self._units.longest

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource; what ids and epochs say plays no part."""
        check_ids(request.ids, self.samples)
        return together([self._unit(self._ids.place(unit).view) for unit in request.ids.tolist()])

    def forget(self) -> None:
        """Nothing can be begun anew."""

    def _unit(self, place: int) -> dict[str, Array]:
        value, self._first = (self._first, None) if not place else (None, self._first)
        if value is None:
            value = self._running[place].next()
        name = f"a batch of {self._names[place]}"
        try:
            return kept(self._units.checked(value, name))
        except Unfit as error:
            raise DataError(f"{name} {error}") from error
