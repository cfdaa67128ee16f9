"""Scheduler, without processes: tasks go into a list, the test plays the pool."""

import threading
from typing import Any

import pytest
import structlog

from feedline_server.memory.arena import GRAIN
from feedline_server.scheduling.fairness import STALLED_S
from feedline_server.scheduling.overload import OVERLOADED_S
from feedline_server.scheduling.scheduler import MAX_WINDOW
from feedline_server.scheduling.stream import Batch, Refusal
from feedline_server.workers.messages import Failed, KilledWorkers
from feedline_wire.errors import (
    BadSample,
    BatchKillsWorkers,
    DatasetChanged,
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderDraining,
)

Stage = Any  # the fixture in conftest.py


def test_a_key_wanted_becomes_a_task_and_its_batch_a_delivery(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 7, stage.key())

    [task] = stage.tasks
    stage.finish(task)
    [delivery] = stage.scheduler.next_deliveries(stream, 1 << 20)

    assert isinstance(delivery, Batch)
    assert delivery.ticket == 7
    stage.scheduler.release(stream, [delivery], sent=True)
    assert stage.arena.allocated_nbytes == 0


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (
            {"dataset": "other"},
            InvalidRequest,
            "no dataset 'other' is served here; there is: checked, endless, numbers",
        ),
        ({"view": "test"}, InvalidRequest, "no view 'test'; there is: train"),
        ({"order": "sorted"}, InvalidRequest, "no order 'sorted'"),
        ({"fingerprint": b"g" * 16}, DatasetChanged, "the request has 6767"),
        ({"rows": 0}, InvalidRequest, "ask for 1..4096"),
        ({"rows": 4097}, InvalidRequest, "has 100 samples"),
        ({"offset": 100}, InvalidRequest, "ask for position 0 of epoch 1"),
        ({"rows": 9}, InvalidRequest, "assembles at most 32768"),
    ],
)
def test_a_key_that_cannot_be_had_is_refused_by_its_ticket_and_the_stream_lives_on(
    stage: Stage, changes: dict[str, object], kind: type[FeedlineError], words: str
) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 1, stage.key(**changes))  # type: ignore[arg-type]  # the table's own values
    stage.want(stream, 2, stage.key())

    [refusal] = stage.scheduler.next_deliveries(stream, 1 << 20)

    assert isinstance(refusal, Refusal)
    assert refusal.ticket == 1
    assert isinstance(refusal.error, kind)
    assert words in str(refusal.error)
    assert [task.key.rows for task in stage.tasks] == [1]


def test_two_streams_that_want_much_are_served_in_turn(stage: Stage) -> None:
    greedy, modest = stage.scheduler.open_stream("greedy"), stage.scheduler.open_stream("modest")
    for ticket in range(20):
        stage.want(greedy, ticket, stage.key(offset=ticket))
    for ticket in range(3):
        stage.want(modest, ticket, stage.key(offset=50 + ticket))

    served = []
    while len(served) < 10:
        task = stage.tasks.pop(0)
        served.append("greedy" if task.key.offset < 50 else "modest")
        stage.finish(task)
        stream = greedy if task.key.offset < 50 else modest
        for delivery in stage.scheduler.next_deliveries(stream, 1):
            assert isinstance(delivery, Batch)
            stage.scheduler.release(stream, [delivery], sent=True)

    # The first four went to greedy, who was alone; then they alternate until modest has all it wanted.
    assert served == ["greedy"] * 4 + ["modest", "greedy", "modest", "greedy", "modest", "greedy"]


def test_a_stream_that_does_not_read_holds_its_share_and_another_goes_on(stage: Stage) -> None:
    stalled, other = stage.scheduler.open_stream("stalled"), stage.scheduler.open_stream("other")
    for ticket in range(30):
        stage.want(stalled, ticket, stage.key(offset=ticket))
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))

    assert stalled.held_nbytes == 8 * GRAIN  # half the arena, and there it stays

    for ticket in range(30):
        stage.want(other, ticket, stage.key(offset=ticket))
        while stage.tasks:
            stage.finish(stage.tasks.pop(0))
        [delivery] = stage.scheduler.next_deliveries(other, 1)
        assert isinstance(delivery, Batch)
        stage.scheduler.release(other, [delivery], sent=True)
    assert other.batches == 30


