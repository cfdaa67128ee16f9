"""Objects whose `object[i]` is a whole batch, such as a Keras Sequence, as a source of units.

The law: unit i of an epoch is a function of (seed, epoch, i). Each epoch has a copy of the object as it was built: it
is seeded from (seed, epoch), told of the epoch as Keras would tell it, and then asked for its batches, each seeded from
(seed, epoch, i). Nothing that an epoch did to the object reaches another epoch.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedline_server.sources.python import seeding as python_random
from feedline_server.sources.python.copies import Copies
from feedline_server.sources.python.ids import Ids
from feedline_server.sources.python.objects import Built, calling, generators, said
from feedline_server.sources.python.returned import Form, Unfit
from feedline_server.sources.python.units import Units, kept, together
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest, check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

KEPT = 4
"""Epochs whose copies are kept: a training and its validation, each at the turn of an epoch."""

PROBED = 2
"""Units that stand for all in the fingerprint, the first and the last: every worker makes them when it starts."""

_TOLD = ("on_epoch_end", "on_epoch_begin")
"""What Keras calls between the batches of two epochs, in its order."""


@dataclass(frozen=True, slots=True, eq=False)
class _Epoch:
    value: Any
    generators: list[python_random.Generator]


class Batches:
    """Sequences of ready batches laid end to end."""

    probed = PROBED

    def __init__(self, objects: Sequence[Built], wanted: Sequence[str] | None) -> None:
        self._objects = objects
        self._ids = Ids(objects)
        self._another = [_another(one) for one in objects]
        self._epochs: OrderedDict[tuple[int, int, int], _Epoch] = OrderedDict()
        self._units = Units(self._value(0, 0, 0), self._ids.named(0, "batch"), wanted)

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
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        asked = zip(request.ids.tolist(), request.epochs.tolist(), strict=True)
        units = (self._unit(unit, epoch, request.seed) for unit, epoch in asked)
        return together(list(units) if len(request.ids) == 1 else [kept(unit) for unit in units])

    def forget(self) -> None:
        """Begin all epochs anew."""
        self._epochs.clear()

    def _unit(self, unit: int, epoch: int, seed: int) -> dict[str, Array]:
        name = self._ids.named(unit, "batch")
        try:
            return self._units.checked(self._value(unit, epoch, seed), name)
        except Unfit as error:
            raise BadSample(f"{name} {error}", samples=[unit]) from error

    def _value(self, unit: int, epoch: int, seed: int) -> Any:  # noqa: ANN401 - the operator's
        place, index = self._ids.place(unit)
        of_epoch = self._epoch(place, seed, epoch)
        python_random.seed(python_random.number("batch", seed, epoch, unit), of_epoch.generators)
        sentence = f"{self._ids.named(unit, 'batch')} cannot be made: it"
        return calling(sentence, lambda: of_epoch.value[index], BadSample, samples=[unit])

    def _epoch(self, place: int, seed: int, epoch: int) -> _Epoch:
        key = (place, seed, epoch)
        found = self._epochs.get(key)
        if found is None:
            found = self._begun(place, seed, epoch)
            while len(self._epochs) >= KEPT:
                self._epochs.popitem(last=False)
            self._epochs[key] = found
        self._epochs.move_to_end(key)
        return found

    def _begun(self, place: int, seed: int, epoch: int) -> _Epoch:
        built = self._objects[place]
        value = self._another[place]()
        found = _Epoch(value, generators(built, value))
        python_random.seed(python_random.number("epoch", seed, epoch), found.generators)
        if callable(set_epoch := getattr(value, "set_epoch", None)):
            calling(f"{built.reference}: set_epoch({epoch})", lambda: set_epoch(epoch))
        for name in _TOLD:
            if callable(told := getattr(value, name, None)):
                calling(f"{built.reference}: {name}()", told)
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
            f"{built.reference}: cannot be copied for each epoch ({said(error)}); name a function or class that makes "
            "it instead, or keep what is large in one array or a file"
        ) from error
    return copies.another
