"""One loader as a fleet sees it: what each event makes of its state, and which loader is asked for a key."""

import pytest

from feedline.connection.buffers import Buffers
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.events import SameLoader
from feedline.connection.target import Address
from feedline.fleet.endpoint import AFTER, Endpoint, Event, State, choose, choose_second, lost_by, useless
from feedline.fleet.requests import InFlight, PendingBatch
from feedline_wire.errors import FeedlineError, LoaderBusy, LoaderDraining, LoaderUnavailable, ProtocolMismatch
from feedline_wire.key import Key

KEY = Key("voxels", b"\x01", "train", "shuffle", seed=0, epoch=3, offset=118, rows=32)
NBYTES = 1000
NOW = 100.0
SILENT_AFTER_S = 2.0


class NoOwner:
    """Nobody calls a replica that was never started."""


def served(
    fingerprint: bytes = b"\x01",
    *,
    name: str = "voxels",
    replica: str = "r",
    max_window: int = 2,
    max_batch_nbytes: int = 1 << 20,
) -> Description:
    info = DatasetInfo(name, fingerprint, 100, (), (), {"train": 100}, ("shuffle",))
    return Description("1.2", replica, {name: info}, max_batch_nbytes=max_batch_nbytes, max_window=max_window)


def endpoint(
    name: str, description: Description | None = None, *, outstanding: int = 0, rate: float = 0.0, **books: object
) -> Endpoint:
    """An endpoint that owes batches of 1000 bytes for a second, and answers so many bytes a second."""
    connection = Connection(Address(f"{name}:1"), NoOwner(), Buffers(0), Credentials())  # type: ignore[arg-type]
    books = {"heard_at": NOW - 1, "owing_since": NOW - 1, "nbytes": NBYTES * outstanding} | books
    state = State.AWAY if description is None else State.CONNECTED
    made = Endpoint(connection, **({"state": state, "description": description} | books))  # type: ignore[arg-type]
    made.in_flight = {
        ticket: InFlight(pending(), NOW - 1, NBYTES, was_alone=False) for ticket in range(100, 100 + outstanding)
    }
    if rate:
        made.rate.answered(int(rate), 1.0, NOW - 1)
    return made


def pending(*refused_by: Endpoint) -> PendingBatch:
    made = PendingBatch(7, KEY, NBYTES)
    for one in refused_by:
        one.refused.add(made.ticket)
    return made


def chosen(*endpoints: Endpoint, batch: PendingBatch | None = None) -> Endpoint | None:
    return choose(endpoints, batch or pending(), now=NOW, silent_after_s=SILENT_AFTER_S)


def second(*endpoints: Endpoint, asked_s_ago: float = 5.0) -> Endpoint | None:
    return choose_second(endpoints, pending(), since=NOW - asked_s_ago, now=NOW, silent_after_s=SILENT_AFTER_S)


# ---- states ----

TABLE = """
before       joined     draining     lost   refused  doubled      unnamed   named      idle
away         connected  away         away   refused  same-loader  left      away       away
refused      connected  refused      away   refused  same-loader  left      refused    refused
same-loader  connected  same-loader  away   refused  same-loader  left      same-loader same-loader
connected    connected  draining     away   refused  same-loader  leaving   connected  connected
draining     connected  draining     away   refused  same-loader  draining  draining   draining
leaving      leaving    draining     left   left     left         leaving   connected  left
"""


def test_each_event_makes_of_each_state_what_the_table_says() -> None:
    heading, *rows = (line.split() for line in TABLE.strip().splitlines())
    found = {
        state.replace(" ", "-"): {event.name.lower(): after.replace(" ", "-") for event, after in row.items()}
        for state, row in AFTER.items()
    }

    assert found == {state: dict(zip(heading[1:], row, strict=True)) for state, *row in rows}


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        (LoaderUnavailable("reset by peer"), Event.LOST),
        (LoaderBusy("64 streams"), Event.LOST),
        (SameLoader("as at a:1"), Event.DOUBLED),
        (ProtocolMismatch("version 2"), Event.REFUSED),
    ],
)
def test_what_a_loss_is_depends_on_its_reason(reason: FeedlineError, event: Event) -> None:
    assert lost_by(reason) is event


# ---- who is asked ----


def test_of_loaders_of_which_nothing_is_known_the_one_that_owes_the_least_is_asked() -> None:
    busy, idle = endpoint("busy", served(), outstanding=1), endpoint("idle", served())

    assert chosen(busy, idle) is idle


def test_of_idle_loaders_the_one_that_was_asked_the_least_is_asked() -> None:
    often, seldom = endpoint("often", served(), asked=9), endpoint("seldom", served(), asked=8)

    assert chosen(often, seldom) is seldom


