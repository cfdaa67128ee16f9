"""A batch that several trainers want is assembled once; its slot is free when the last of them has it."""

from typing import Any

import pytest

from feedline_server.memory.arena import GRAIN, Slot
from feedline_server.scheduling.cache import KEEP_ON, BatchCache
from feedline_server.scheduling.stream import Batch, Refusal, Stream
from feedline_server.workers.messages import Done, Failed, KilledWorkers, SlotTooSmall
from feedline_wire.errors import BadSample, BatchKillsWorkers, InvalidRequest, LoaderBroken
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

Stage = Any  # the fixture in conftest.py


def open_streams(stage: Stage, *peers: str) -> list[Stream]:
    return [stage.scheduler.open_stream(peer) for peer in peers]


# ---- while it is assembled ----


def test_a_key_that_two_trainers_want_at_the_same_time_is_assembled_once_and_both_have_it(stage: Stage) -> None:
    one, two = open_streams(stage, "one", "two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 9, stage.key(epoch=7))

    assert len(stage.tasks) == 1
    stage.finish_all()

    assert stage.take(one) == [1]
    assert stage.arena.allocated_nbytes == GRAIN  # the other still reads it
    assert stage.take(two) == [9]
    assert stage.scheduler.status().counters.shared == 1
    assert stage.scheduler.status().counters.arena_lent == 0


def test_who_joined_has_the_batch_although_the_one_who_asked_first_is_gone(stage: Stage) -> None:
    first, second = open_streams(stage, "first", "second")
    stage.want(first, 1, stage.key(epoch=7))
    stage.want(second, 1, stage.key(epoch=7))

    stage.scheduler.close_stream(first)
    stage.finish_all()

    assert stage.take(second) == [1]
    assert stage.scheduler.status().counters.arena_lent == 0


def test_one_who_cancels_takes_nothing_from_the_other(stage: Stage) -> None:
    one, two = open_streams(stage, "one", "two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 1, stage.key(epoch=7))

    stage.scheduler.cancel(one, [1])
    stage.finish_all()
    stage.want(one, 2, stage.key(epoch=7))  # and now it wants it after all, from the other's slot
    stage.scheduler.cancel(one, [2])

    assert stage.take(two) == [1]
    assert not one.ready
    assert (one.held_nbytes, two.held_nbytes) == (0, 0)
    assert stage.scheduler.status().counters.arena_lent == 0


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (lambda number: Failed(number, BadSample("sample 0 is bad", samples=[0])), BadSample),
        (lambda number: KilledWorkers(number, 3, "signal SIGSEGV"), BatchKillsWorkers),
    ],
)
def test_an_error_reaches_everybody_who_wants_the_key_and_the_slot_is_free(
    stage: Stage, outcome: Any, kind: type[Exception]
) -> None:
    one, two = open_streams(stage, "one", "two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 5, stage.key(epoch=7))

    [task] = stage.tasks
    stage.answer(task, outcome(task.number))
    refusals = [stage.scheduler.next_deliveries(stream, 1)[0] for stream in (one, two)]

    assert all(isinstance(refusal, Refusal) and isinstance(refusal.error, kind) for refusal in refusals)
    assert [refusal.ticket for refusal in refusals] == [1, 5]
    assert stage.arena.allocated_nbytes == 0
    assert stage.scheduler.status().counters.failures == 1


def test_what_fails_when_nobody_waits_for_it_any_more_is_no_failure(stage: Stage) -> None:
    """Batches for the memory of a trainer that is gone cannot be assembled: Status showed its end as failures."""
    [one] = open_streams(stage, "one")
    stage.want(one, 1, stage.key(epoch=7))
    stage.scheduler.close_stream(one)

    [task] = stage.tasks
    stage.answer(task, Failed(task.number, BadSample("sample 0 is bad", samples=[0])))

    assert stage.scheduler.status().counters.failures == 0
    assert stage.arena.allocated_nbytes == 0


def test_keys_of_a_stream_are_never_shared(stage: Stage) -> None:
    """Each answer is the next batch of a generator: one given to two trainers would be trained on twice."""
    one, two = open_streams(stage, "one", "two")
    for stream in (one, two):
        stage.want(stream, 1, stage.key(dataset="endless", order="stream", epoch=0))

    assert len(stage.tasks) == 2
    stage.finish_all()
    stage.take(one)
    stage.want(two, 2, stage.key(dataset="endless", order="stream", epoch=0))

    assert len(stage.tasks) == 1  # nor kept for whoever asks the same next
    assert stage.scheduler.status().counters.shared == 0


# ---- when it is finished ----


def test_a_batch_that_another_one_still_holds_is_given_without_a_worker(stage: Stage) -> None:
    slow, quick = open_streams(stage, "slow", "quick")
    stage.want(slow, 1, stage.key(epoch=7))
    stage.finish_all()

    stage.want(quick, 1, stage.key(epoch=7))

    assert stage.tasks == []
    assert stage.take(quick) == [1]
    assert stage.take(slow) == [1]


def test_batches_are_kept_for_a_trainer_that_follows_once_one_was_wanted_twice(stage: Stage) -> None:
    leader, follower = open_streams(stage, "leader", "follower")
    assembled = 0
    for step in range(10):
        stage.want(leader, step, stage.key(offset=step, epoch=0))
        assembled += len(stage.tasks)
        stage.finish_all()
        stage.take(leader)
        if step >= 2:  # two batches behind
            stage.want(follower, step - 2, stage.key(offset=step - 2, epoch=0))
            assembled += len(stage.tasks)
            stage.finish_all()
            assert stage.take(follower) == [step - 2]

    assert assembled == 10 + 3  # the follower's first three had gone before anybody knew that he comes
    assert stage.scheduler.status().counters.shared == 5
    assert stage.scheduler.status().counters.arena_lent == 0


def test_nothing_is_kept_where_every_key_is_wanted_once(stage: Stage) -> None:
    ranks = open_streams(stage, "rank 0", "rank 1")
    for step in range(20):
        for rank, stream in enumerate(ranks):
            stage.want(stream, step, stage.key(offset=2 * step + rank, epoch=0))
        stage.finish_all()
        for stream in ranks:
            stage.take(stream)

    assert stage.scheduler.status().counters.arena_kept == 0
    assert stage.arena.allocated_nbytes == 0


def test_a_batch_is_not_kept_once_all_have_it_who_had_the_others(stage: Stage) -> None:
    sweep = open_streams(stage, "one", "two")
    for step in range(8):
        for stream in sweep:
            stage.want(stream, step, stage.key(offset=step, epoch=0))
        stage.finish_all()
        for stream in sweep:
            stage.take(stream)

    assert stage.scheduler.status().counters.shared == 8
    assert stage.scheduler.status().counters.arena_kept == 0


def test_what_is_kept_goes_as_soon_as_anybody_needs_the_memory(stage: Stage) -> None:
    one, two, large = open_streams(stage, "one", "two", "large")
    for step in range(8):
        for stream in (one, two)[: 2 if step == 0 else 1]:
            stage.want(stream, step, stage.key(offset=step, epoch=0))
        stage.finish_all()
        stage.take(one)
    assert stage.scheduler.status().counters.arena_kept == 7 * GRAIN

    for ticket in range(2):
        stage.want(large, ticket, stage.key(rows=8))
        stage.finish_all()
        assert stage.take(large) == [ticket]

    assert stage.scheduler.status().counters.reclaimed == 0


def test_at_most_half_the_memory_is_kept(stage: Stage) -> None:
    one, two = open_streams(stage, "one", "two")
    for step in range(20):
        for stream in (one, two)[: 2 if step == 0 else 1]:
            stage.want(stream, step, stage.key(offset=step, epoch=0))
        stage.finish_all()
        stage.take(one)

    assert stage.scheduler.status().counters.arena_kept == 8 * GRAIN  # of 16
    stage.want(two, 99, stage.key(offset=19, epoch=0))
    assert stage.tasks == []  # the latest are


def test_what_a_stalled_trainer_shares_stays_with_the_one_who_reads(stage: Stage) -> None:
    stalled, reading, other = open_streams(stage, "stalled", "reading", "other")
    for stream in (stalled, reading):
        stage.want(stream, 1, stage.key(rows=8, epoch=7))
    stage.finish_all()
    lost = stage.stall(stalled)
    stage.want(other, 1, stage.key(rows=8))
    stage.want(other, 2, stage.key(rows=1))
    stage.finish_all()

    assert stage.take(reading) == [1]
    assert stage.take(other, 2) == [1, 2]

    assert stage.scheduler.pin(stalled, [lost]) or stage.scheduler.status().counters.reclaimed == 1
    stage.scheduler.release(stalled, [lost], sent=False)
    stage.scheduler.close_stream(stalled)
    stage.finish_all()
    assert stage.scheduler.status().counters.arena_lent == 0


def test_a_trainer_that_lives_on_what_others_had_is_not_held_up_by_busy_workers(stage: Stage) -> None:
    leader, follower = open_streams(stage, "leader", "follower")
    keys = [stage.key(offset=step, epoch=0) for step in range(30)]
    for ticket in range(30):
        stage.want(leader, ticket, keys[ticket])
    for _ in range(2):
        stage.finish(stage.tasks.pop(0))

    stage.want(follower, 0, keys[0])
    stage.want(follower, 1, keys[1])
    stage.want(follower, 2, keys[2])

    assert [batch.ticket for batch in stage.scheduler.next_deliveries(follower, 1 << 20)] == [0, 1]
    assert follower.assembling == {2}
    assert len(stage.tasks) == 4  # as many as two workers hold


def test_who_was_given_what_others_had_has_no_claim_on_the_workers_before_them(stage: Stage) -> None:
    leader, follower = open_streams(stage, "leader", "follower")
    keys = [stage.key(offset=step, epoch=0) for step in range(40)]
    for ticket in range(20):
        stage.want(leader, ticket, keys[ticket])
        stage.want(follower, ticket, keys[ticket])
        stage.finish_all()
        stage.take(leader)
        stage.take(follower)
    for ticket in range(20, 40):
        stage.want(leader, ticket, keys[ticket])
    for ticket in range(20, 40):
        stage.want(follower, ticket, stage.key(offset=50))

    begun = []
    for _ in range(12):
        task = stage.tasks.pop(0)
        begun.append("follower" if task.key.offset == 50 else "leader")
        stage.finish(task)
        stage.scheduler.release(
            stream := follower if begun[-1] == "follower" else leader,
            stage.scheduler.next_deliveries(stream, 1),
            sent=True,
        )

    assert begun[:4] == ["leader"] * 4
    assert begun[4:].count("leader") >= 3


# ---- a batch that outgrows its slot ----


def test_a_batch_that_outgrows_its_slot_is_assembled_again_in_a_larger_one(stage: Stage) -> None:
    one, two = open_streams(stage, "one", "two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 2, stage.key(epoch=7))

    [task] = stage.tasks
    stage.tasks.clear()
    stage.answer(task, SlotTooSmall(task.number, 3 * GRAIN - 5))

    [again] = stage.tasks
    assert (again.key, task.nbytes, again.nbytes) == (task.key, GRAIN, 3 * GRAIN)
    assert stage.arena.allocated_nbytes == 3 * GRAIN
    stage.finish_all()
    assert (stage.take(one), stage.take(two)) == ([1], [2])
    assert stage.arena.allocated_nbytes == 0


def test_a_batch_that_outgrew_its_slot_comes_before_what_is_wanted_after_it(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    for ticket in range(8):
        stage.want(stream, ticket, stage.key(offset=ticket))

    first = stage.tasks.pop(0)
    stage.answer(first, SlotTooSmall(first.number, 2 * GRAIN))

    assert stage.tasks[-1].key.offset == 0


def test_the_next_batch_of_the_kind_gets_the_larger_slot_at_once(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    stage.want(stream, 1, stage.key())
    task = stage.tasks.pop()
    stage.answer(task, SlotTooSmall(task.number, 2 * GRAIN))
    stage.finish_all()

    stage.want(stream, 2, stage.key())

    assert [task.nbytes for task in stage.tasks] == [2 * GRAIN]


def test_a_batch_that_outgrows_what_a_batch_may_take_is_refused_with_the_number(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    stage.want(stream, 1, stage.key())

    [task] = stage.tasks
    stage.answer(task, SlotTooSmall(task.number, 8 * GRAIN + 1))
    [refusal] = stage.scheduler.next_deliveries(stream, 1)

    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, InvalidRequest)
    assert "takes 32769 bytes; this loader assembles at most 32768 (half its memory budget): ask for fewer rows" in str(
        refusal.error
    )
    assert stage.arena.allocated_nbytes == 0


def test_a_batch_that_says_it_outgrew_a_slot_that_it_fits_is_an_error_and_not_tried_for_ever(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    stage.want(stream, 1, stage.key())

    [task] = stage.tasks
    stage.answer(task, SlotTooSmall(task.number, GRAIN))
    [refusal] = stage.scheduler.next_deliveries(stream, 1)

    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, LoaderBroken)


def test_a_batch_that_outgrew_its_slot_is_finished_although_the_loader_drains(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    stage.want(stream, 1, stage.key())
    task = stage.tasks.pop()

    stage.scheduler.drain()
    stage.answer(task, SlotTooSmall(task.number, 2 * GRAIN))
    stage.finish_all()

    assert stage.take(stream) == [1]
    assert stage.scheduler.next_deliveries(stream, 1) == []


def test_one_who_left_does_not_have_it_assembled_again(stage: Stage) -> None:
    [stream] = open_streams(stage, "one")
    stage.want(stream, 1, stage.key())
    task = stage.tasks.pop()
    stage.scheduler.close_stream(stream)

    stage.answer(task, SlotTooSmall(task.number, 2 * GRAIN))

    assert stage.tasks == []
    assert stage.arena.allocated_nbytes == 0


# ---- the cache by itself ----


def a_place(offset: int, seed: int = 0) -> Key:
    return Key("numbers", b"f", "train", "shuffle", seed, 0, offset, 1)


LAYOUT = Layout((), 10)


def test_keeping_ends_when_nothing_was_wanted_twice_for_long() -> None:
    cache = BatchCache(1 << 30)
    for _ in range(2):
        cache.note_request(a_place(0))
    kept = []
    for offset in range(1, KEEP_ON + 3):
        cache.note_request(a_place(offset))
        cache.put(a_place(offset), Slot(offset * 10, 10), LAYOUT)
        kept.append(not cache.release(Slot(offset * 10, 10)))

    assert kept == [True] * (KEEP_ON - 1) + [False] * 3


def test_only_keys_of_the_order_that_is_shared_are_kept() -> None:
    cache = BatchCache(1 << 30)
    for _ in range(2):
        cache.note_request(a_place(0, seed=1))
    for number, seed in enumerate((1, 2)):
        cache.note_request(a_place(5, seed))
        cache.put(a_place(5, seed), Slot(10 * number, 10), LAYOUT)

    assert cache.release(Slot(0, 10)) == []
    assert cache.release(Slot(10, 10)) == [Slot(10, 10)]
    assert cache.find(a_place(5, 1)) is not None
    assert cache.find(a_place(5, 2)) is None


def test_what_is_read_is_not_given_up() -> None:
    cache = BatchCache(1 << 30)
    for _ in range(2):
        cache.note_request(a_place(0))
    for offset in (1, 2):
        cache.put(a_place(offset), Slot(offset * 10, 10), LAYOUT)
        assert cache.release(Slot(offset * 10, 10)) == []

    cache.acquire(Slot(10, 10))

    assert cache.idle_nbytes == 10
    assert [cache.evict(), cache.evict()] == [Slot(20, 10), None]


def test_a_batch_done_is_a_delivery_also_for_whom_the_slot_was_not_lent(stage: Stage) -> None:
    one, two = open_streams(stage, "one", "two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 2, stage.key(epoch=7))
    [task] = stage.tasks

    stage.answer(task, Done(task.number, LAYOUT, {}))
    [first], [second] = (stage.scheduler.next_deliveries(stream, 1) for stream in (one, two))

    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert first.slot == second.slot
    assert (one.held_nbytes, two.held_nbytes) == (
        GRAIN,
        GRAIN,
    )  # it counts for both: neither may hold more than its share
