"""One loader as a fleet sees it: what each event makes of its state, and which loader is asked for a key."""

import math
from collections.abc import Iterable

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


def test_a_loader_that_was_never_asked_is_idle() -> None:
    fresh = Endpoint(endpoint("a").connection)

    assert (fresh.is_idle, fresh.nbytes) == (True, 0)


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


def test_a_connection_that_breaks_in_the_middle_of_much_is_asked_for_less_and_for_more_with_each_answer() -> None:
    one = endpoint("a", served(max_window=8))
    assert one.can_take(pending())

    one.breaks(lost=5)
    assert one.most == math.inf, "once may be a restart"
    one.breaks(lost=5)
    asked = []
    for ticket in range(8):
        batch = pending()
        batch.ticket = ticket
        if one.can_take(batch):
            one.take(batch, NOW)
            asked.append(ticket)
    assert asked == [0, 1]

    one.breaks(lost=0)
    assert one.most == 2
    one.has_answered = True
    one.breaks(lost=1)
    assert one.most == 1


def test_that_no_batch_was_ever_whole_is_said_from_the_third_time_on() -> None:
    one = endpoint("a", reason=LoaderUnavailable("a:1: reset by peer"))
    words = []
    for _ in range(3):
        one.breaks(lost=1)
        words.append(one.last_words)

    assert words[:2] == ["a:1: reset by peer"] * 2
    assert words[2].startswith("a:1: reset by peer (connected 3 times, and lost each time before one batch was whole: ")


# ---- many loaders ----


def many(count: int, *, owing: int, rate: float, **books: object) -> list[Endpoint]:
    """Loaders of one kind, of which the first `owing` owe a batch, that answer so many bytes a second."""
    return [
        endpoint(str(at), served(max_window=16), outstanding=int(at < owing), rate=rate, has_answered=True, **books)
        for at in range(count)
    ]


def test_quick_small_batches_are_asked_of_few_loaders_at_a_time() -> None:
    """What comes from one loader comes together: 64 that send one each cost a trainer several times the CPU."""
    quick = many(64, owing=4, rate=1e6)

    assert chosen(*quick) in quick[:4]


@pytest.mark.parametrize(
    ("endpoints", "why"),
    [
        (many(64, owing=3, rate=1e6), "fewer owe anything"),
        (many(64, owing=4, rate=1e5), "they take 20 ms for it"),
        (many(64, owing=4, rate=0.0), "nothing is known of them"),
    ],
)
def test_small_batches_are_asked_of_others_where_few_loaders_are_not_enough(
    endpoints: list[Endpoint], why: str
) -> None:
    assert chosen(*endpoints) in [one for one in endpoints if not one.in_flight], why


def test_few_loaders_need_not_be_quick_for_a_trainer_whose_batches_are_there_before_it_asks() -> None:
    slow = many(64, owing=4, rate=1e5)

    found = choose(slow, pending(), now=NOW, silent_after_s=SILENT_AFTER_S, is_ample=True)

    assert found in slow[:4]


def test_large_batches_are_asked_of_any_loader() -> None:
    quick = many(64, owing=4, rate=1e9)
    large = pending()
    large.nbytes = 1 << 17

    assert chosen(*quick, batch=large) in quick[4:]


def test_of_many_loaders_the_only_one_that_can_be_asked_is_found() -> None:
    endpoints = many(64, owing=0, rate=1e6)
    for one in endpoints[:50] + endpoints[51:]:
        one.state = State.DRAINING

    assert chosen(*endpoints) is endpoints[50]


def test_of_many_loaders_all_have_their_turn() -> None:
    endpoints = many(64, owing=0, rate=1e6)

    asked = set()
    for ticket in range(1000, 1064):
        batch = PendingBatch(ticket, KEY, 1 << 17)
        found = chosen(*endpoints, batch=batch)
        assert found is not None
        found.take(batch, NOW)
        asked.add(found.address)

    assert len(asked) == 64


def test_small_batches_are_asked_of_the_few_of_many_loaders_that_answered_last() -> None:
    """Else each of 64 would be asked now and then, and the stream of none would ever rest."""
    endpoints = many(64, owing=0, rate=1e6)
    for at, one in enumerate(endpoints):
        one.is_streaming, one.answered_at = at % 2 == 0, NOW - at

    assert {chosen(*endpoints, batch=PendingBatch(ticket, KEY, NBYTES)) for ticket in range(20)} <= {*endpoints[:8:2]}


def test_of_up_to_sixteen_loaders_all_are_asked_for_small_batches() -> None:
    endpoints = many(16, owing=0, rate=1e6)
    for at, one in enumerate(endpoints):
        one.is_streaming, one.answered_at, one.asked = True, NOW - at, 9 * (at < 8)

    assert chosen(*endpoints) in endpoints[8:]


def test_of_loaders_that_are_equal_each_trainer_asks_another_one() -> None:
    """Those of which it asks few again and again would be the same ones for all trainers."""
    endpoints = many(4, owing=0, rate=1e6)
    for one, tie in zip(endpoints, (0.5, 0.2, 0.9, 0.4), strict=True):
        one.tie = tie

    assert chosen(*endpoints) is endpoints[1]


def test_a_stream_is_open_from_the_first_key_until_its_connection_begins_anew() -> None:
    one = endpoint("a", served())
    assert not one.is_streaming

    one.take(pending(), NOW)
    assert one.is_streaming

    one.reset()
    assert not one.is_streaming


@pytest.mark.parametrize(
    ("count", "streaming", "owing", "state", "rests"),
    [
        (17, 5, 0, State.CONNECTED, True),
        (17, 4, 0, State.CONNECTED, False),  # a few stay open
        (17, 17, 1, State.CONNECTED, False),  # it owes something
        (17, 17, 0, State.LEAVING, False),  # it is closed when it is idle
        (17, 17, 0, State.DRAINING, False),  # the loader ends it
        (16, 16, 0, State.CONNECTED, False),  # few loaders
    ],
)
def test_streams_rest_that_owe_nothing_where_there_are_many(
    count: int, streaming: int, owing: int, state: State, rests: bool
) -> None:
    endpoints = many(count, owing=owing, rate=1e6)
    for one in endpoints[:streaming]:
        one.is_streaming = True
    endpoints[0].state = state

    assert endpoints[0].may_rest(endpoints) is rests


@pytest.mark.parametrize(
    ("ticket", "looked_at"),
    [
        (1, range(16, 32)),
        (4, range(24, 40)),  # the last of them
        (7, (*range(32, 40), *range(8))),  # and on from the first
    ],
)
def test_of_many_loaders_sixteen_are_looked_at_for_a_batch(ticket: int, looked_at: Iterable[int]) -> None:
    endpoints = many(40, owing=0, rate=1e6)
    for at in range(40):
        others = [one for other, one in enumerate(endpoints) if other != at]
        for one in others:
            one.asked = 1

        found = chosen(*endpoints, batch=PendingBatch(ticket, KEY, 1 << 17))

        assert (found is endpoints[at]) == (at in looked_at)
        for one in others:
            one.asked = 0
