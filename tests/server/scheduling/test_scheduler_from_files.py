"""Scheduler, where batches can be sent from where their rows lie: no worker and no memory of the arena is asked for."""

import errno
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline_server.lanes.from_files import ZeroCopySource
from feedline_server.lanes.iovec import Iovec
from feedline_server.rpc.sender import Sender
from feedline_server.scheduling.scheduler import QUEUED_PER_WORKER
from feedline_server.scheduling.stream import Batch, FileBatch, Refusal, Stream
from feedline_wire.errors import LoaderDraining
from feedline_wire.key import Key
from feedline_wire.tensors import Layout, lay_out

Stage = Any  # the fixture in conftest.py


class FilesOnly(ZeroCopySource):
    """Of a dataset that has no files: only whether it is of use counts."""

    def __init__(self) -> None:
        self.is_wanted = True
        self.is_given_up = False

    def takes(self, rows: int) -> bool:
        return self.is_wanted

    @property
    def is_of_use(self) -> bool:
        return self.is_wanted

    def give_up(self) -> None:
        self.is_given_up = True

    def note_disk(self, *, was_waited_for: bool) -> None:
        pass

    def batch(self, key: Key) -> tuple[Layout, Iovec]:
        memory = np.zeros(64, np.uint8)
        return lay_out([("x", memory.dtype, memory.shape)]), Iovec(
            np.array([[memory.ctypes.data, memory.nbytes]], np.uint64), [memory]
        )


class Broken:
    """A lane on which every send ends so."""

    memory = None

    def __init__(self, code: int) -> None:
        self.code = code

    def send(self, *_parcels: object, **_asks: object) -> None:
        raise OSError(self.code, "it ended")


@pytest.fixture
def source() -> FilesOnly:
    return FilesOnly()


@pytest.fixture
def from_files(source: FilesOnly) -> dict[str, ZeroCopySource]:
    return {"numbers": source}


def by_tcp(stage: Stage, peer: str) -> Stream:
    stream: Stream = stage.scheduler.open_stream(peer)
    stage.scheduler.set_lane(stream, "tcp", None)
    return stream


def tickets(stage: Stage, stream: Stream, nbytes: int = 1 << 30) -> list[int]:
    return [delivery.ticket for delivery in stage.scheduler.next_deliveries(stream, nbytes)]


def test_what_can_be_sent_so_is_ready_at_once_in_its_order(stage: Stage) -> None:
    stream = by_tcp(stage, "a")

    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(40)])

    assert stage.tasks == []
    assert stage.arena.allocated_nbytes == 0
    deliveries = stage.scheduler.next_deliveries(stream, 1 << 30)
    assert [delivery.ticket for delivery in deliveries] == list(range(40))
    assert all(isinstance(delivery, FileBatch) for delivery in deliveries)


def test_without_a_lane_and_for_a_trainer_with_memory_workers_assemble(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("a")

    stage.want(stream, 1, stage.key())

    assert len(stage.tasks) == 1


def test_what_was_sent_is_counted(stage: Stage) -> None:
    stream = by_tcp(stage, "a")
    stage.scheduler.want(stream, [(1, stage.key()), (2, stage.key())])
    deliveries = stage.scheduler.next_deliveries(stream, 1 << 30)

    stage.scheduler.release(stream, deliveries, sent=True)

    state = stage.scheduler.status()
    assert (state.counters.batches, state.counters.scattered, state.streams[0].counters.batches) == (2, 2, 2)
    assert state.counters.bytes == sum(delivery.want.nbytes for delivery in deliveries) > 0


def test_what_cannot_be_sent_so_after_all_is_assembled_first_of_all(stage: Stage, source: FilesOnly) -> None:
    stream = by_tcp(stage, "a")
    keys = [stage.key() for _ in range(4)]
    stage.scheduler.want(stream, list(enumerate(keys[:3])))
    deliveries = stage.scheduler.next_deliveries(stream, 1 << 30)
    source.is_wanted = False
    stage.want(stream, 3, keys[3])

    stage.scheduler.release(stream, deliveries[2:], sent=True, again=deliveries[:2])

    assert [task.key for task in stage.tasks] == [keys[3], keys[0], keys[1]]


def test_a_cancelled_one_is_not_sent(stage: Stage) -> None:
    stream = by_tcp(stage, "a")
    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(3)])

    stage.scheduler.cancel(stream, [1])

    assert tickets(stage, stream) == [0, 2]