def test_a_slow_loader_gets_no_more_than_it_answers_in_the_time_of_a_fast_one() -> None:
    """The fast one answers its 4 and this one more in 0.5 s; the slow one would need a second for this one alone."""
    wide = served(max_window=9)
    slow, fast = endpoint("slow", wide, rate=1000), endpoint("fast", wide, rate=10_000, outstanding=4)

    assert chosen(slow, fast) is fast
    fast.nbytes += 12 * NBYTES
    assert chosen(slow, fast) is slow


@pytest.mark.parametrize(("rate", "chosen_first"), [(1400, False), (1500, False), (1600, True)])
def test_loaders_that_are_nearly_as_fast_share_the_work(rate: int, chosen_first: bool) -> None:
    first = endpoint("first", served(), rate=rate, asked=5)
    other = endpoint("other", served(), rate=1000, asked=4)

    assert chosen(first, other) is (first if chosen_first else other)


def test_a_loader_of_which_nothing_is_known_is_taken_for_a_good_one() -> None:
    known, new = endpoint("known", served(), rate=10_000, outstanding=1), endpoint("new", served())

    assert chosen(known, new) is new
    wide = served(max_window=99)
    fast, slow = endpoint("fast", wide, rate=10_000, outstanding=9), endpoint("slow", wide, rate=1000)
    new = endpoint("new", wide, outstanding=4)
    assert chosen(fast, slow, new) is new, "as good as the best"


def test_a_rate_that_nothing_confirmed_for_a_while_is_not_believed_and_the_loader_is_tried_again() -> None:
    fast, once_slow = endpoint("fast", served(), rate=10_000, outstanding=1), endpoint("once slow", served())
    once_slow.rate.answered(10, 1.0, NOW - 10.5)

    assert chosen(fast, once_slow) is once_slow


def test_a_loader_that_is_silent_gets_no_key_while_another_can_take_it() -> None:
    silent = endpoint("silent", served(), outstanding=1, heard_at=NOW - 3, owing_since=NOW - 2.5)
    busy = endpoint("busy", served(max_window=99), outstanding=50)

    assert chosen(silent, busy) is busy
    assert chosen(silent) is silent


def test_a_loader_that_owes_nothing_or_just_began_to_is_not_silent_however_long_nothing_came() -> None:
    idle = endpoint("idle", served(), heard_at=NOW - 3600)
    began = endpoint("began", served(max_window=9), outstanding=1, heard_at=NOW - 3600, owing_since=NOW - 1)

    assert (idle.silent_s(NOW), began.silent_s(NOW)) == (0.0, 1.0)


def test_a_loader_that_is_silent_for_just_as_long_as_it_may_is_asked() -> None:
    limit = endpoint("limit", served(), outstanding=1, heard_at=NOW - 2, owing_since=NOW - 2)
    busy = endpoint("busy", served(max_window=99), outstanding=50)

    assert chosen(limit, busy) is limit
    assert second(limit) is limit
    assert not limit.is_surely_silent(NOW, 2.0)
    assert limit.suspected_at is None


def test_a_loader_is_surely_silent_when_it_was_found_so_a_while_before() -> None:
    """In between the thread that would have heard it had time to run."""
    silent = endpoint("silent", served(), outstanding=1, heard_at=-9.0, owing_since=-9.0)

    assert not silent.is_surely_silent(0.0, 2.0)
    assert not silent.is_surely_silent(0.04, 2.0)
    assert silent.is_surely_silent(0.05, 2.0)

    silent.heard(0.06)
    assert not silent.is_surely_silent(3.0, 2.0)


# ---- what it owes ----


def test_of_a_connection_that_ended_nothing_is_remembered_but_what_is_in_flight_nowhere_else() -> None:
    here, other = endpoint("here", served()), endpoint("other", served())
    alone, twice, done = (PendingBatch(ticket, KEY, NBYTES) for ticket in (1, 2, 3))
    for batch in (alone, twice, done):
        here.take(batch, NOW)
    other.take(twice, NOW)
    done.outcome = LoaderUnavailable("gone")
    here.in_vain, here.suspected_at = 1, NOW
    here.refused.add(4)
    here.supersede(5)

    assert here.reset() == [alone]

    assert (alone.asked, twice.asked) == (0, 1)
    assert (here.in_flight, here.nbytes, here.in_vain) == ({}, 0, 0)
    assert (here.refused, here.superseded, here.suspected_at) == (set(), set(), None)


def test_what_it_owes_counts_as_it_was_expected_when_it_was_asked_for() -> None:
    here, batch = endpoint("here", served(), owing_since=0.0), PendingBatch(1, KEY, NBYTES)
    here.take(batch, NOW)
    here.take(PendingBatch(2, KEY, NBYTES), NOW + 1)
    assert (here.nbytes, here.asked, here.owing_since) == (2000, 2, NOW)
    assert [asked.was_alone for asked in here.in_flight.values()] == [True, False]

    batch.nbytes = 7

    assert here.release(1) is not None
    assert (here.nbytes, batch.asked) == (1000, 0)
    assert here.release(1) is None
    assert (here.nbytes, batch.asked) == (1000, 0)


