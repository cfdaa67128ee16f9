"""Where a trainer is, saved and loaded."""

import json

import pytest

from feedline.reading import state
from feedline.reading.plan import Cursor
from feedline.reading.state import Ordering
from feedline_wire.errors import DatasetChanged, FeedlineError, InvalidRequest

ORDERING = Ordering(dataset="voxels", fingerprint=b"\x01\xab", view="train", order="shuffle", seed=7)

SAVED: dict[str, object] = {
    "version": 2,
    "dataset": "voxels",
    "fingerprint": "01ab",
    "view": "train",
    "order": "shuffle",
    "seed": 7,
    "epoch": 3,
    "offset": 118,
}


def test_a_state_is_a_handful_of_plain_values() -> None:
    saved = state.write(ORDERING, Cursor(3, 118))

    assert saved == SAVED
    assert json.loads(json.dumps(saved)) == SAVED


def test_a_state_is_read_as_it_was_written() -> None:
    assert state.read(SAVED, ORDERING) == (7, Cursor(3, 118))


@pytest.mark.parametrize("number", [0, 2**64 - 1])
def test_numbers_have_64_bits(number: int) -> None:
    saved = SAVED | {"seed": number, "epoch": number, "offset": number}

    assert state.read(saved, ORDERING) == (number, Cursor(number, number))


def test_the_saved_seed_is_what_continues() -> None:
    assert state.read(SAVED, Ordering("voxels", b"\x01\xab", "train", "shuffle", seed=99)) == (7, Cursor(3, 118))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"version": 1}, InvalidRequest, "the state was saved by feedline 0.1, which this version does not continue"),
        ({"version": 3}, InvalidRequest, "the state's version is 3, wanted is 2"),
        ({"fingerprint": "77"}, DatasetChanged, "with the fingerprint 77; the loader serves 'voxels' with 01ab"),
        ({"view": "validation"}, InvalidRequest, "the state's view is 'validation', wanted is 'train'"),
        ({"order": "sequential"}, InvalidRequest, "the state's order is 'sequential', wanted is 'shuffle'"),
        ({"epoch": -1}, InvalidRequest, "the state's epoch is -1"),
        ({"epoch": 2**64}, InvalidRequest, "0..2**64-1"),
        ({"offset": 1.5}, InvalidRequest, "offset = 1.5"),
        ({"offset": True}, InvalidRequest, "the state's offset is True"),
        ({"seed": None}, InvalidRequest, "seed = None"),
    ],
)
def test_a_state_of_something_else_is_refused_saying_what_differs(
    change: dict[str, object], kind: type[FeedlineError], message: str
) -> None:
    with pytest.raises(kind) as error:
        state.read(SAVED | change, ORDERING)

    assert message in str(error.value)


def test_what_is_no_state_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not the state_dict"):
        state.read({"model": "weights"}, ORDERING)
