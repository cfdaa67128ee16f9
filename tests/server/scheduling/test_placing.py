"""Batches that are assembled in their trainer's own memory: which are, and whose the place is at every moment."""

import fcntl
import os
from collections.abc import Iterator
from typing import Any

import pytest

from feedline_server.memory.arena import ARENA, GRAIN
from feedline_server.memory.trainer import SEALS, TrainerMemory
from feedline_server.scheduling import scheduler as scheduler_module
from feedline_server.scheduling.fairness import STALLED_S
from feedline_server.scheduling.stream import Batch, Stream
from feedline_server.workers.messages import Failed, SlotTooSmall
from feedline_wire.errors import BadSample

Stage = Any  # the fixture in conftest.py

ROWS = 3
"""Of a batch that is placed: samples have a grain each, and from two grains on they are."""

PLACES = 4
"""Such batches that there is room for; each takes three grains."""


class Host:
    """A stream whose trainer is on this host, and the trainer's end of its memory."""

    def __init__(self, stage: Stage, name: str = "a") -> None:
        self.stage = stage
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, (1 + 3 * PLACES) * GRAIN)
        os.posix_fallocate(self.fd, 0, (1 + 3 * PLACES) * GRAIN)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.memory = TrainerMemory(os.dup(self.fd))
        self.stream: Stream = stage.scheduler.open_stream(name)
        stage.scheduler.set_lane(self.stream, "shm", self.memory)

    def want(self, ticket: int, rows: int = ROWS, **changes: object) -> None:
        self.stage.want(self.stream, ticket, self.stage.key(rows=rows, **changes))

    def delivered(self) -> list[Batch]:
        return [one for one in self.stage.scheduler.next_deliveries(self.stream, 1 << 20) if isinstance(one, Batch)]

    def send(self, batch: Batch) -> int:
        """What a sender does with a placed batch: the number under which the trainer returns it."""
        number = self.memory.publish(batch.slot)
        self.stage.scheduler.release(self.stream, [batch], sent=True)
        return number

    def returns(self, number: int) -> None:
        os.pwrite(self.fd, b"\1", number)

    @property
    def room(self) -> int:
        """Places that can be allocated now."""
        slots = []
        while (slot := self.memory.allocate(3 * GRAIN)) is not None:
            slots.append(slot)
        for slot in slots:
            self.memory.release(slot)
        return len(slots)