def test_a_batch_that_comes_second_is_counted_once_and_only_so_many_are_remembered() -> None:
    here = endpoint("here", served())
    for ticket in range(1024):
        here.supersede(ticket)
    for ticket in (0, 0, 5000):
        here.note_duplicate(ticket)
    assert here.duplicates == 1

    here.supersede(0)
    here.supersede(1024)
    here.note_duplicate(1)
    assert here.duplicates == 1, "older ones are forgotten"
    here.note_duplicate(1024)
    assert here.duplicates == 2


# ---- who is asked as well ----


def test_a_late_key_is_asked_of_a_loader_that_owes_nothing_or_has_answered_since() -> None:
    idle, lively = endpoint("idle", served(), heard_at=0.0), endpoint("lively", served(), outstanding=1)

    assert second(idle) is idle
    assert second(lively, asked_s_ago=1.5) is lively
    assert second(idle, lively) is idle


def test_a_late_key_is_not_asked_of_a_loader_that_has_said_nothing_since_either() -> None:
    as_late = endpoint("as late", served(), outstanding=1, heard_at=NOW - 5.1)
    silent = endpoint("silent", served(), outstanding=1, heard_at=NOW - 3, owing_since=NOW - 4)

    assert second(as_late) is None
    assert second(silent) is None


def test_a_loader_that_has_answered_nothing_yet_gets_two_keys_where_another_has() -> None:
    wide = served(max_window=99)
    proven = endpoint("proven", wide, outstanding=50, has_answered=True)
    tried, new = endpoint("tried", wide, outstanding=2), endpoint("new", wide, outstanding=1)

    assert chosen(proven, tried) is proven
    assert chosen(proven, new) is new
    assert chosen(tried) is tried


@pytest.mark.parametrize(
    "unable",
    [
        endpoint("connecting"),
        endpoint("draining", served(), state=State.DRAINING),
        endpoint("leaving", served(), state=State.LEAVING),
        endpoint("full", served(), outstanding=2),
        endpoint("other data", served(b"\x02")),
        endpoint("other dataset", served(name="pixels")),
        endpoint("small", served(max_batch_nbytes=999)),
        endpoint("broken", reason=ProtocolMismatch("version 2")),
    ],
    ids=lambda endpoint: endpoint.address,
)
def test_a_loader_that_cannot_answer_is_not_asked(unable: Endpoint) -> None:
    able = endpoint("able", served(max_window=99), outstanding=50)

    assert chosen(unable) is None
    assert chosen(unable, able) is able


def test_a_loader_that_said_to_ask_another_one_is_not_asked_again() -> None:
    first, second = endpoint("first", served()), endpoint("second", served(), outstanding=1)

    assert chosen(first, second, batch=pending(first)) is second
    assert chosen(first, second, batch=pending(first, second)) is None


def test_a_loader_is_not_asked_twice_at_once() -> None:
    first, second = endpoint("first", served()), endpoint("second", served(), outstanding=1)
    batch = pending()
    first.in_flight[batch.ticket] = InFlight(batch, NOW, NBYTES, was_alone=True)

    assert chosen(first, second, batch=batch) is second


# ---- two ways to one loader ----


def test_a_loader_is_recognised_behind_another_address() -> None:
    first, other = endpoint("127.0.0.1", served(replica="r1")), endpoint("other", served(replica="r2"))
    new = endpoint("[::1]")

    same = useless([first, other, new], new, served(replica="r1"))
    assert isinstance(same, SameLoader)
    assert str(same) == "[::1]:1: the same loader as at 127.0.0.1:1"
    assert useless([first, other, new], new, served(replica="r3")) is None
    assert useless([first, other], first, served(replica="r1")) is None


def test_another_way_to_a_loader_is_taken_when_nothing_comes_on_the_first() -> None:
    first = endpoint("127.0.0.1", served(replica="r1"), outstanding=1, suspected_at=NOW - 1)
    new = endpoint("[::1]")

    assert useless([first, new], new, served(replica="r1")) is None
    second = endpoint("127.0.0.2", served(replica="r1"))
    assert isinstance(useless([first, second, new], new, served(replica="r1")), SameLoader)


def test_a_loader_that_said_it_is_going_away_is_not_asked_again_on_the_same_address() -> None:
    new = endpoint("a", drained="r1")

    assert isinstance(useless([new], new, served(replica="r1")), LoaderDraining)
    assert useless([new], new, served(replica="its successor")) is None
