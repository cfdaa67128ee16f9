"""Memory of a trainer: what is allocated and returned, whatever the trainer writes; and what is not accepted."""

import contextlib
import fcntl
import itertools
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedline_server.memory.arena import GRAIN, Slot
from feedline_server.memory.trainer import NO_SEALS, SEALS, TrainerMemory

PLACES = 4
FUTURE_WRITE = 0x10


class Trainer:
    """The other end: the memory as its owner has it."""

    def __init__(
        self, *, grains: int = 1 + PLACES, taken: int | None = None, seals: int = SEALS, flags: int = 0
    ) -> None:
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
        os.ftruncate(self.fd, grains * GRAIN)
        self.take(grains if taken is None else taken)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def take(self, grains: int) -> None:
        """Have so many of its pages, from the first on."""
        with contextlib.suppress(OSError):  # of huge ones there may be none
            os.posix_fallocate(self.fd, 0, grains * GRAIN)

    def passed(self) -> int:
        """A descriptor, as it arrives at the loader."""
        return os.dup(self.fd)

    def returns(self, number: int) -> None:
        os.pwrite(self.fd, b"\1", number)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    one = Trainer()
    yield one
    os.close(one.fd)


@pytest.fixture
def memory(trainer: Trainer) -> Iterator[TrainerMemory]:
    one = TrainerMemory(trainer.passed())
    yield one
    one.close()


def allocate_all(memory: TrainerMemory) -> list[Slot]:
    slots = [memory.allocate(GRAIN) for _ in range(PLACES)]
    assert memory.allocate(1) is None
    return [slot for slot in slots if slot is not None]


def test_places_lie_behind_the_first_page_and_bear_the_memorys_number(memory: TrainerMemory) -> None:
    assert allocate_all(memory) == [Slot(place * GRAIN, GRAIN, memory.number) for place in (1, 2, 3, 4)]
    assert memory.number > 0


def test_only_what_the_trainer_has_taken_is_used_so_that_nothing_is_charged_to_the_loader() -> None:
    """Pages count as memory of who touches them first: four trainers' were more than the loader's container had."""
    trainer = Trainer(taken=2)
    memory = TrainerMemory(trainer.passed())

    assert memory.allocate(2 * GRAIN) is None
    first = memory.allocate(GRAIN)
    assert first == Slot(GRAIN, GRAIN, memory.number)
    assert memory.allocate(GRAIN) is None
    assert memory.put(memoryview(b"x" * GRAIN)) is None
    assert os.fstat(trainer.fd).st_blocks * 512 == 2 * GRAIN
    trainer.take(4)
    assert memory.allocate(2 * GRAIN) == Slot(2 * GRAIN, 2 * GRAIN, memory.number)

    memory.close()
    os.close(trainer.fd)


def test_a_place_that_was_published_is_free_when_the_trainer_says_so_and_not_before(
    memory: TrainerMemory, trainer: Trainer
) -> None:
    first, *_ = allocate_all(memory)
    number = memory.publish(first)

    assert memory.allocate(GRAIN) is None
    trainer.returns(number)

    assert memory.allocate(GRAIN) == first
    assert memory.allocate(GRAIN) is None


def test_what_the_trainer_says_of_places_that_were_not_published_frees_nothing(
    memory: TrainerMemory, trainer: Trainer
) -> None:
    """It may write to the first page whenever it likes; a place freed under a worker would be allocated twice."""
    allocate_all(memory)
    os.pwrite(trainer.fd, b"\1" * GRAIN, 0)

    assert memory.allocate(GRAIN) is None


def test_what_the_trainer_said_of_a_number_before_it_was_allocated_again_does_not_count(
    memory: TrainerMemory, trainer: Trainer
) -> None:
    first, *_ = allocate_all(memory)
    os.pwrite(trainer.fd, b"\1" * GRAIN, 0)
    memory.release(first)

    again = memory.allocate(GRAIN)

    assert again == first
    memory.publish(again)
    assert memory.allocate(GRAIN) is None


def test_whatever_the_trainer_writes_no_place_is_lent_that_is_not_free_and_none_is_lost() -> None:
    draw = random.Random(11)
    trainer = Trainer(grains=33)
    memory = TrainerMemory(trainer.passed())
    unpublished: list[Slot] = []
    published: dict[int, Slot] = {}

    for _ in range(3000):
        os.pwrite(trainer.fd, draw.randbytes(1), draw.randrange(8))  # numbers that are in use, published or not
        if unpublished and (chance := draw.random()) < 0.5:
            slot = unpublished.pop(draw.randrange(len(unpublished)))
            if chance < 0.2:
                memory.release(slot)
            else:
                published[memory.publish(slot)] = slot
            continue
        returned = os.pread(trainer.fd, GRAIN, 0)
        published = {number: slot for number, slot in published.items() if not returned[number]}
        if slot := memory.allocate(draw.randrange(1, 9 * GRAIN)):
            unpublished.append(slot)
        held = sorted((slot.start, slot.end) for slot in (*unpublished, *published.values()))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise([(0, GRAIN), *held, (33 * GRAIN, 0)]))

    for slot in unpublished:
        memory.release(slot)
    for number in published:
        trainer.returns(number)
    assert memory.allocate(32 * GRAIN) == Slot(GRAIN, 32 * GRAIN, memory.number)
    memory.close()
    os.close(trainer.fd)


