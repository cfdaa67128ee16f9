"""What a stream knows about itself: what is in its window, what its sender takes, what is forgotten."""

import threading
from typing import Any

import numpy as np
import pytest

from feedline_server.memory.arena import Slot
from feedline_server.scheduling.stream import MOST_READERS, Batch, Delivery, FileBatch, Refusal, Stream, Want, stages_of
from feedline_server.scheduling.work import WorkByView
from feedline_wire import BAD, IDS, stages
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import Key
from feedline_wire.status import LoaderCounters
from feedline_wire.tensors import Layout, Placed

KEY = Key("numbers", b"f", "train", "sequential", 0, 0, 0, 1)
ERROR = InvalidRequest("no")
SOURCE: Any = None


def a_want(ticket: int, nbytes: int = 10) -> Want:
    return Want(ticket, KEY, nbytes, 0.0)


def a_batch(ticket: int, nbytes: int = 10, memory: int = 0) -> Batch:
    return Batch(a_want(ticket, nbytes), Layout((), nbytes), Slot(ticket * 100, 100, memory))


@pytest.fixture
def stream() -> Stream:
    """1 and 2 wait, 3 is assembled, 4, 5 and 6 are ready, 7 is at the sender."""
    stream = Stream("peer", threading.Condition(threading.Lock()))
    stream.waiting.extend([a_want(1), a_want(2)])
    stream.assembling.add(3)
    stream.ready.extend([a_batch(4), FileBatch(a_want(5), SOURCE), Refusal(6, ERROR)])
    stream.sending = {a_batch(7): None}
    return stream


def tickets(stream: Stream) -> tuple[list[int], set[int], list[int], list[int]]:
    return (
        [want.ticket for want in stream.waiting],
        stream.assembling,
        [delivery.ticket for delivery in stream.ready],
        [batch.ticket for batch in stream.sending],
    )


def test_what_is_at_the_sender_is_no_longer_in_the_window(stream: Stream) -> None:
    assert stream.unanswered == 6


@pytest.mark.parametrize(
    ("ready", "nbytes", "taken"),
    [
        ([a_batch(1, 100)], 10, [1]),  # one always, however large
        ([a_batch(1, 100), a_batch(2, 1)], 100, [1]),
        ([a_batch(1, 4), a_batch(2, 6), a_batch(3, 1)], 10, [1, 2]),
        ([a_batch(1, 4), a_batch(2, 7), a_batch(3, 1)], 10, [1]),  # in their order: none is passed over
        ([FileBatch(a_want(1, 4), SOURCE), FileBatch(a_want(2, 7), SOURCE)], 10, [1]),
        ([a_batch(1, 10), Refusal(2, ERROR), Refusal(3, ERROR), a_batch(4, 1)], 10, [1, 2, 3]),
        ([a_batch(1, 100, memory=7), a_batch(2, 100, memory=7), a_batch(3, 10)], 10, [1, 2, 3]),  # nothing to move
    ],
)
def test_the_sender_takes_one_delivery_and_as_many_more_as_fit(
    ready: list[Delivery], nbytes: int, taken: list[int]
) -> None:
    stream = Stream("peer", threading.Condition())
    stream.ready.extend(ready)

    deliveries = stream.take(nbytes)

    assert [delivery.ticket for delivery in deliveries] == taken
    assert [delivery.ticket for delivery in stream.ready] == [one.ticket for one in ready[len(taken) :]]
    assert list(stream.sending) == [delivery for delivery in deliveries if isinstance(delivery, Batch)]


@pytest.mark.parametrize(
    ("cancelled", "left", "released"),
    [
        ([], ([1, 2], {3}, [4, 5, 6], [7]), []),
        ([2], ([1], {3}, [4, 5, 6], [7]), []),
        ([1, 3, 5], ([2], set(), [4, 6], [7]), []),
        ([4, 6, 7], ([1, 2], {3}, [5], [7]), [4]),  # what is at the sender arrives all the same
    ],
)
def test_cancelled_keys_are_forgotten_wherever_they_are_but_at_the_sender(
    stream: Stream, cancelled: list[int], left: tuple[list[int], set[int], list[int], list[int]], released: list[int]
) -> None:
    batches = stream.cancel(cancelled)

    assert tickets(stream) == left
    assert [batch.ticket for batch in batches] == released


def test_a_batch_is_forgotten_where_it_is(stream: Stream) -> None:
    [sending], ready = stream.sending, stream.ready[0]
    assert isinstance(ready, Batch)

    stream.forget(ready)
    assert tickets(stream)[2:] == ([5, 6], [7])
    stream.forget(sending)
    assert tickets(stream)[2:] == ([5, 6], [])


def test_what_was_not_begun_is_forgotten_when_the_loader_drains(stream: Stream) -> None:
    woken = waiting_on(stream, lambda: not stream.waiting)

    with stream.changed:
        stream.drain()

    woken.join(10)
    assert not woken.is_alive()
    assert tickets(stream) == ([], {3}, [4, 6], [7])


