"""Where a training is, as a handful of small values: plain JSON.

A state describes what the trainer consumed, never what was fetched ahead, and does not depend on batch size, rank,
world or replicas: every rank saves the same one, and any of them continues it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from feedline.reading.plan import LARGEST, Cursor
from feedline_wire.errors import DatasetChanged, InvalidRequest

VERSION = 2
"""Of the state's form and of what its numbers mean. 1 was feedline 0.1's."""

State = dict[str, int | str]


class Ordering(NamedTuple):
    """Which samples, in which order: what the epoch and the offset of a state count in. A key begins with the same."""

    dataset: str
    fingerprint: bytes
    view: str
    order: str
    seed: int


def write(ordering: Ordering, cursor: Cursor) -> State:
    """The state of a trainer at a place."""
    return {
        "version": VERSION,
        "dataset": ordering.dataset,
        "fingerprint": ordering.fingerprint.hex(),
        "view": ordering.view,
        "order": ordering.order,
        "seed": ordering.seed,
        "epoch": cursor.epoch,
        "offset": cursor.offset,
    }


def read(state: Mapping[str, object], ordering: Ordering) -> tuple[int, Cursor]:
    """The seed and the place of a state that was written in an ordering which may differ from this in the seed alone.

    The state's seed wins over the feed's: with another one the samples already consumed would be other samples.
    Raises InvalidRequest or DatasetChanged, naming what differs.
    """
    if state.get("version") == 1:
        raise InvalidRequest(
            "the state was saved by feedline 0.1, which this version does not continue: start without the state, or "
            "finish the training with feedline 0.1"
        )
    _same("version", state, VERSION, "save a new state with this version of feedline, or install the one that saved it")
    if _field(state, "fingerprint", str) != ordering.fingerprint.hex():
        raise DatasetChanged(
            f"the state was saved on dataset {state.get('dataset')!r} with the fingerprint {state['fingerprint']}; the "
            f"loader serves {ordering.dataset!r} with {ordering.fingerprint.hex()}: the order of samples is another "
            f'one. Connect with fingerprint="{str(state["fingerprint"])[:12]}" if it is still served beside the new '
            f"one (`feedline reload`), serve the data that the state was saved on, or start without the state"
        )
    _same("view", state, ordering.view, "make the feed with the state's view, or start without the state")
    _same("order", state, ordering.order, "make the feed with the state's order, or start without the state")
    return _number(state, "seed"), Cursor(_number(state, "epoch"), _number(state, "offset"))


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
