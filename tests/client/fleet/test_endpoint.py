"""What is decided from a fleet's books: who is asked, whether anybody will answer, what a late reader is told."""

import pytest

from feedline.connection.buffers import Buffers
from feedline.connection.connection import Connection, SameLoader
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.target import Address
from feedline.fleet.endpoint import Endpoint, choose, choose_second, hopeless, overdue, refused, same_loader
from feedline.fleet.requests import InFlight, PendingBatch
from feedline_wire.errors import (
    DatasetChanged,
    FeedlineError,
    LoaderBusy,
    LoaderStalled,
    LoaderUnavailable,
    ProtocolMismatch,
)
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
    name: str, description: Description | None = None, *, outstanding: int = 0, rate: float = 0.0, **state: object
) -> Endpoint:
    """An endpoint that owes batches of 1000 bytes for a second, and answers so many bytes a second."""
    replica = Connection(Address(f"{name}:1"), NoOwner(), Buffers(0), Credentials())  # type: ignore[arg-type]
    state = {"heard_at": NOW - 1, "owing_since": NOW - 1, "nbytes": NBYTES * outstanding} | state
    made = Endpoint(replica, description, **state)  # type: ignore[arg-type]
    made.outstanding = {ticket: InFlight(wanted(), NOW - 1, NBYTES, was_alone=False) for ticket in range(outstanding)}
    if rate:
        made.rate.answered(int(rate), 1.0, NOW - 1)
    return made


def wanted(*refused_by: Endpoint) -> PendingBatch:
    made = PendingBatch(None, 7, KEY, NBYTES)  # type: ignore[arg-type]
    made.refused_by = refused_by
    return made


def chosen(*endpoints: Endpoint, want: PendingBatch | None = None) -> Endpoint | None:
    return choose(endpoints, want or wanted(), now=NOW, silent_after_s=SILENT_AFTER_S)


def second(*endpoints: Endpoint, asked_s_ago: float = 5.0) -> Endpoint | None:
    return choose_second(endpoints, wanted(), since=NOW - asked_s_ago, now=NOW, silent_after_s=SILENT_AFTER_S)


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


def test_loaders_that_are_nearly_as_fast_share_the_work() -> None:
    first, second = endpoint("first", served(), rate=1400, asked=5), endpoint("second", served(), rate=1000, asked=4)

    assert chosen(first, second) is second


def test_a_loader_of_which_nothing_is_known_is_taken_for_a_good_one() -> None:
    known, new = endpoint("known", served(), rate=10_000, outstanding=1), endpoint("new", served())

    assert chosen(known, new) is new


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
        endpoint("draining", served(), is_draining=True),
        endpoint("leaving", served(), is_leaving=True),
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

    assert chosen(first, second, want=wanted(first)) is second
    assert chosen(first, second, want=wanted(first, second)) is None


def test_a_loader_is_not_asked_twice_at_once() -> None:
    first, second = endpoint("first", served()), endpoint("second", served(), outstanding=1)
    want = wanted()
    want.asked_of = (first,)

    assert chosen(first, second, want=want) is second


# ---- two ways to one loader ----


def test_a_loader_is_recognised_behind_another_address() -> None:
    first, other = endpoint("127.0.0.1", served(replica="r1")), endpoint("other", served(replica="r2"))
    new = endpoint("[::1]")

    assert same_loader([first, other, new], new, served(replica="r1")) is first
    assert same_loader([first, other, new], new, served(replica="r3")) is None
    assert same_loader([first, other], first, served(replica="r1")) is None


def test_another_way_to_a_loader_is_taken_when_nothing_comes_on_the_first() -> None:
    first = endpoint("127.0.0.1", served(replica="r1"), outstanding=1, suspected_at=NOW - 1)
    new = endpoint("[::1]")

    assert same_loader([first, new], new, served(replica="r1")) is None


# ---- whether there is hope ----


def test_there_is_hope_while_any_loader_may_still_come() -> None:
    changed = endpoint("changed", served(b"\x02"))

    assert hopeless([], wanted()) is None
    assert hopeless([endpoint("connecting"), changed], wanted()) is None
    assert hopeless([endpoint("gone", reason=LoaderUnavailable("refused")), changed], wanted()) is None
    assert hopeless([endpoint("full", served(), outstanding=2), changed], wanted()) is None


