"""Dispatch, without processes: tasks go into a list, the test plays the pool."""

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline_server.assembly import layout_of
from feedline_server.catalog import Catalog, Served
from feedline_server.dataset import Dataset, View
from feedline_server.dispatch import MAX_WINDOW, Dispatch, choose
from feedline_server.session import Batch, Refusal, Session, Want
from feedline_server.slots import GRAIN, Arena
from feedline_server.tasks import Done, Failed, Killed, Task
from feedline_wire.errors import (
    BadSample,
    BatchKillsWorkers,
    DatasetChanged,
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderDraining,
)
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Column

FINGERPRINT = b"f" * 16


class Numbers:
    """A source of 100 samples of one grain each."""

    samples = 100
    columns = (Column("x", np.dtype("uint8"), (GRAIN - 64,)),)

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        raise AssertionError("nothing is read here")

    def content(self) -> Iterator[bytes]:
        yield b"numbers"


DATASET = Dataset(name="numbers", source=Numbers(), views={"train": View("train", range(100))}, structure=("x",))


def a_key(offset: int = 0, rows: int = 1, **changes: object) -> Key:
    fields = {
        "dataset": "numbers",
        "fingerprint": FINGERPRINT,
        "view": "train",
        "order": "sequential",
        "seed": 0,
        "epoch": 0,
        "offset": offset,
        "rows": rows,
    }
    return Key(**(fields | changes))  # type: ignore[arg-type]  # the test's own keyword arguments


class Stage:
    """Dispatch over an arena of 16 grains and two workers that only the test moves."""

    def __init__(self) -> None:
        self.arena = Arena(16 * GRAIN)
        self.tasks: list[Task] = []
        catalog = Catalog({"numbers": Served(DATASET, FINGERPRINT)}, max_batch_nbytes=8 * GRAIN)
        self.dispatch = Dispatch(catalog=catalog, arena=self.arena, workers=2, max_trainers=3, submit=self.tasks.append)

    def finish(self, task: Task) -> None:
        self.dispatch.answer(task, Done(task.number, layout_of(DATASET, task.key.rows), 0.0))


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.arena.close()


def test_a_key_wanted_becomes_a_task_and_its_batch_a_delivery(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 7, a_key())

    [task] = stage.tasks
    stage.finish(task)
    [delivery] = stage.dispatch.next_deliveries(session, 1 << 20)

    assert isinstance(delivery, Batch)
    assert delivery.ticket == 7
    stage.dispatch.give_back(session, delivery, sent=True)
    assert stage.arena.lent_nbytes == 0


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"dataset": "other"}, InvalidRequest, "no dataset 'other' is served here; there is: numbers"),
        ({"view": "test"}, InvalidRequest, "no view 'test'; there is: train"),
        ({"order": "sorted"}, InvalidRequest, "no order 'sorted'"),
        ({"fingerprint": b"g" * 16}, DatasetChanged, "asked was 6767"),
        ({"rows": 0}, InvalidRequest, "ask for 1..100"),
        ({"rows": 101}, InvalidRequest, "has 100 samples"),
        ({"offset": 100}, InvalidRequest, "ask for position 0 of epoch 1"),
        ({"rows": 9}, InvalidRequest, "assembles at most 32768"),
    ],
)
def test_a_key_that_cannot_be_had_is_refused_by_its_ticket_and_the_stream_lives_on(
    stage: Stage, changes: dict[str, object], kind: type[FeedlineError], words: str
) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 1, a_key(**changes))  # type: ignore[arg-type]  # the table's own values
    stage.dispatch.want(session, 2, a_key())

    [refusal] = stage.dispatch.next_deliveries(session, 1 << 20)

    assert isinstance(refusal, Refusal)
    assert refusal.ticket == 1
    assert isinstance(refusal.error, kind)
    assert words in str(refusal.error)
    assert [task.key.rows for task in stage.tasks] == [1]


def test_two_streams_that_want_much_are_served_in_turn(stage: Stage) -> None:
    greedy, modest = stage.dispatch.open_session("greedy"), stage.dispatch.open_session("modest")
    for ticket in range(20):
        stage.dispatch.want(greedy, ticket, a_key(offset=ticket))
    for ticket in range(3):
        stage.dispatch.want(modest, ticket, a_key(offset=50 + ticket))

    served = []
    while len(served) < 10:
        task = stage.tasks.pop(0)
        served.append("greedy" if task.key.offset < 50 else "modest")
        stage.finish(task)
        session = greedy if task.key.offset < 50 else modest
        for delivery in stage.dispatch.next_deliveries(session, 1):
            assert isinstance(delivery, Batch)
            stage.dispatch.give_back(session, delivery, sent=True)

    # The first four went to greedy, who was alone; then they alternate until modest has all it wanted.
    assert served == ["greedy"] * 4 + ["modest", "greedy", "modest", "greedy", "modest", "greedy"]


def test_a_stream_that_does_not_read_holds_its_share_and_another_goes_on(stage: Stage) -> None:
    deaf, other = stage.dispatch.open_session("deaf"), stage.dispatch.open_session("other")
    for ticket in range(30):
        stage.dispatch.want(deaf, ticket, a_key(offset=ticket))
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))

    assert deaf.lent == 8 * GRAIN  # half the arena, and there it stays

    for ticket in range(30):
        stage.dispatch.want(other, ticket, a_key(offset=ticket))
        while stage.tasks:
            stage.finish(stage.tasks.pop(0))
        [delivery] = stage.dispatch.next_deliveries(other, 1)
        assert isinstance(delivery, Batch)
        stage.dispatch.give_back(other, delivery, sent=True)
    assert other.batches == 30


