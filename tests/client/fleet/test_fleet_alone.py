"""A fleet whose connections are never started: what happens on them is told by the test."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from feedline.connection import forks
from feedline.connection.buffers import Buffers, Received
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.events import HEARD, Answered, Draining, Joined, Lost
from feedline.connection.outbox import Outbox
from feedline.connection.target import Address, Source
from feedline.fleet import rates, tracker
from feedline.fleet.fleet import Fleet
from feedline.fleet.requests import PendingBatch
from feedline.fleet.resolve import Watch
from feedline_wire.errors import Closed, InvalidRequest, LoaderStalled, LoaderUnavailable, ProtocolMismatch
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

WAIT_S = 30.0
BATCH = Received(np.empty(0, np.uint8), Layout((), 1000))
A, B = Address("a:1"), Address("b:1")


class Alone:
    """A fleet, what was started, flushed and closed of it, and the connections by the name of their host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for kind, name in ((Connection, "start"), (Connection, "begin_close"), (Outbox, "flush"), (Watch, "start")):
            self._note(monkeypatch, kind, name)
        self.fleets: list[Fleet] = []

    def _note(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        def note(one: object) -> None:
            self.calls.append(f"{name} {one.address[0]}" if isinstance(one, Connection) else name)

        monkeypatch.setattr(kind, name, note)

    def of(self, *target: Address | Source, connections: int = 1) -> Fleet:
        self.fleets.append(Fleet(target, Credentials(), connections))
        return self.fleets[-1]

    def taken(self) -> list[str]:
        """What was called since this was last asked."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Alone]:
    made = Alone(monkeypatch)
    yield made
    for fleet in made.fleets:
        fleet.close()


@pytest.fixture
def aside() -> Iterator[Callable[..., "Future[object]"]]:
    """Run something in a thread of its own, and end with it."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def connection(fleet: Fleet, name: str) -> Connection:
    return next(one for one in fleet._endpoint_of if one.address == f"{name}:1")


def join(fleet: Fleet, name: str) -> Connection:
    info = DatasetInfo("voxels", b"\x01", 9999, (), (), {"train": 9999}, ("shuffle",))
    described = Description("1", name, {"voxels": info}, max_batch_nbytes=9999, max_window=999)
    one = connection(fleet, name)
    assert fleet.happened(one, Joined(described, Outbox())) is None
    return one


def want(fleet: Fleet, offset: int = 0) -> PendingBatch:
    return fleet.want(Key("voxels", b"\x01", "train", "shuffle", seed=0, epoch=0, offset=offset, rows=1), 1000)


# ---- who belongs to it ----


def test_each_address_has_so_many_connections_that_are_started_once(alone: Alone) -> None:
    names = Source(lambda: [])
    fleet = alone.of(A, names, connections=2)
    assert sorted(alone.taken()) == ["start", "start a", "start a"], "the watch of the names, and a's connections"

    fleet._found(names, (A, B))
    assert alone.taken() == ["start b", "start b"]
    fleet._found(names, (A, B))

    assert alone.taken() == []
    assert [one.address for one in fleet.statistics.replicas] == ["a:1", "a:1", "b:1", "b:1"]


def test_a_fleet_has_one_connection_to_each_loader_without_checksums_and_makes_room_for_what_is_read_ahead(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[int] = []
    monkeypatch.setattr(Buffers, "expect", lambda _, nbytes: expected.append(nbytes))
    fleet = Fleet((A,), Credentials())
    alone.fleets.append(fleet)

    fleet.expect(1 << 20)

    assert [one._is_checksummed for one in fleet._endpoint_of] == [False]
    assert expected == [1 << 20]


def test_a_loader_that_is_not_named_any_more_is_closed_and_forgotten_at_the_next_look(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "LEAVE_AFTER_S", 0.0)
    names = Source(lambda: [])
    fleet = alone.of(names)
    fleet._found(names, (A, B))
    left = connection(fleet, "b")
    fleet._found(names, (A,))
    alone.taken()

    fleet._found(names, (A,))
    assert alone.taken() == ["begin_close b"]
    assert left in fleet._endpoint_of, "its thread may not have ended"
    assert fleet.happened(left, Lost(LoaderUnavailable("reset"))) is None
    assert len(fleet.statistics.replicas) == 1

    fleet._found(names, (A,))
    assert left not in fleet._endpoint_of
    assert fleet.happened(left, HEARD) is None
    assert fleet.key_of(left, 1) is None
    assert alone.taken() == []


def test_names_are_of_no_more_use_when_it_is_closed(alone: Alone) -> None:
    names = Source(lambda: [])
    fleet = alone.of(names)
    fleet.close()

    fleet._found(names, (A,))

    assert fleet.statistics.replicas == ()


def test_a_loss_has_the_names_asked_at_once(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(Watch, "ask_now", lambda _: asked.set())
    fleet = alone.of(A, Source(lambda: []))
    one = join(fleet, "a")
    assert not asked.is_set()

    fleet.happened(one, Lost(LoaderUnavailable("reset")))

    assert asked.is_set()


# ---- joining ----


def test_the_first_that_is_connected_says_what_is_served(alone: Alone, aside: Callable[..., "Future[object]"]) -> None:
    fleet = alone.of(A, B)
    joining = aside(fleet.join, WAIT_S)

    join(fleet, "b")

    assert isinstance(found := joining.result(WAIT_S), Description)
    assert (found.replica, fleet.connected) == ("b", 1)


def test_a_refusal_ends_the_wait_only_if_all_refuse_that_there_are(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline.fleet.joining.ATTEMPT_S", 0.1)  # nobody will answer
    names = Source(lambda: [])
    fleet = alone.of(A, names)
    fleet.happened(connection(fleet, "a"), Lost(ProtocolMismatch("version 2")))
    with pytest.raises(LoaderUnavailable, match="after 0 s no loader answers"):
        fleet.join(0)

    fleet._found(names, (B,))
    with pytest.raises(LoaderUnavailable, match="after 0 s no loader answers"):
        fleet.join(0)

    fleet.happened(connection(fleet, "b"), Lost(ProtocolMismatch("version 3")))
    with pytest.raises(ProtocolMismatch, match="version 2"):
        fleet.join(WAIT_S)


def test_a_target_that_is_none_ends_the_wait_and_one_that_has_no_address_now_does_not(
    alone: Alone, aside: Callable[..., "Future[object]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline.fleet.fleet.LOG_JOIN_AFTER_S", 600.0)  # it looks again then
    monkeypatch.setattr("feedline.fleet.joining.ATTEMPT_S", 0.1)  # nobody will answer
    names = Source(lambda: [])
    fleet = alone.of(names)
    fleet._failed(names, LoaderUnavailable("the name has no address"))
    with pytest.raises(LoaderUnavailable, match="Last words: the name has no address"):
        fleet.join(0)
    fleet._found(names, (A,))
    with pytest.raises(LoaderUnavailable, match=r"Last words: a:1: no answer yet\. Is it running"):
        fleet.join(0)

    joining = aside(fleet.join, 600)
    fleet._failed(names, InvalidRequest("'a' is not 'host:port'"))

    with pytest.raises(InvalidRequest):
        joining.result(WAIT_S)


# ---- wanting ----


def test_what_is_wanted_and_cancelled_is_flushed(alone: Alone) -> None:
    fleet = alone.of(A)
    join(fleet, "a")
    alone.taken()

    pending = want(fleet)
    assert alone.taken() == ["flush"]
    fleet.cancel([pending])
    fleet.cancel([pending])

    assert alone.taken() == ["flush"]
    with pytest.raises(Closed, match="no longer wanted"):
        fleet.wait(pending, 0)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda fleet, _: want(fleet, 1), id="want"),
        pytest.param(lambda fleet, one: fleet.happened(one, Draining()), id="an event"),
        pytest.param(lambda fleet, _: fleet.cancel([]), id="cancel"),
    ],
)
def test_what_the_garbage_collector_drops_is_cancelled_by_whoever_comes_next(
    alone: Alone, act: Callable[[Fleet, Connection], object]
) -> None:
    fleet = alone.of(A)
    one, dropped = join(fleet, "a"), want(fleet)
    with fleet._lock:
        fleet.drop([dropped])
    assert dropped.outcome is None

    act(fleet, one)

    assert isinstance(dropped.outcome, Closed)


def test_of_what_is_dropped_nothing_is_held_that_has_come_although_nobody_comes_next(alone: Alone) -> None:
    """An epoch that was left early kept its window of batches, in a closed connection until garbage was collected."""
    fleet = alone.of(A)
    one, dropped, ready = join(fleet, "a"), want(fleet), want(fleet, 1)
    body = np.zeros(1000, np.uint8)
    gone = weakref.ref(body)
    fleet.happened(one, Answered([(ready.ticket, Received(body, Layout((), 1000)))]))
    del body

    fleet.drop([dropped, ready])
    del ready

    assert gone() is None


def test_what_is_dropped_while_a_reader_waits_is_cancelled_when_it_looks(alone: Alone) -> None:
    fleet = alone.of(A)
    join(fleet, "a")
    waited, dropped = want(fleet), want(fleet, 1)
    fleet.drop([dropped])

    with pytest.raises(LoaderStalled):
        fleet.wait(waited, 0)

    assert isinstance(dropped.outcome, Closed)


def test_a_key_of_an_answer_is_known_until_it_has_its_outcome(alone: Alone) -> None:
    fleet = alone.of(A, B)
    one, pending = join(fleet, "a"), want(fleet)
    assert fleet.key_of(one, pending.ticket) == pending.key
    assert fleet.key_of(one, 77) is None

    fleet._endpoint_of[one].supersede(77)
    assert fleet.key_of(one, 77) is None
    assert fleet.statistics.duplicates == 1
    fleet.happened(one, Answered([(pending.ticket, BATCH)]))
    assert fleet.key_of(one, pending.ticket) is None
    assert fleet.wait(pending, 0) is BATCH


def test_a_sign_of_life_is_noted_without_the_lock_unless_there_is_something_to_withdraw(alone: Alone) -> None:
    fleet = alone.of(A)
    one, pending = join(fleet, "a"), want(fleet)
    endpoint = fleet._endpoint_of[one]
    endpoint.heard_at = 0.0
    with fleet._lock:
        fleet.happened(one, HEARD)
    assert endpoint.heard_at > 0

    pending.outcome, endpoint.in_vain = BATCH, 1
    alone.taken()
    fleet.happened(one, HEARD)
    assert (endpoint.in_flight, endpoint.in_vain, alone.taken()) == ({}, 0, ["flush"])


# ---- waiting ----


def looks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When what is late is looked after."""
    found, look = [], fleet._tracker.look

    def noted(now: float) -> float:
        found.append(now)
        return look(now)

    monkeypatch.setattr(fleet._tracker, "look", noted)
    return found


def test_an_answer_wakes_its_reader(alone: Alone, aside: Callable[..., "Future[object]"]) -> None:
    fleet = alone.of(A)
    one, pending = join(fleet, "a"), want(fleet)
    waiting = aside(fleet.wait, pending, 600)
    while not pending.is_awaited:
        time.sleep(0.001)
    with fleet._lock:  # it waits for a change, or has not yet looked for an outcome
        pass

    fleet.happened(one, Answered([(pending.ticket, BATCH)]))

    assert waiting.result(WAIT_S) is BATCH


def test_a_reader_looks_at_the_beginning_and_at_its_deadline_where_nothing_is_due(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = alone.of(A)
    found = looks(fleet, monkeypatch)
    pending = want(fleet)
    found.clear()

    with pytest.raises(LoaderUnavailable, match=r"within 0\.2 s"):
        fleet.wait(pending, 0.2)

    assert len(found) == 2
    assert 0.2 <= found[1] - found[0] < WAIT_S


def test_a_reader_asks_a_second_loader_when_its_key_gets_late(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "FIRST_LATE_S", 0.05)
    fleet = alone.of(A, B)
    join(fleet, "a")
    join(fleet, "b")
    pending = want(fleet)
    alone.taken()
    found = looks(fleet, monkeypatch)

    with pytest.raises(LoaderStalled, match=r"from (a:1 and b:1|b:1 and a:1)"):
        fleet.wait(pending, 5)

    assert alone.taken() == ["flush"]
    assert found[1] - found[0] < 4, "not at the deadline only"


def test_a_long_wait_is_logged_once(
    alone: Alone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("feedline.fleet.fleet.LOG_WAIT_AFTER_S", 0.05)
    monkeypatch.setattr("feedline.fleet.fleet.LOG_JOIN_AFTER_S", 0.05)
    caplog.set_level(logging.WARNING, "feedline")
    fleet = alone.of(
        A,
        Source(
            lambda: [],
        ),
    )
    found = looks(fleet, monkeypatch)
    for timeout_s in (0.01, 0.05, 2.0):
        with pytest.raises(LoaderUnavailable):
            fleet.join(timeout_s)
    assert caplog.messages == ["a:1: no answer yet; still trying for 2 s"]
    assert len(found) == 2 + 2 + 3
    caplog.clear()

    join(fleet, "a")
    pending = want(fleet)
    with pytest.raises(LoaderStalled):
        fleet.wait(pending, 0.3)
    assert caplog.messages == [f"waiting for up to 0.3 s for the batch {pending.key} from a:1"]


# ---- the end ----


def test_closing_waits_for_all_threads_together_and_not_for_long(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = alone.of(A, B)
    assert fleet in forks._open
    waits: list[float] = []
    monkeypatch.setattr(Connection, "finish_close", lambda _, timeout_s: waits.append(timeout_s))
    alone.taken()
    times = iter([100.0, 100.5, 103.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))

    fleet.close()

    monkeypatch.undo()
    assert waits == [1.5, 0]
    assert fleet not in forks._open


def test_a_closed_fleet_says_so_and_closing_it_again_changes_nothing(
    alone: Alone, aside: Callable[..., "Future[object]"]
) -> None:
    fleet = alone.of(A)
    one, pending = join(fleet, "a"), want(fleet)
    arrived = want(fleet, 1)
    fleet.happened(one, Answered([(arrived.ticket, BATCH)]))
    waiting = aside(fleet.wait, pending, 600)
    alone.taken()

    fleet.close()
    fleet.close()

    assert alone.taken() == ["begin_close a"] * 2
    for use in (
        lambda: waiting.result(10.0),  # after 30 s it would look again by itself
        lambda: fleet.wait(arrived, 0),
        lambda: want(fleet, 2),
        lambda: fleet.join(WAIT_S),
        lambda: fleet.status(WAIT_S),
    ):
        with pytest.raises(Closed, match="connect again"):
            use()
    assert fleet._tracker.counts.wanted == 2


def test_the_status_is_that_of_the_first_that_is_connected(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "status", lambda one, _timeout_s: one.address)
    fleet = alone.of(A, B)
    with pytest.raises(LoaderUnavailable, match="now no loader answers"):
        fleet.status(WAIT_S)

    join(fleet, "b")

    assert fleet.status(WAIT_S) == "b:1"


def test_a_forked_child_has_locks_of_its_own_and_nothing_of_the_parents(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = alone.of(A)
    one, pending = join(fleet, "a"), want(fleet)
    lock = fleet._lock

    with lock:  # a thread of the parent held it at the fork
        inherited = fleet.leave_to_parent()
        with pytest.raises(Closed, match="belongs to the parent"):
            fleet.wait(pending, WAIT_S)
        fleet.drop([pending])
        fleet.cancel([])

    assert fleet._lock is not lock
    assert (fleet.statistics.replicas, fleet._endpoint_of) == ((), {})
    assert one in inherited[1]  # type: ignore[index]