def test_a_stream_that_ends_gives_everything_back_also_what_is_still_being_assembled(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    for ticket in range(6):
        stage.want(stream, ticket, stage.key(offset=ticket))
    stage.finish(stage.tasks.pop(0))

    stage.scheduler.close_stream(stream)
    stage.scheduler.close_stream(stream)
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))

    assert stage.arena.allocated_nbytes == 0
    assert stage.scheduler.next_deliveries(stream, 1) == []


def test_a_cancelled_key_is_not_delivered_wherever_it_was(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    for ticket in range(7):
        stage.want(stream, ticket, stage.key(offset=ticket))
    stage.finish(stage.tasks.pop(0))  # 0 is ready, 1 to 4 are at the workers, 5 and 6 wait

    stage.scheduler.cancel(stream, [0, 1, 5])
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))
    deliveries = stage.scheduler.next_deliveries(stream, 1 << 20)

    assert [delivery.ticket for delivery in deliveries] == [2, 3, 4, 6]
    assert stage.arena.allocated_nbytes == 4 * GRAIN


def test_a_batch_that_ended_its_workers_is_refused_with_its_sample_ids(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 1, stage.key(offset=40, rows=2))

    [task] = stage.tasks
    stage.answer(task, KilledWorkers(task.number, 3, "signal SIGSEGV"))
    [refusal] = stage.scheduler.next_deliveries(stream, 1)

    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, BatchKillsWorkers)
    assert refusal.error.samples == (40, 41)
    assert "positions 40..41 ended 3 workers, the last by signal SIGSEGV; its sample ids begin 40, 41" in str(
        refusal.error
    )
    assert stage.arena.allocated_nbytes == 0


def test_an_error_of_the_dataset_reaches_the_ticket_and_frees_the_slot(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 1, stage.key())

    [task] = stage.tasks
    stage.answer(task, Failed(task.number, BadSample("sample 0 is bad", samples=[0])))
    [refusal] = stage.scheduler.next_deliveries(stream, 1)

    assert refusal == Refusal(1, refusal.error)  # type: ignore[union-attr]  # told apart by the next line
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, BadSample)
    assert stage.arena.allocated_nbytes == 0


def test_a_stream_too_many_is_refused_and_not_queued(stage: Stage) -> None:
    for peer in "abc":
        stage.scheduler.open_stream(peer)

    with pytest.raises(LoaderBusy, match=r"serves 3 streams and takes no more \(max_trainers = 3\)"):
        stage.scheduler.open_stream("d")


def test_a_window_without_end_is_refused(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(MAX_WINDOW + 1)])

    [refusal] = stage.scheduler.next_deliveries(stream, 1)

    assert refusal.ticket == MAX_WINDOW


def test_draining_finishes_what_was_begun_takes_nothing_new_and_then_ends_the_stream(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    for ticket in range(6):
        stage.want(stream, ticket, stage.key(offset=ticket))

    stage.scheduler.drain()
    stage.want(stream, 6, stage.key(offset=6))
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))
    deliveries = stage.scheduler.next_deliveries(stream, 1 << 20)
    for delivery in deliveries:
        assert isinstance(delivery, Batch)
        stage.scheduler.release(stream, [delivery], sent=True)

    assert [delivery.ticket for delivery in deliveries] == [0, 1, 2, 3]
    assert stage.scheduler.next_deliveries(stream, 1) == []
    with pytest.raises(LoaderDraining):
        stage.scheduler.open_stream("b")
    stage.scheduler.close_stream(stream)
    assert stage.scheduler.wait_until_empty(0)


def test_a_stream_whose_trainer_wants_nothing_more_ends_when_all_is_answered(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 1, stage.key())

    stage.scheduler.end_wants(stream)
    stage.finish(stage.tasks.pop(0))

    assert [delivery.ticket for delivery in stage.scheduler.next_deliveries(stream, 1)] == [1]
    assert stage.scheduler.next_deliveries(stream, 1) == []


