"""The arena allocates and releases: nothing overlaps, nothing is lost."""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedline_server.memory.arena import GRAIN, Arena, Slot


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(16 * GRAIN)
    yield arena
    arena.close()


def test_a_slot_is_whole_grains_from_the_lowest_free_address(arena: Arena) -> None:
    first = arena.allocate(1)
    second = arena.allocate(GRAIN + 1)

    assert first == Slot(0, GRAIN)
    assert second == Slot(GRAIN, 2 * GRAIN)
    assert arena.allocated_nbytes == 3 * GRAIN


def test_nothing_is_lent_beyond_the_budget(arena: Arena) -> None:
    assert arena.allocate(16 * GRAIN) == Slot(0, 16 * GRAIN)
    assert arena.allocate(1) is None


def test_neighbours_grow_together_when_they_come_back_in_any_order(arena: Arena) -> None:
    slots = [arena.allocate(4 * GRAIN) for _ in range(4)]

    for index in (2, 0, 3, 1):
        slot = slots[index]
        assert slot is not None
        arena.release(slot)

    assert arena.allocate(16 * GRAIN) == Slot(0, 16 * GRAIN)


def test_a_slot_is_not_released_twice(arena: Arena) -> None:
    slot = arena.allocate(GRAIN)
    assert slot is not None
    arena.release(slot)

    with pytest.raises(ValueError, match="is not allocated"):
        arena.release(slot)


def test_after_any_history_the_lent_slots_never_overlap_and_all_comes_back() -> None:
    draw = random.Random(7)
    arena = Arena(64 * GRAIN)
    held: list[Slot] = []

    for _ in range(3000):
        if held and draw.random() < 0.5:
            arena.release(held.pop(draw.randrange(len(held))))
        elif slot := arena.allocate(draw.randrange(1, 9 * GRAIN)):
            held.append(slot)
        owned = sorted((slot.start, slot.start + slot.nbytes) for slot in held)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(owned))
        assert arena.allocated_nbytes == sum(slot.nbytes for slot in held)

    for slot in held:
        arena.release(slot)
    assert arena.allocate(64 * GRAIN) == Slot(0, 64 * GRAIN)
    arena.close()


def test_nothing_is_lent_that_touches_a_region_kept_free(arena: Arena) -> None:
    kept = Slot(2 * GRAIN, 8 * GRAIN)

    slots = [arena.allocate(2 * GRAIN, outside=kept) for _ in range(5)]

    assert slots == [
        Slot(0, 2 * GRAIN),  # before it
        Slot(10 * GRAIN, 2 * GRAIN),  # behind it
        Slot(12 * GRAIN, 2 * GRAIN),
        Slot(14 * GRAIN, 2 * GRAIN),
        None,
    ]
    assert arena.allocate(8 * GRAIN) == kept


def test_the_emptiest_region_is_where_the_least_is_lent(arena: Arena) -> None:
    slots = [arena.allocate(2 * GRAIN) for _ in range(8)]
    for index in (0, 4, 6):  # now allocated: 2..8, 10..12, 14..16
        slot = slots[index]
        assert slot is not None
        arena.release(slot)

    assert arena.emptiest(2 * GRAIN) == Slot(0, 2 * GRAIN)
    assert arena.emptiest(6 * GRAIN) == Slot(8 * GRAIN, 6 * GRAIN)  # two grains allocated; anywhere else four or more
    assert arena.emptiest(16 * GRAIN) == Slot(0, 16 * GRAIN)
    with pytest.raises(ValueError, match="the arena has 65536"):
        arena.emptiest(16 * GRAIN + 1)


def test_after_any_history_no_region_is_emptier_than_the_one_that_is_found() -> None:
    draw = random.Random(3)
    arena = Arena(32 * GRAIN)
    held: list[Slot] = []
    for _ in range(300):
        if held and draw.random() < 0.45:
            arena.release(held.pop(draw.randrange(len(held))))
        elif slot := arena.allocate(draw.randrange(1, 6 * GRAIN)):
            held.append(slot)
        allocated = {grain for slot in held for grain in range(slot.start // GRAIN, slot.end // GRAIN)}
        size = draw.randrange(1, 33)

        found = arena.emptiest(size * GRAIN)

        def allocated_in(start: int, size: int = size, allocated: set[int] = allocated) -> int:
            return len(allocated.intersection(range(start, start + size)))

        assert found.nbytes == size * GRAIN
        assert allocated_in(found.start // GRAIN) == min(allocated_in(start) for start in range(33 - size))
    arena.close()


@pytest.mark.alone  # looks at all shared memory of the machine
def test_the_arena_has_no_name_in_dev_shm_and_close_may_come_twice() -> None:
    before = set(Path("/dev/shm").iterdir())
    arena = Arena(GRAIN)
    fd = arena.fd

    assert set(Path("/dev/shm").iterdir()) == before
    arena.close()
    arena.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_places_of_different_memories_have_nothing_in_common() -> None:
    here, there = Slot(0, 2 * GRAIN), Slot(0, 2 * GRAIN, 5)

    assert here != there
    assert not here.overlaps(there)
    assert there.overlaps(Slot(GRAIN, GRAIN, 5))
    assert not there.overlaps(Slot(2 * GRAIN, GRAIN, 5))
