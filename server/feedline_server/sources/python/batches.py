"""Objects whose `object[i]` is a whole batch, such as a Keras Sequence, as a source.

Batch i of an epoch is a function of (seed, epoch, i): each epoch has an object of its own (`epochs`), and each of its
batches is seeded from (seed, epoch, i). What reading an epoch does to the object reaches no other epoch.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.user_code import exception_line
from feedline_server.sources.python.copies import Copies, let_go
from feedline_server.sources.python.epochs import Epochs
from feedline_server.sources.python.held import returned
from feedline_server.sources.python.objects import Built, Ids, calling, first_good, generators
from feedline_server.sources.python.returned import Unfit
from feedline_server.sources.python.units import Units, copied, together
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array

KEPT = 4
"""Epochs whose objects are kept: a training and its validation, each at the turn of an epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class _Epoch:
    value: Any
    generators: list[seeding.Generator]


class Batches(Units):
    """Objects of batches laid end to end."""

    probed = 2
    """Batches that stand for all in the fingerprint, the first and the last: every worker makes them as it starts."""

    def __init__(self, objects: Sequence[Built], config: PythonConfig) -> None:
        super().__init__(Ids(objects), config)
        self._objects = objects
        self._anew = [_anew(one) for one in objects]
        self._under: OrderedDict[tuple[int, int], Epochs] = OrderedDict()
        self._epochs: OrderedDict[tuple[int, int, int], _Epoch] = OrderedDict()
        self.draws = False
        """Whether reading was seen to draw random numbers."""
        self._is_watched = False
        first_good(
            config, objects[0].length, lambda unit: self.begin(self._value(unit, 0, 0), self._ids.named(unit, "batch"))
        )

        with suppress(DataError):  # it is said when it is read
            self.vary(self._value(self.samples - 1, 0, 0))

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        places = zip(request.ids.tolist(), request.epochs.tolist(), strict=True)
        units = (self._unit(unit, epoch, request.seed) for unit, epoch in places)
        return together(list(units) if len(request.ids) == 1 else [copied(unit) for unit in units])

    def forget(self) -> None:
        """See Units."""
        while self._epochs:
            let_go(self._epochs.popitem()[1].value)

    def watch(self, *, on: bool) -> None:
        """Have `draws` found out: what that costs is more than some batches."""
        self._is_watched = on

    def _unit(self, unit: int, epoch: int, seed: int) -> dict[str, Array]:
        value = self._value(unit, epoch, seed)
        try:
            return self.checked(value)
        except Unfit as error:
            text, shown = f"{self._ids.named(unit, 'batch')} {error}", returned(value, is_batch=True)
            raise BadSample(text, samples=[unit], evidence=shown) from error

    def _value(self, unit: int, epoch: int, seed: int) -> Any:  # noqa: ANN401 - the operator's
        view, index = self._ids.locate(unit)
        of_epoch = self._epoch(view, seed, epoch)
        seeding.seed(seeding.number("batch", seed, epoch, unit), of_epoch.generators)
        sentence = f"{self._ids.named(unit, 'batch')} cannot be made: it"
        before = self._positions(of_epoch)
        value = calling(sentence, lambda: of_epoch.value[index], BadSample, samples=[unit])
        if before != self._positions(of_epoch):
            self.draws = True
        return value

    def _positions(self, of_epoch: _Epoch) -> list[object]:
        if not self._is_watched or self.draws:
            return []
        return [seeding.position(one) for one in (*seeding.shared_generators(), *of_epoch.generators)]

    def _epoch(self, view: int, seed: int, epoch: int) -> _Epoch:
        key = (view, seed, epoch)
        if key not in self._epochs:
            value = self._of_seed(view, seed).begun(epoch)
            while len(self._epochs) >= KEPT:
                let_go(self._epochs.popitem(last=False)[1].value)
            self._epochs[key] = _Epoch(value, generators(self._objects[view], value))
        self._epochs.move_to_end(key)
        return self._epochs[key]

    def _of_seed(self, view: int, seed: int) -> Epochs:
        if (view, seed) not in self._under:
            while len(self._under) >= KEPT:
                self._under.popitem(last=False)
            anew, can_keep = self._anew[view]
            timeout_s = self._config.start_timeout_s
            self._under[view, seed] = Epochs(self._objects[view], anew, seed, can_keep=can_keep, timeout_s=timeout_s)
        self._under.move_to_end((view, seed))
        return self._under[view, seed]


def _anew(built: Built) -> tuple[Callable[[], Any], bool]:
    """What gives an object as it was built, as often as it is called, and whether that is a copy."""
    try:
        copies = Copies(built.value)
        let_go(copies.another())
    except Exception as error:  # TooLarge, or whatever the object's parts raise when they are taken apart
        if built.anew is not None:
            return built.anew, False
        raise DataError(
            f"{built.reference}: cannot be copied for each epoch ({exception_line(error)}); name a function or class "
            "that makes it instead, or keep what is large in one array or a file"
        ) from error
    return copies.another, True