def test_a_place_that_is_not_needed_is_taken_back(memory: TrainerMemory) -> None:
    first, second, *_ = allocate_all(memory)

    memory.release(second)
    memory.release(second)

    assert memory.allocate(GRAIN) == second
    assert memory.allocate(GRAIN) is None
    assert memory.publish(first) != memory.publish(second)


def test_a_place_that_was_published_is_not_released(memory: TrainerMemory, trainer: Trainer) -> None:
    """A stream that ends gives back what was being sent too, and by then it is the trainer's."""
    first, *_ = allocate_all(memory)
    number = memory.publish(first)

    memory.release(first)

    assert memory.allocate(GRAIN) is None
    trainer.returns(number)
    assert memory.allocate(GRAIN) == first


def test_taking_places_back_wears_no_number_out(memory: TrainerMemory) -> None:
    for _ in range(GRAIN + 1):
        slot = memory.allocate(GRAIN)
        assert slot is not None
        memory.release(slot)


def test_numbers_are_used_again_and_there_are_never_more_than_a_page_of_them(trainer: Trainer) -> None:
    many = Trainer(grains=1 + 2 * GRAIN)
    memory = TrainerMemory(many.passed())
    try:
        slots = [memory.allocate(1) for _ in range(GRAIN)]
        assert None not in slots
        assert memory.allocate(1) is None  # there is room, and no number
        numbers = {memory.publish(slot) for slot in slots if slot is not None}
        assert numbers == set(range(GRAIN))
        many.returns(17)

        again = memory.allocate(1)

        assert again is not None
        assert memory.publish(again) == 17
    finally:
        memory.close()
        os.close(many.fd)


def test_what_is_put_lies_there(memory: TrainerMemory, trainer: Trainer) -> None:
    body = os.urandom(GRAIN + 100)

    slot = memory.put(memoryview(body))

    assert slot == Slot(GRAIN, 2 * GRAIN, memory.number)
    assert os.pread(trainer.fd, len(body), GRAIN) == body
    assert memory.put(memoryview(bytes(3 * GRAIN))) is None


def test_closed_it_lends_nothing_and_keeps_no_descriptor(trainer: Trainer) -> None:
    before = descriptors()
    memory = TrainerMemory(trainer.passed())
    slot = memory.allocate(GRAIN)
    assert slot is not None

    memory.close()
    memory.close()

    assert memory.allocate(GRAIN) is None
    memory.release(slot)
    assert descriptors() == before


@pytest.mark.parametrize(
    ("seals", "words"),
    [
        (0, "not sealed"),
        (fcntl.F_SEAL_SEAL, "not sealed"),
        (fcntl.F_SEAL_SHRINK, "not sealed"),
        (SEALS | fcntl.F_SEAL_WRITE, "against writing"),
        (SEALS | FUTURE_WRITE, "against writing"),
    ],
)
def test_memory_that_could_become_shorter_or_unwritable_is_not_taken(seals: int, words: str) -> None:
    """A mapping of what was cut off ends the process that touches it."""
    assert NO_SEALS == fcntl.F_SEAL_WRITE | FUTURE_WRITE
    trainer = Trainer(seals=seals)
    before = descriptors()
    with pytest.raises(OSError, match=words):
        TrainerMemory(trainer.passed())
    assert descriptors() == before
    os.close(trainer.fd)


def test_memory_that_may_only_be_read_is_not_taken(trainer: Trainer) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="without the right to write"):
        TrainerMemory(os.open(f"/proc/self/fd/{trainer.fd}", os.O_RDONLY))
    assert descriptors() == before


def test_memory_of_huge_pages_is_not_taken() -> None:
    """There may be none left when a worker touches it, which ends the worker."""
    try:
        trainer = Trainer(grains=(2 << 20) // GRAIN, flags=os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"the kernel has none: {error}")
    with pytest.raises(OSError, match="huge"):
        TrainerMemory(trainer.passed())
    os.close(trainer.fd)


def test_a_file_a_pipe_and_memory_without_room_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    read, write = os.pipe()
    before = descriptors()
    for fd in (os.open(tmp_path / "file", os.O_RDWR), os.dup(write)):
        with pytest.raises(OSError, match=r"Invalid argument|Bad file"):
            TrainerMemory(fd)
    for grains in (0, 1):
        small = Trainer(grains=grains)
        with pytest.raises(OSError, match=f"has {grains * GRAIN} bytes"):
            TrainerMemory(small.passed())
        os.close(small.fd)
    assert descriptors() == before
    os.close(read)
    os.close(write)


def test_memory_can_be_mapped_when_it_is_taken_and_stays_so(trainer: Trainer, memory: TrainerMemory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(trainer.fd, GRAIN)
    with mmap.mmap(memory.fd, 0) as mapped:
        mapped[-1] = 7
        assert os.pread(trainer.fd, 1, len(mapped) - 1) == b"\7"