def test_a_loader_that_drains_forgets_them_for_another_has_them_as_soon(stage: Stage) -> None:
    stream = by_tcp(stage, "a")
    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(3)])

    stage.scheduler.drain()

    assert tickets(stage, stream) == []
    with pytest.raises(LoaderDraining):
        stage.scheduler.open_stream("b")


def test_workers_that_have_enough_to_do_do_not_hold_it_up(stage: Stage) -> None:
    busy = stage.scheduler.open_stream("a")
    stage.scheduler.want(busy, [(ticket, stage.key()) for ticket in range(20)])
    stream = by_tcp(stage, "b")
    stream.virtual_time = busy.virtual_time + (1 << 40)  # by workers it would be the other's turn for long

    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(3)])

    assert tickets(stage, stream) == [0, 1, 2]
    assert busy.waiting


def test_what_several_want_is_assembled_once_for_all_of_them(stage: Stage) -> None:
    """Each would have its rows copied out of cold memory: four trainers cost 2.5 CPU seconds a GB instead of 2.1."""
    first, *others = (by_tcp(stage, peer) for peer in "abc")
    keys = [stage.key() for _ in range(3)]

    for stream in (first, *others):
        stage.scheduler.want(stream, list(enumerate(keys)))

    assert tickets(stage, first) == [0, 1, 2]
    assert [task.key for task in stage.tasks] == keys
    stage.finish_all()
    assert [tickets(stage, stream) for stream in others] == [[0, 1, 2]] * 2
    assert stage.scheduler.status().counters.shared == 3


def test_of_several_that_want_the_same_the_first_is_assembled_for_too(stage: Stage) -> None:
    first, second = (by_tcp(stage, peer) for peer in "ab")
    seen, later = stage.key(), stage.key()
    for stream in (first, second):
        stage.want(stream, 0, seen)
    stage.finish_all()

    for stream in (first, second):
        stage.want(stream, 1, later)

    assert [task.key for task in stage.tasks] == [later]


def test_a_trainer_alone_that_wants_the_same_again_needs_no_worker(stage: Stage) -> None:
    stream = by_tcp(stage, "a")
    key = stage.key()

    stage.scheduler.want(stream, [(ticket, key) for ticket in range(3)])

    assert tickets(stage, stream) == [0, 1, 2]
    assert stage.tasks == []


@pytest.mark.parametrize(("code", "is_given_up"), [(errno.EFAULT, True), (errno.ECONNRESET, False)])
def test_memory_that_cannot_be_read_is_tried_no_more_and_a_trainer_that_left_changes_nothing(
    stage: Stage, source: FilesOnly, code: int, is_given_up: bool
) -> None:
    """A disk that fails leaves the file's size and times as they were: else the lane would be made anew for ever."""
    stream = by_tcp(stage, "a")
    stage.want(stream, 1, stage.key())
    offer: Any = SimpleNamespace(lane=Broken(code))

    assert list(Sender(stage.scheduler, stream, offer, None).frames()) == []

    assert source.is_given_up == is_given_up
    assert stage.scheduler.status().counters.batches == 0


def test_a_key_that_cannot_be_had_is_refused_as_ever(stage: Stage) -> None:
    stream = by_tcp(stage, "a")

    stage.want(stream, 1, stage.key(offset=1000))

    [delivery] = stage.scheduler.next_deliveries(stream, 1 << 30)
    assert isinstance(delivery, Refusal)


def test_a_stream_that_ends_lets_go_of_all(stage: Stage) -> None:
    stream = by_tcp(stage, "a")
    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(3)])

    stage.scheduler.close_stream(stream)

    assert tickets(stage, stream) == []
    assert not any(isinstance(delivery, Batch | FileBatch) for delivery in stream.ready)


def test_what_can_be_sent_so_no_more_waits_for_workers_that_are_busy(stage: Stage, source: FilesOnly) -> None:
    stream = by_tcp(stage, "a")
    source.is_wanted = False

    stage.scheduler.want(stream, [(ticket, stage.key()) for ticket in range(7)])

    assert [task.key.epoch for task in stage.tasks] == list(range(2 * QUEUED_PER_WORKER))
    assert stage.scheduler.status().short_of == "workers"
