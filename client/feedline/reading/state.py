"""Where a trainer is, as a handful of small values.

A state describes what the trainer consumed, never what was fetched ahead, and does not depend on batch size, rank,
world or replicas: the same one is saved by every rank and continued under any of them. It is plain JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from feedline_wire.errors import DatasetChanged, InvalidRequest

VERSION = 1
"""Of the state's form and of what its numbers mean."""

LARGEST = 2**64 - 1
"""Seeds, epochs and offsets are 64 bits on the wire."""

State = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in an epoch: every position before it was consumed by the job."""

    epoch: int
    offset: int

    def settled(self, samples: int) -> "Place":
        """The same place, counted in the epoch it lies in: an epoch's end is the start of the next one."""
        if self.offset < samples:
            return self
        further, offset = divmod(self.offset, samples)
        return Place(self.epoch + further, offset)


@dataclass(frozen=True, slots=True)
class Line:
    """The endless line of samples that a place is a place in."""

    dataset: str
    fingerprint: bytes
    view: str
    order: str
    seed: int


def write(line: Line, place: Place) -> State:
    """The state of a trainer at a place."""
    return {
        "version": VERSION,
        "dataset": line.dataset,
        "fingerprint": line.fingerprint.hex(),
        "view": line.view,
        "order": line.order,
        "seed": line.seed,
        "epoch": place.epoch,
        "offset": place.offset,
    }


def read(state: Mapping[str, object], line: Line) -> tuple[int, Place]:
    """The seed and the place of a state that was written on `line`, or on one that differs from it in the seed alone.

    The state's seed wins over the feed's: with another one the samples already consumed would be other samples.
    InvalidRequest or DatasetChanged says what differs.
    """
    _same("version", state, VERSION, "save a new state with this version of feedline, or install the one that saved it")
    if _field(state, "fingerprint", str) != line.fingerprint.hex():
        raise DatasetChanged(
            f"the state was saved on dataset {state.get('dataset')!r} with the fingerprint {state['fingerprint']}; the "
            f"loader serves {line.dataset!r} with {line.fingerprint.hex()}: the order of samples is another one. "
            f"Serve the data that the state was saved on, or start without the state"
        )
    _same("view", state, line.view, "make the feed with the state's view, or start without the state")
    _same("order", state, line.order, "make the feed with the state's order, or start without the state")
    return _number(state, "seed"), Place(_number(state, "epoch"), _number(state, "offset"))


def _same(name: str, state: Mapping[str, object], wanted: int | str, remedy: str) -> None:
    found = _field(state, name, type(wanted))
    if found != wanted:
        raise InvalidRequest(f"the state's {name} is {found!r}, wanted is {wanted!r}: {remedy}")


def _number(state: Mapping[str, object], name: str) -> int:
    value = _field(state, name, int)
    assert isinstance(value, int)
    if isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise InvalidRequest(f"the state's {name} is {value!r}; a feed's state has a number of 0..2**64-1 there")
    return value


def _field(state: Mapping[str, object], name: str, kind: type) -> object:
    value = state.get(name)
    if not isinstance(value, kind):
        raise InvalidRequest(
            f"the state has {name} = {value!r}; this is not the state_dict() of a feed, which has {kind.__name__} there"
        )
    return value