@pytest.fixture
def host(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(scheduler_module, "IN_PLACE_NBYTES", 2 * GRAIN)
    one = Host(stage)
    yield one
    one.memory.close()
    os.close(one.fd)


def test_a_batch_is_assembled_in_its_trainers_memory_and_takes_nothing_of_the_arena(stage: Stage, host: Host) -> None:
    host.want(1)

    [task] = stage.tasks
    assert (task.memory, stage.arena.allocated_nbytes) == (host.memory.number, 0)
    stage.finish_all()
    [batch] = host.delivered()
    number = host.send(batch)

    assert batch.slot.start == task.start
    assert host.room == PLACES - 1  # it is the trainer's
    host.returns(number)
    assert host.room == PLACES
    assert stage.arena.allocated_nbytes == 0


def test_small_batches_and_those_of_data_that_is_read_back_lie_in_the_arena(stage: Stage, host: Host) -> None:
    host.want(1, rows=1)
    host.want(2, dataset="checked")

    assert [task.memory for task in stage.tasks] == [ARENA, ARENA]


def test_when_the_trainers_memory_is_full_batches_lie_in_the_arena(stage: Stage, host: Host) -> None:
    for ticket in range(PLACES + 1):
        host.want(ticket)
        stage.finish_all()

    memories = [batch.slot.memory for batch in host.delivered()]

    assert sorted(memories) == [ARENA, *[host.memory.number] * PLACES]


def test_what_lies_in_a_trainers_memory_is_given_to_nobody_else(stage: Stage, host: Host) -> None:
    """Another who wants it has it assembled in the arena, and from there on it is shared."""
    key = stage.key(rows=ROWS)
    others = [stage.scheduler.open_stream(name) for name in ("b", "c")]
    stage.want(host.stream, 1, key)
    for stream in others:
        stage.want(stream, 1, key)

    assert [task.memory for task in stage.tasks] == [host.memory.number, ARENA]
    stage.finish_all()
    [placed] = host.delivered()
    shared = [stage.scheduler.next_deliveries(stream, 1 << 20)[0] for stream in others]
    assert placed.slot.memory == host.memory.number
    assert shared[0].slot == shared[1].slot
    assert shared[0].slot.memory == ARENA


def test_a_trainer_of_a_sweep_has_its_batches_from_the_arena(stage: Stage, host: Host) -> None:
    first = stage.scheduler.open_stream("b")
    keys = [stage.key(rows=ROWS, epoch=5, offset=offset) for offset in (0, 10, 20)]
    for key in keys[:2]:
        stage.want(first, key.offset, key)
        stage.want(host.stream, key.offset, key)
    assert [(task.key.offset, task.memory) for task in stage.tasks] == [(0, ARENA), (10, ARENA)]
    stage.finish_all()
    for batch in host.delivered():
        stage.scheduler.release(host.stream, [batch], sent=True)

    stage.want(host.stream, 20, keys[2])  # which nobody was given yet, but it is one of the sweep's

    assert [(task.key.offset, task.memory) for task in stage.tasks] == [(20, ARENA)]


@pytest.mark.parametrize("when", ["assembling", "ready"])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_place_that_is_not_needed_any_more_is_free_again(stage: Stage, host: Host, when: str, how: str) -> None:
    host.want(1)
    if when == "ready":
        stage.finish_all()

    if how == "cancel":
        stage.scheduler.cancel(host.stream, [1])
    else:
        stage.scheduler.close_stream(host.stream)
    stage.finish_all()

    assert host.room == PLACES


def test_a_batch_that_fails_or_outgrows_its_place_gives_it_back(stage: Stage, host: Host) -> None:
    host.want(1)
    host.want(2)
    bad, grown = stage.tasks
    stage.tasks.clear()

    stage.answer(bad, Failed(bad.number, BadSample("no sample")))
    stage.answer(grown, SlotTooSmall(grown.number, 5 * GRAIN))

    [again] = stage.tasks
    assert (again.key, again.nbytes) == (grown.key, 5 * GRAIN)
    stage.finish_all()
    for delivery in stage.scheduler.next_deliveries(host.stream, 1 << 20):
        if isinstance(delivery, Batch):
            stage.scheduler.release(host.stream, [delivery], sent=False)
    assert host.room == PLACES


def test_a_place_that_was_returned_and_lent_again_is_not_taken_from_its_new_batch(stage: Stage, host: Host) -> None:
    """The trainer may be done with a batch before its sender is: the place is another batch's then, and looks alike."""
    host.want(1)
    stage.finish_all()
    [batch] = host.delivered()
    host.returns(host.memory.publish(batch.slot))
    host.want(2)
    [task] = stage.tasks
    assert task.start == batch.slot.start

    stage.scheduler.release(host.stream, [batch], sent=True)

    stage.finish_all()
    [second] = host.delivered()
    assert second.slot == batch.slot
    host.memory.publish(second.slot)
    assert host.room == PLACES - 1


def test_memory_that_was_closed_is_lent_no_more(stage: Stage, host: Host) -> None:
    host.memory.close()

    host.want(1)

    assert [task.memory for task in stage.tasks] == [ARENA]


def test_before_a_trainer_has_come_with_its_memory_its_batches_lie_in_the_arena(stage: Stage, host: Host) -> None:
    later = stage.scheduler.open_stream("b")
    stage.want(later, 1, stage.key(rows=ROWS))

    stage.scheduler.set_lane(later, "shm", host.memory)
    stage.want(later, 2, stage.key(rows=ROWS))

    assert [task.memory for task in stage.tasks] == [ARENA, host.memory.number]


def test_batches_of_a_stream_are_placed_each_for_itself(stage: Stage, host: Host) -> None:
    """Their keys are equal and their batches are not: nobody takes part in another's."""
    for ticket in range(2):
        host.want(ticket, dataset="endless", order="stream", epoch=0)

    assert [task.memory for task in stage.tasks] == [host.memory.number] * 2
    assert len({task.start for task in stage.tasks}) == 2


def test_batches_in_a_trainers_memory_are_published_together_however_large(stage: Stage, host: Host) -> None:
    for ticket in range(PLACES):
        host.want(ticket)
        stage.finish_all()
    host.want(9, rows=1)
    stage.finish_all()

    assert [one.ticket for one in stage.scheduler.next_deliveries(host.stream, 1)] == [0, 1, 2, 3]


def test_what_lies_in_a_stalled_trainers_own_memory_stays_when_others_need_room_in_the_arena(
    stage: Stage, host: Host
) -> None:
    """It would make none."""
    large = [stage.scheduler.open_stream(name) for name in ("b", "c")]
    stage.want(large[0], 1, stage.key(rows=8))
    stage.finish_all()
    for ticket, rows in enumerate((ROWS, ROWS, 1, ROWS)):
        host.want(ticket, rows=rows)
        stage.finish_all()
    sending = stage.scheduler.next_deliveries(host.stream, 1)
    stage.scheduler.unpin(host.stream)
    stage.now += STALLED_S

    stage.want(large[1], 1, stage.key(rows=8))  # 16 grains, of which the stalled trainer's small batch has one

    stage.finish_all()
    assert stage.take(large[1]) == [1]
    assert stage.scheduler.status().counters.reclaimed == 1
    assert [want.ticket for want in host.stream.waiting] == [2]
    assert host.room == PLACES - 3
    assert stage.scheduler.pin(host.stream, sending)
    stage.finish_all()
    assert sorted(batch.ticket for batch in host.delivered()) == [2, 3]


def test_a_stalled_trainer_with_nothing_in_the_arena_is_asked_for_nothing(stage: Stage, host: Host) -> None:
    """8 grains in a row are nowhere: the small ones lie at 0 and from 6 to 8."""
    host.want(1)
    stage.finish_all()
    small, large = (stage.scheduler.open_stream(name) for name in ("small", "large"))
    for ticket, (stream, rows) in enumerate(((small, 1), (large, 5), (small, 1), (small, 1), (small, 1))):
        stage.want(stream, ticket, stage.key(rows=rows))
        stage.finish_all()
    stage.take(large)
    sending = stage.scheduler.next_deliveries(host.stream, 1)
    stage.scheduler.unpin(host.stream)
    stage.now += STALLED_S

    stage.want(large, 9, stage.key(rows=8))

    assert (stage.scheduler.status().short_of, stage.scheduler.status().counters.reclaimed) == ("memory", 0)
    assert stage.scheduler.pin(host.stream, sending)
    stage.take(small, 4)
    assert stage.take(large) == [9]


def test_a_batch_that_could_not_be_sent_gives_its_place_back(stage: Stage, host: Host) -> None:
    host.want(1)
    stage.finish_all()
    [batch] = host.delivered()

    stage.scheduler.release(host.stream, [batch], sent=False)

    assert host.room == PLACES