def test_a_stream_that_ends_gives_everything_back_also_what_is_still_being_assembled(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    for ticket in range(6):
        stage.dispatch.want(session, ticket, a_key(offset=ticket))
    stage.finish(stage.tasks.pop(0))

    stage.dispatch.close_session(session)
    stage.dispatch.close_session(session)
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))

    assert stage.arena.lent_nbytes == 0
    assert stage.dispatch.next_deliveries(session, 1) == []


def test_a_cancelled_key_is_not_delivered_wherever_it_was(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    for ticket in range(6):  # 0..3 at the workers, 4 and 5 waiting
        stage.dispatch.want(session, ticket, a_key(offset=ticket))
    stage.finish(stage.tasks.pop(0))  # 0 is ready

    stage.dispatch.cancel(session, [0, 1, 4])
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))
    deliveries = stage.dispatch.next_deliveries(session, 1 << 20)

    assert [delivery.ticket for delivery in deliveries] == [2, 3, 5]
    assert stage.arena.lent_nbytes == 3 * GRAIN


def test_a_batch_that_ended_its_workers_is_refused_with_its_sample_ids(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 1, a_key(offset=40, rows=2))

    [task] = stage.tasks
    stage.dispatch.answer(task, Killed(task.number, 3, "signal SIGSEGV"))
    [refusal] = stage.dispatch.next_deliveries(session, 1)

    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, BatchKillsWorkers)
    assert refusal.error.samples == (40, 41)
    assert "positions 40..41 ended 3 workers, the last by signal SIGSEGV; its sample ids begin 40, 41" in str(
        refusal.error
    )
    assert stage.arena.lent_nbytes == 0


def test_an_error_of_the_dataset_reaches_the_ticket_and_frees_the_slot(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 1, a_key())

    [task] = stage.tasks
    stage.dispatch.answer(task, Failed(task.number, BadSample("sample 0 is bad", samples=[0])))
    [refusal] = stage.dispatch.next_deliveries(session, 1)

    assert refusal == Refusal(1, refusal.error)  # type: ignore[union-attr]  # told apart by the next line
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, BadSample)
    assert stage.arena.lent_nbytes == 0


def test_a_stream_too_many_is_refused_and_not_queued(stage: Stage) -> None:
    for peer in "abc":
        stage.dispatch.open_session(peer)

    with pytest.raises(LoaderBusy, match=r"serves 3 streams and takes no more \(max_trainers = 3\)"):
        stage.dispatch.open_session("d")


def test_a_window_without_end_is_refused(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    for ticket in range(MAX_WINDOW + 1):
        stage.dispatch.want(session, ticket, a_key())

    [refusal] = stage.dispatch.next_deliveries(session, 1)

    assert refusal.ticket == MAX_WINDOW


def test_draining_finishes_what_was_begun_takes_nothing_new_and_then_ends_the_stream(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    for ticket in range(6):
        stage.dispatch.want(session, ticket, a_key(offset=ticket))

    stage.dispatch.drain()
    stage.dispatch.want(session, 6, a_key(offset=6))
    while stage.tasks:
        stage.finish(stage.tasks.pop(0))
    deliveries = stage.dispatch.next_deliveries(session, 1 << 20)
    for delivery in deliveries:
        assert isinstance(delivery, Batch)
        stage.dispatch.give_back(session, delivery, sent=True)

    assert [delivery.ticket for delivery in deliveries] == [0, 1, 2, 3]
    assert stage.dispatch.next_deliveries(session, 1) == []
    with pytest.raises(LoaderDraining):
        stage.dispatch.open_session("b")
    stage.dispatch.close_session(session)
    assert stage.dispatch.wait_until_empty(0)


def test_a_stream_whose_trainer_wants_nothing_more_ends_when_all_is_answered(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 1, a_key())

    stage.dispatch.end_wants(session)
    stage.finish(stage.tasks.pop(0))

    assert [delivery.ticket for delivery in stage.dispatch.next_deliveries(session, 1)] == [1]
    assert stage.dispatch.next_deliveries(session, 1) == []


def test_a_sender_that_waits_is_woken_when_its_stream_is_closed(stage: Stage) -> None:
    session = stage.dispatch.open_session("a")
    stage.dispatch.want(session, 1, a_key())
    answers: list[object] = []
    sender = threading.Thread(target=lambda: answers.append(stage.dispatch.next_deliveries(session, 1)))
    sender.start()

    stage.dispatch.close_session(session)
    sender.join(10)

    assert answers == [[]]


def waiting(peer: str, *, served: float, lent: int, nbytes: int) -> Session:
    session = Session(peer, threading.Condition())
    session.served, session.lent = served, lent
    session.waiting.append(Want(1, a_key(), nbytes))
    return session


@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([], None),
        ([("a", 5, 0, 10), ("b", 3, 0, 10)], "b"),  # served least
        ([("a", 5, 40, 10), ("b", 3, 45, 10)], "a"),  # b would go over its half of 100
        ([("a", 0, 45, 10)], None),  # one alone keeps to half as well, for whoever comes next
        ([("a", 0, 0, 90)], "a"),  # who holds nothing may have any batch
        ([("a", 0, 30, 10), ("b", 1, 20, 10), ("c", 2, 20, 10)], "b"),  # thirds
    ],
)
def test_the_stream_chosen_is_the_one_served_least_within_its_share(
    streams: list[tuple[str, float, int, int]], chosen: str | None
) -> None:
    sessions = [waiting(peer, served=served, lent=lent, nbytes=nbytes) for peer, served, lent, nbytes in streams]

    session = choose(sessions, 100)

    assert (session.peer if session else None) == chosen