def test_there_is_none_when_all_serve_something_else_or_refuse() -> None:
    changed, broken = endpoint("changed", served(b"\x02\xff")), endpoint("broken", reason=ProtocolMismatch("version 2"))

    error = hopeless([changed, broken], wanted())

    assert isinstance(error, DatasetChanged)
    assert str(error).startswith(
        "the loader at changed:1 now has the fingerprint 02ff for 'voxels'; this trainer began with 01."
    )
    assert isinstance(hopeless([broken], wanted()), ProtocolMismatch)
    gone = hopeless([endpoint("emptied", served(name="pixels"))], wanted())
    assert "now has no such dataset for 'voxels'" in str(gone)
    small = hopeless([endpoint("small", served(max_batch_nbytes=999))], wanted())
    assert "the loader at small:1 assembles batches of 999 bytes at most" in str(small)
    assert "takes 1000;" in str(small)


def test_a_second_way_to_a_loader_that_serves_something_else_is_no_hope() -> None:
    changed, double = (
        endpoint("changed", served(b"\x02")),
        endpoint("double", reason=SameLoader("same as at changed:1")),
    )

    assert isinstance(hopeless([changed, double], wanted()), DatasetChanged)


def test_all_refuse_to_be_connected_to_only_if_every_one_does() -> None:
    old, away = endpoint("old", reason=ProtocolMismatch("2")), endpoint("away", reason=LoaderUnavailable("refused"))

    assert refused([old]) is old.reason
    assert refused([old, away]) is None
    assert refused([old, endpoint("connecting")]) is None
    assert refused([]) is None


# ---- what a late reader is told ----


def late(*endpoints: Endpoint, asked: tuple[Endpoint, ...] = ()) -> FeedlineError:
    want = wanted()
    want.asked_of = asked
    return overdue(endpoints, want, 60, now=NOW, is_forked=False)


def test_a_late_reader_is_told_which_loader_is_silent() -> None:
    silent = endpoint("silent", served(), outstanding=2, heard_at=38.5)

    error = late(silent, asked=(silent,))

    assert type(error) is LoaderStalled
    assert str(error) == (
        "no batch voxels/train shuffle seed=0 epoch=3 positions 118..149 within 60 s from silent:1: it is connected, "
        "was last heard 61.5 s ago, and has 2 batches to answer. See what it is doing with `feedline inspect silent:1`"
        "; give it more workers, or this trainer a larger timeout_s"
    )
    other = endpoint("other", served(), outstanding=1)
    assert "within 60 s from silent:1 and other:1: it is connected" in str(late(silent, other, asked=(silent, other)))


def test_a_late_reader_is_told_that_no_loader_has_room() -> None:
    error = late(endpoint("full", served(), outstanding=2), endpoint("gone"))

    assert type(error) is LoaderStalled
    assert "full:1 connected, but draining or with a full window" in str(error)


def test_a_late_reader_is_told_why_no_loader_is_connected() -> None:
    error = late(endpoint("a", reason=LoaderUnavailable("a:1: UNAVAILABLE: Connection refused")), endpoint("b"))

    assert type(error) is LoaderUnavailable
    assert "epoch=3 positions 118..149 within 60 s: no loader answers." in str(error)
    assert "Last words: a:1: UNAVAILABLE: Connection refused; b:1: no answer yet." in str(error)
    assert "fork" not in str(error)
    assert "spawn" in str(overdue([endpoint("a")], wanted(), 60, now=0, is_forked=True))


def test_a_late_reader_is_told_that_a_name_has_no_address() -> None:
    unresolved = [LoaderUnavailable("loader:1: the name has no address: Name or service not known")]

    error = overdue([], wanted(), 60, now=0, is_forked=False, unresolved=unresolved)

    assert "Last words: loader:1: the name has no address: Name or service not known." in str(error)


def test_a_late_reader_is_told_that_the_only_loader_there_is_serves_something_else() -> None:
    error = late(endpoint("changed", served(b"\x02")), endpoint("gone", reason=LoaderUnavailable("refused")))

    assert type(error) is DatasetChanged
    assert "within 60 s: the loader at changed:1 now has the fingerprint 02" in str(error)


def test_a_late_reader_is_told_that_the_loader_is_full() -> None:
    error = late(endpoint("a", reason=LoaderBusy("this loader serves 64 streams and takes no more")))

    assert type(error) is LoaderBusy
    assert "a:1: this loader serves 64 streams" in str(error)