@pytest.mark.parametrize(
    ("unread_since", "released", "sending"),
    [(None, [4], [7]), (0.0, [7, 4], [])],  # a sender that is copying releases by itself
)
def test_a_stream_that_ends_forgets_all_and_says_what_is_to_be_released(
    stream: Stream, unread_since: float | None, released: list[int], sending: list[int]
) -> None:
    stream.unread_since = unread_since
    woken = waiting_on(stream, lambda: stream.closed)

    with stream.changed:
        batches = stream.end(ERROR)

    woken.join(10)
    assert not woken.is_alive()
    assert [batch.ticket for batch in batches] == released
    assert tickets(stream) == ([], set(), [], sending)
    assert (stream.closed, stream.error) == (True, ERROR)


def test_a_sender_that_waits_is_woken_by_a_delivery() -> None:
    stream = Stream("peer", threading.Condition(threading.Lock()))
    woken = waiting_on(stream, lambda: bool(stream.ready))

    with stream.changed:
        stream.deliver(Refusal(1, ERROR))

    woken.join(10)
    assert not woken.is_alive()


def waiting_on(stream: Stream, happened: Any) -> threading.Thread:
    """A thread that waits for it, and does when this returns."""
    begun = threading.Event()

    def wait() -> None:
        with stream.changed:
            begun.set()
            while not happened():
                stream.changed.wait()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    begun.wait(10)
    return thread


def test_a_batch_is_equal_to_itself_alone() -> None:
    """A sender of 512 small batches asked for each whether it is there, which compared it with all by their keys."""
    one, other = a_batch(7), a_batch(7)

    assert one != other
    assert hash(one) == object.__hash__(one)


def test_lines_of_the_log_name_the_reader_that_spoke_last_in_plain_words(stream: Stream) -> None:
    stream.trace = {"trace_id": "1"}
    assert stream.log_fields == {"peer": "peer", "client": stream.caller.name, "trace_id": "1"}

    assert stream.note_reader(pb.Reader(trainer="a", dataset="d", view="train", rank=1), 0.0)
    assert stream.log_fields["trainer"] == "a"
    assert stream.note_reader(pb.Reader(trainer="\x1b[31m" * 9, dataset="d", view="validation", rank=2), 0.0)
    assert not stream.note_reader(pb.Reader(trainer="a", dataset="d", view="train", rank=1), 0.0)

    whose = {"trainer": "a", "dataset": "d", "view": "train", "rank": 1}
    assert stream.log_fields == {"peer": "peer", "client": stream.caller.name, "trace_id": "1", **whose}


def test_readers_are_bounded_and_a_trainer_that_renames_itself_for_ever_is_new_a_few_times(stream: Stream) -> None:
    new = [stream.note_reader(pb.Reader(trainer=f"t{number}"), 0.0) for number in range(100)]

    assert new == [True] * MOST_READERS + [False] * (100 - MOST_READERS)
    assert list(stream.readers) == ["t96", "t97", "t98", "t99"]


def test_of_what_was_sent_only_what_was_compressed_counts_as_that(stream: Stream) -> None:
    counts, work = LoaderCounters(), WorkByView()
    stream.lane = "tcp"

    stream.count_sent(FileBatch(a_want(1, 10), SOURCE), counts, work, 2.0)
    assert (counts.bytes, counts.bytes_compressed, counts.bytes_compressed_to) == (10, 0, 0)

    stream.compressed = (8, 5)
    for ticket in (2, 3):
        stream.count_sent(FileBatch(a_want(ticket, 10), SOURCE), counts, work, 3.0)

    assert (counts.batches, counts.bytes, counts.bytes_tcp, counts.scattered) == (3, 30, 30, 3)
    assert (stream.batches, stream.nbytes) == (3, 30)
    assert (counts.queue_s, counts.send_s) == (0.0, 2.0 + 3.0 + 3.0)
    assert (counts.bytes_compressed, counts.bytes_compressed_to) == (8, 5)


# The second took part in a job that had begun.
@pytest.mark.parametrize(("since", "queued_s"), [(2.0, 1.25), (4.5, 0.0)])
def test_what_no_worker_took_of_the_time_until_a_batch_was_ready_was_the_queue(since: float, queued_s: float) -> None:
    of_worker = (0.5, 1.0, 0.0, 0.25)
    batch = Batch(Want(1, KEY, 10, since), Layout((), 10), Slot(0, 100, 0), 5.0, of_worker)

    found = stages.unpack(stages_of(batch, 6.0))

    assert found == pytest.approx((queued_s, 1.0, *of_worker))


def test_samples_that_a_batch_names_as_bad_are_counted_when_it_is_sent(stream: Stream) -> None:
    counts = LoaderCounters()
    ids = Placed(IDS, np.dtype("<i8"), (5,), 0)
    bad = Placed(BAD, np.dtype("<i8"), (3, 2), 40)

    for layout in (Layout((ids,), 40), Layout((ids, bad), 88)):
        stream.count_sent(Batch(a_want(1), layout, Slot(0, 100, 0)), counts, WorkByView(), 1.0)

    assert (counts.batches, counts.bad_samples) == (2, 3)


def test_of_a_batch_in_the_trainers_own_memory_nothing_is_sent() -> None:
    assert (a_batch(1, 10).unsent_nbytes, a_batch(1, 10, memory=7).unsent_nbytes) == (10, 0)
