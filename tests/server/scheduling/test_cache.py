"""What the cache remembers of requests, and which slots it gives back."""

import pytest

from feedline_server.memory.arena import GRAIN, Slot
from feedline_server.scheduling import cache as module
from feedline_server.scheduling.cache import BatchCache
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

LAYOUT = Layout((), GRAIN)


def of_seed(seed: int, offset: int = 0) -> Key:
    """A key; those of another seed are another family."""
    return Key("numbers", b"f", "train", "shuffle", seed, 0, offset, 1)


def slot(number: int) -> Slot:
    return Slot(number * GRAIN, GRAIN)


@pytest.fixture
def remembers_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)


@pytest.mark.usefixtures("remembers_two")
def test_the_oldest_request_is_forgotten_first() -> None:
    cache = BatchCache(GRAIN)

    for seed in (1, 2, 3):
        cache.note_request(of_seed(seed))

    assert [cache.is_shared(of_seed(seed)) for seed in (1, 2, 3)] == [False, True, True]


@pytest.mark.usefixtures("remembers_two")
def test_families_that_are_shared_are_remembered_up_to_a_bound() -> None:
    """Seeds are the trainers' to choose, so there may be any number of families."""
    cache = BatchCache(GRAIN)

    def share(seed: int) -> list[bool]:
        """Two streams want a key of this seed; which families are then shared, by a key that nobody asked for."""
        for _ in range(2):
            cache.note_request(of_seed(seed))
        return [cache.is_shared(of_seed(other, offset=9)) for other in (1, 2, 3)]

    assert share(1) == [True, False, False]
    assert share(2) == [True, True, False]
    assert share(2) == [True, True, False]  # a family that is known takes no room
    assert share(3) == [False, False, True]


def test_what_is_kept_beyond_the_bound_is_given_back_the_longest_unread_first() -> None:
    cache = BatchCache(2 * GRAIN)
    keys = [of_seed(1, offset) for offset in range(4)]
    for _ in range(2):
        cache.note_request(keys[3])  # the family is shared, so batches wanted once are kept for the second stream
    for number, key in enumerate(keys[:3]):
        cache.note_request(key)
        cache.put(key, slot(number), LAYOUT)

    freed = [cache.release(slot(number)) for number in range(3)]

    assert freed == [[], [], [slot(0)]]
    assert cache.idle_nbytes == 2 * GRAIN
    assert cache.find(keys[0]) is None
    assert cache.find(keys[2]) is not None


def test_a_batch_that_every_stream_had_is_not_kept() -> None:
    cache = BatchCache(2 * GRAIN)
    for _ in range(2):
        cache.note_request(of_seed(1))
    cache.put(of_seed(1), slot(0), LAYOUT)

    assert cache.release(slot(0)) == [slot(0)]
    assert cache.find(of_seed(1)) is None