def test_a_sender_that_waits_is_woken_when_its_stream_is_closed(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    stage.want(stream, 1, stage.key())
    answers: list[object] = []
    sender = threading.Thread(target=lambda: answers.append(stage.scheduler.next_deliveries(stream, 1)))
    sender.start()

    stage.scheduler.close_stream(stream)
    sender.join(10)

    assert answers == [[]]


# ---- memory is short ----


def test_what_a_stalled_trainer_holds_is_taken_for_another_and_assembled_again_when_it_reads(stage: Stage) -> None:
    longest, stalled, other = (stage.scheduler.open_stream(peer) for peer in ("longest", "stalled", "other"))
    for stream in (longest, stalled):  # half the arena each, in one batch
        stage.want(stream, 1, stage.key(rows=8))
        stage.finish_all()
    first = stage.stall(longest)
    second = stage.stall(stalled)

    stage.want(other, 1, stage.key(rows=1))
    stage.finish_all()

    assert stage.take(other) == [1]
    assert stage.scheduler.status().counters.reclaimed == 1
    assert stage.scheduler.pin(stalled, [second])  # one had to go, and that was the other
    stage.scheduler.release(stalled, [second], sent=True)
    assert not stage.scheduler.pin(longest, [first])
    stage.scheduler.release(longest, [first], sent=False)
    stage.finish_all()
    assert stage.take(longest) == [1]
    assert stage.arena.allocated_nbytes == 0


def test_a_batch_that_was_dropped_unsent_is_charged_when_it_is_assembled_again_and_not_twice(stage: Stage) -> None:
    stalled, *others = (stage.scheduler.open_stream(peer) for peer in ("stalled", "one", "other"))
    stage.want(stalled, 1, stage.key(rows=8))
    stage.finish_all()
    stage.stall(stalled)
    charged = stalled.virtual_time

    for other in others:  # the second has no room beside it
        stage.want(other, 1, stage.key(rows=8))
    stage.finish_all()

    assert stage.scheduler.status().counters.reclaimed == 1
    assert (charged, stalled.virtual_time) == (32320 + (1 << 20), 0)


def test_a_stream_that_waits_for_memory_has_it_when_a_reader_stalls_though_nothing_happens(stage: Stage) -> None:
    stalling, other, waits = (stage.scheduler.open_stream(peer) for peer in ("stalling", "other", "waits"))
    for stream in (stalling, other):
        stage.want(stream, 1, stage.key(rows=8))
        stage.finish_all()
    stage.scheduler.next_deliveries(stalling, 1)
    stage.scheduler.unpin(stalling)
    stage.now += STALLED_S - 0.05
    came: list[object] = []
    sender = threading.Thread(target=lambda: came.extend(stage.scheduler.next_deliveries(waits, 1)))
    sender.start()

    stage.want(waits, 1, stage.key(rows=8))
    assert stage.tasks == []
    stage.now += 0.05
    for _ in range(1000):
        sender.join(0.01)
        stage.finish_all()
        if not sender.is_alive():
            break

    assert [type(one) for one in came] == [Batch]
    assert stage.scheduler.status().counters.reclaimed == 1


def test_a_large_batch_has_room_although_stalled_trainers_hold_slots_all_over_the_arena(stage: Stage) -> None:
    stalled, other, large = (stage.scheduler.open_stream(peer) for peer in ("stalled", "other", "large"))
    for ticket in range(5):  # a slot of each in turn
        for stream in (stalled, other):
            stage.want(stream, ticket, stage.key())
            stage.finish_all()
    stage.take(other, 5)
    stage.stall(stalled)

    stage.want(large, 1, stage.key(rows=8))
    stage.finish_all()

    assert stage.take(large) == [1]
    assert [want.ticket for want in stalled.waiting] == [4]  # nothing more was taken than had to be

    stage.want(large, 2, stage.key(rows=8))
    stage.want(other, 5, stage.key(rows=8))
    stage.finish_all()

    assert stage.take(large) == [2]
    assert stage.take(other) == [5]
    assert [want.ticket for want in stalled.waiting] == [0, 1, 2, 3, 4]  # in their old order


def test_a_trainer_that_read_a_moment_ago_keeps_what_it_holds(stage: Stage) -> None:
    slow, other = stage.scheduler.open_stream("slow"), stage.scheduler.open_stream("other")
    stage.want(slow, 1, stage.key(rows=8))
    stage.want(slow, 2, stage.key(rows=1))
    stage.finish_all()
    [batch] = stage.scheduler.next_deliveries(slow, 1)
    stage.scheduler.unpin(slow)
    stage.now += STALLED_S / 2
    stage.want(other, 1, stage.key(rows=8))
    stage.finish_all()

    assert isinstance(batch, Batch)
    assert stage.scheduler.pin(slow, [batch])
    assert stage.scheduler.status().counters.reclaimed == 0


def test_a_batch_that_is_just_being_copied_is_never_taken_away(stage: Stage) -> None:
    """Its bytes are read at that moment: another's would be sent under its name."""
    copying, other = stage.scheduler.open_stream("copying"), stage.scheduler.open_stream("other")
    stage.want(copying, 1, stage.key(rows=8))
    stage.finish_all()
    stage.scheduler.next_deliveries(copying, 1)  # and no unpin
    stage.now += 1000
    for ticket in range(2):
        stage.want(other, ticket, stage.key(rows=8))

    assert [task.key.rows for task in stage.tasks] == [8]
    assert stage.scheduler.status().counters.reclaimed == 0


def test_a_stalled_trainer_gets_nothing_new_until_it_reads(stage: Stage) -> None:
    stalled = stage.scheduler.open_stream("stalled")
    stage.want(stalled, 1, stage.key())
    stage.finish_all()
    batch = stage.stall(stalled)

    stage.want(stalled, 2, stage.key(offset=7))
    assert stage.tasks == []

    assert stage.scheduler.pin(stalled, [batch])
    assert [task.key.offset for task in stage.tasks] == [7]


def test_a_trainer_that_reads_again_has_no_claim_on_what_the_others_got_meanwhile(stage: Stage) -> None:
    stalled, other = stage.scheduler.open_stream("stalled"), stage.scheduler.open_stream("other")
    stage.want(stalled, 0, stage.key())
    stage.finish_all()
    batch = stage.stall(stalled)
    for ticket in range(1, 20):
        stage.want(stalled, ticket, stage.key(offset=ticket))
    for ticket in range(20):
        stage.want(other, ticket, stage.key(offset=50))
        stage.finish_all()
        stage.take(other)
    for ticket in range(20, 40):
        stage.want(other, ticket, stage.key(offset=50))

    stage.scheduler.pin(stalled, [batch])
    begun = []
    for _ in range(12):  # four were begun before
        task = stage.tasks.pop(0)
        begun.append("other" if task.key.offset == 50 else "stalled")
        stage.finish(task)
        stream = other if task.key.offset == 50 else stalled
        [delivery] = stage.scheduler.next_deliveries(stream, 1)
        assert isinstance(delivery, Batch)
        stage.scheduler.release(stream, [delivery], sent=True)

    assert begun == [*["other"] * 4, "stalled", "stalled", "other", "stalled", "other", "stalled", "other", "stalled"]


def test_a_stream_that_was_idle_has_no_claim_on_what_the_others_got_meanwhile(stage: Stage) -> None:
    idle, busy = stage.scheduler.open_stream("idle"), stage.scheduler.open_stream("busy")
    for ticket in range(20):
        stage.want(busy, ticket, stage.key(offset=50))
        stage.finish_all()
        stage.take(busy)

    for ticket in range(20, 40):
        stage.want(busy, ticket, stage.key(offset=50))
    for ticket in range(20):
        stage.want(idle, ticket, stage.key(offset=ticket))

    begun = []
    for _ in range(10):  # four were begun before
        task = stage.tasks.pop(0)
        begun.append("busy" if task.key.offset == 50 else "idle")
        stage.finish(task)
        stream = busy if task.key.offset == 50 else idle
        stage.scheduler.release(stream, stage.scheduler.next_deliveries(stream, 1), sent=True)
    assert begun == [*["busy"] * 4, "idle", "idle", "busy", "idle", "busy", "idle"]


def test_a_large_batch_is_not_passed_over_for_ever_and_small_ones_go_on_beside_it(stage: Stage) -> None:
    """Slots at both ends and in the middle: 8 grains in a row are nowhere, and a stream of small keys never ends."""
    slow, small, large = (stage.scheduler.open_stream(peer) for peer in ("slow", "small", "large"))
    for ticket in range(5):
        stage.want(slow, ticket, stage.key(offset=ticket))
        stage.want(small, ticket, stage.key(offset=10 + ticket, rows=1))
    stage.finish_all()
    stage.want(large, 1, stage.key(rows=8))
    for ticket in range(5, 100):
        stage.want(small, ticket, stage.key(offset=ticket % 100))
    stage.finish_all()

    assert stage.scheduler.status().short_of == "memory"
    assert len(stage.take(small, 40)) == 40  # they go on, and do not fill what is kept for the large one
    assert not large.ready

    assert stage.take(slow, 5) == [0, 1, 2, 3, 4]  # as soon as the last that lay there has been sent
    assert stage.take(large) == [1]
    assert stage.scheduler.status().short_of is None


def test_a_batch_in_a_region_that_is_reserved_gets_no_more_readers(stage: Stage) -> None:
    """One reader after the other would keep the large batch waiting for ever."""
    slow, small, large = (stage.scheduler.open_stream(peer) for peer in ("slow", "small", "large"))
    keys = [stage.key(offset=ticket) for ticket in range(5)]
    for ticket in range(5):  # of the 16 grains 0, 2, 4, 6, 8 are slow's and 1, 3, 5, 7, 9 small's
        stage.want(slow, ticket, keys[ticket])
        stage.want(small, ticket, stage.key(offset=10 + ticket))
    stage.finish_all()
    stage.want(large, 1, stage.key(rows=8))  # reserved are 8 to 16
    assert stage.take(small, 4) == [0, 1, 2, 3]

    stage.want(small, 8, keys[4])  # which lies at 8
    stage.want(small, 6, keys[3])  # which lies at 6, outside

    [task] = stage.tasks
    assert (task.key, task.start) == (keys[4], GRAIN)
    stage.finish_all()
    assert stage.scheduler.status().counters.shared == 1
    assert stage.take(slow, 5) == [0, 1, 2, 3, 4]
    assert stage.take(small) == [4]
    assert stage.take(large) == [1]


def test_a_region_kept_for_a_stream_that_ends_is_free_for_the_others(stage: Stage) -> None:
    slow, small, large = (stage.scheduler.open_stream(peer) for peer in ("slow", "small", "large"))
    for ticket in range(5):
        stage.want(slow, ticket, stage.key(offset=ticket))
        stage.want(small, ticket, stage.key(offset=10 + ticket))
    stage.finish_all()
    stage.want(large, 1, stage.key(rows=8))
    assert stage.scheduler.status().short_of == "memory"

    stage.scheduler.close_stream(large)
    stage.take(small, 5)
    stage.want(small, 5, stage.key(rows=7))  # fits behind what slow holds, and nowhere else
    stage.finish_all()

    assert stage.take(small) == [5]
    assert stage.scheduler.status().short_of is None


def test_a_region_reserved_for_a_key_that_is_cancelled_is_free_for_the_others(stage: Stage) -> None:
    slow, small, large = (stage.scheduler.open_stream(peer) for peer in ("slow", "small", "large"))
    for ticket in range(5):
        stage.want(slow, ticket, stage.key(offset=ticket))
        stage.want(small, ticket, stage.key(offset=10 + ticket))
    stage.finish_all()
    stage.scheduler.want(large, [(1, stage.key(rows=8)), (2, stage.key(rows=8))])
    assert stage.scheduler.status().counters.arena_lent == 10 * GRAIN

    stage.scheduler.cancel(large, [1])
    stage.scheduler.cancel(slow, [4])
    stage.scheduler.cancel(small, [4])

    assert [task.start for task in stage.tasks] == [8 * GRAIN]


def test_a_region_reserved_for_a_reader_that_stalls_is_free_for_the_others(stage: Stage) -> None:
    large, slow = (stage.scheduler.open_stream(peer) for peer in ("large", "slow"))
    for ticket in range(8):  # by turns: the even grains are large's
        stage.want(large, ticket, stage.key(offset=ticket))
        stage.want(slow, ticket, stage.key(offset=10 + ticket))
        stage.finish_all()
    stage.scheduler.cancel(large, range(1, 8))
    stage.scheduler.next_deliveries(large, 1)
    stage.scheduler.unpin(large)
    stage.want(large, 8, stage.key(rows=7))  # reserved are 2 to 9
    assert stage.scheduler.status().short_of == "memory"

    stage.now += STALLED_S
    stage.take(slow)
    for ticket in (8, 9):
        stage.want(slow, ticket, stage.key())
        [task] = stage.tasks
        stage.finish_all()
        stage.take(slow)

    assert task.start == 2 * GRAIN


def test_a_trainer_with_small_batches_and_one_with_large_ones_both_go_on_when_the_workers_are_busy(
    stage: Stage,
) -> None:
    """By bytes alone the small one would have two batches for each of the large one's, though both cost as much."""
    large, small = stage.scheduler.open_stream("large"), stage.scheduler.open_stream("small")
    for ticket in range(200):
        stage.want(small, ticket, stage.key())
        stage.want(large, ticket, stage.key(rows=2))

    served = {large: 0, small: 0}
    for _ in range(100):
        task = stage.tasks.pop(0)
        stage.finish(task)
        stream = large if task.key.rows == 2 else small
        served[stream] += 1
        [batch] = stage.scheduler.next_deliveries(stream, 1)
        assert isinstance(batch, Batch)
        stage.scheduler.release(stream, [batch], sent=True)

    assert served[large] >= 45
    assert served[small] >= 45


# ---- overload ----


def test_keys_that_wait_for_workers_are_in_the_status_with_how_long(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    for ticket in range(6):  # two workers hold four
        stage.want(stream, ticket, stage.key())
    stage.now += 7

    state = stage.scheduler.status()

    assert (state.counters.waited_s, state.short_of) == (7, "workers")
    assert state.streams[0].counters.waited_s == 7


def test_a_trainer_that_does_not_read_waits_for_itself_and_is_no_overload(stage: Stage) -> None:
    stalled = stage.scheduler.open_stream("stalled")
    for ticket in range(20):
        stage.want(stalled, ticket, stage.key())
    stage.finish_all()
    stage.stall(stalled)
    stage.now += 60

    state = stage.scheduler.status()

    assert (state.counters.waited_s, state.short_of) == (0, None)
    assert state.streams[0].counters.unread_s == 60 + STALLED_S


def test_overload_is_logged_once_a_minute(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")
    for ticket in range(30):
        stage.want(stream, ticket, stage.key())

    with structlog.testing.capture_logs() as logged:
        for _ in range(20):
            stage.now += OVERLOADED_S
            stage.finish(stage.tasks.pop(0))
            [batch] = stage.scheduler.next_deliveries(stream, 1)
            assert isinstance(batch, Batch)
            stage.scheduler.release(stream, [batch], sent=True)

    assert [(entry["waited_s"], entry["short_of"], entry["trainers"]) for entry in logged] == [
        (5.0, "workers", 1),
        (65.0, "workers", 1),
    ]


def test_a_stream_that_wants_without_end_and_reads_nothing_is_ended(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("flood")
    stage.scheduler.want(stream, [(ticket, stage.key(view="none")) for ticket in range(2 * MAX_WINDOW)])
    assert not stream.closed

    stage.want(stream, 2 * MAX_WINDOW, stage.key(view="none"))

    assert stream.closed
    assert stage.scheduler.status().streams == ()


def test_a_key_that_cannot_be_had_counts_as_a_failure(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("one")

    for ticket, dataset in enumerate(("absent", "gone")):
        stage.want(stream, ticket, stage.key(dataset=dataset))

    assert stage.scheduler.status().counters.failures == 2


def test_a_loader_that_drains_sends_new_trainers_to_another(stage: Stage) -> None:
    stage.scheduler.drain()

    with pytest.raises(LoaderDraining) as raised:
        stage.scheduler.open_stream("late")

    assert raised.value.elsewhere


def test_who_was_idle_has_no_claim_on_what_the_other_got_meanwhile(stage: Stage) -> None:
    idle, busy = (stage.scheduler.open_stream(peer) for peer in ("idle", "busy"))
    for ticket in range(20):
        stage.want(busy, ticket, stage.key())
        stage.finish_all()
        stage.take(busy)
    for ticket in range(100, 112):
        stage.want(busy, ticket, stage.key())
    assert len(stage.tasks) == 4  # what the pool has at once

    of_idle = [stage.key() for _ in range(8)]
    for ticket, key in enumerate(of_idle):
        stage.want(idle, ticket, key)
    for _ in range(8):
        stage.finish(stage.tasks.pop(0))

    assert sum(task.key in of_idle for task in stage.tasks) == 2  # every other one


def test_a_sender_that_nobody_wakes_looks_again_by_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream counts as stalled when time has passed, of which nothing tells."""
    looked, scheduler = threading.Event(), stage.scheduler
    stream = scheduler.open_stream("a")
    monkeypatch.setattr(scheduler, "_next_look_s", lambda: 0.01)
    monkeypatch.setattr(scheduler, "_begin_what_can", lambda _: looked.set() or [])

    sender = threading.Thread(target=scheduler.next_deliveries, args=(stream, 1))
    sender.start()

    assert looked.wait(30)
    scheduler.close_stream(stream)
    sender.join(30)
    assert not sender.is_alive()
