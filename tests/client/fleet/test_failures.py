"""Whether a batch may still come, and what a reader is told that waited in vain."""

import pytest

from feedline.connection import forks
from feedline.connection.buffers import Buffers
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.events import SameLoader
from feedline.connection.target import Address
from feedline.fleet.endpoint import AFTER, Endpoint, State, lost_by
from feedline.fleet.failures import hopeless, overdue, refused
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


class NoOwner:
    """Nobody calls a connection that was never started."""


def served(fingerprint: bytes = b"\x01", *, name: str = "voxels", max_batch_nbytes: int = 1 << 20) -> Description:
    info = DatasetInfo(name, fingerprint, 100, (), (), {"train": 100}, ("shuffle",))
    return Description("1.2", "r", {name: info}, max_batch_nbytes=max_batch_nbytes, max_window=2)


def pending() -> PendingBatch:
    return PendingBatch(7, KEY, NBYTES)


def endpoint(
    name: str,
    description: Description | None = None,
    *,
    outstanding: int = 0,
    heard_at: float = 0.0,
    reason: FeedlineError | None = None,
) -> Endpoint:
    """An endpoint that is connected if it describes itself, and owes so many batches."""
    connection = Connection(Address(f"{name}:1"), NoOwner(), Buffers(0), Credentials())  # type: ignore[arg-type]
    made = Endpoint(connection, description=description, reason=reason, heard_at=heard_at)
    if description is not None:
        made.state = State.CONNECTED
    elif reason is not None:
        made.state = AFTER[made.state][lost_by(reason)]
    made.in_flight = {
        ticket: InFlight(pending(), NOW - 1, NBYTES, was_alone=False) for ticket in range(100, 100 + outstanding)
    }
    return made


# ---- whether there is hope ----


def test_there_is_hope_while_any_loader_may_still_come() -> None:
    changed = endpoint("changed", served(b"\x02"))

    assert hopeless([], pending()) is None
    assert hopeless([endpoint("connecting"), changed], pending()) is None
    assert hopeless([endpoint("gone", reason=LoaderUnavailable("refused")), changed], pending()) is None
    assert hopeless([endpoint("full", served(), outstanding=2), changed], pending()) is None


def test_there_is_none_when_all_serve_something_else_or_refuse() -> None:
    changed, broken = endpoint("changed", served(b"\x02\xff")), endpoint("broken", reason=ProtocolMismatch("version 2"))

    error = hopeless([changed, broken], pending())

    assert isinstance(error, DatasetChanged)
    assert str(error).startswith(
        "the loader at changed:1 now has the fingerprint 02ff for 'voxels'; this trainer began with 01."
    )
    assert isinstance(hopeless([broken], pending()), ProtocolMismatch)
    gone = hopeless([endpoint("emptied", served(name="pixels"))], pending())
    assert "now has no such dataset for 'voxels'" in str(gone)
    small = hopeless([endpoint("small", served(max_batch_nbytes=999))], pending())
    assert "the loader at small:1 assembles batches of 999 bytes at most" in str(small)
    assert "takes 1000;" in str(small)


def test_a_second_way_to_a_loader_that_serves_something_else_is_no_hope() -> None:
    changed, double = (
        endpoint("changed", served(b"\x02")),
        endpoint("double", reason=SameLoader("same as at changed:1")),
    )

    assert isinstance(hopeless([changed, double], pending()), DatasetChanged)


def test_all_refuse_to_be_connected_to_only_if_every_one_does() -> None:
    old, away = endpoint("old", reason=ProtocolMismatch("2")), endpoint("away", reason=LoaderUnavailable("refused"))

    assert refused([old]) is old.reason
    assert refused([old, away]) is None
    assert refused([old, endpoint("connecting")]) is None
    assert refused([]) is None


# ---- what a late reader is told ----


def late(*endpoints: Endpoint, asked: tuple[Endpoint, ...] = ()) -> FeedlineError:
    """What a reader is told whose batch is in flight at some of these, asked in that order."""
    batch = pending()
    for number, one in enumerate(asked):
        one.in_flight[batch.ticket] = InFlight(batch, NOW - 9 + number, NBYTES, was_alone=False)
    return overdue(endpoints, batch, 60, (), now=NOW)


def test_a_late_reader_is_told_which_loader_is_silent() -> None:
    silent = endpoint("silent", served(), outstanding=2, heard_at=38.5)

    error = late(silent, asked=(silent,))

    assert type(error) is LoaderStalled
    assert str(error) == (
        "no batch voxels/train shuffle seed=0 epoch=3 positions 118..149 within 60 s from silent:1: it is connected, "
        "was last heard 61.5 s ago, and has 3 batches to answer. See what it is doing with `feedline inspect silent:1`"
        "; give it more workers, or this trainer a larger timeout_s"
    )
    other = endpoint("other", served(), outstanding=1)
    assert "within 60 s from silent:1 and other:1: it is connected" in str(late(other, silent, asked=(silent, other)))


def test_a_late_reader_is_told_that_no_loader_has_room() -> None:
    error = late(endpoint("full", served(), outstanding=2), endpoint("gone"))

    assert type(error) is LoaderStalled
    assert "full:1 connected, but draining or with a full window" in str(error)


def test_a_late_reader_is_told_why_no_loader_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    error = late(endpoint("a", reason=LoaderUnavailable("a:1: UNAVAILABLE: Connection refused")), endpoint("b"))

    assert type(error) is LoaderUnavailable
    assert "epoch=3 positions 118..149 within 60 s: no loader answers." in str(error)
    assert "Last words: a:1: UNAVAILABLE: Connection refused; b:1: no answer yet." in str(error)
    assert "fork" not in str(error)
    monkeypatch.setattr(forks, "is_forked", lambda: True)
    assert "spawn" in str(late(endpoint("a")))


def test_a_late_reader_is_told_that_a_name_has_no_address() -> None:
    unresolved = [LoaderUnavailable("loader:1: the name has no address: Name or service not known")]

    error = overdue([], pending(), 60, unresolved, now=0)

    assert "Last words: loader:1: the name has no address: Name or service not known." in str(error)


def test_a_late_reader_is_told_that_the_only_loader_there_is_serves_something_else() -> None:
    error = late(endpoint("changed", served(b"\x02")), endpoint("gone", reason=LoaderUnavailable("refused")))

    assert type(error) is DatasetChanged
    assert "within 60 s: the loader at changed:1 now has the fingerprint 02" in str(error)


def test_a_late_reader_is_told_that_the_loader_is_full() -> None:
    error = late(endpoint("a", reason=LoaderBusy("this loader serves 64 streams and takes no more")))

    assert type(error) is LoaderBusy
    assert "a:1: this loader serves 64 streams" in str(error)
    one_of_two = late(endpoint("a", reason=LoaderBusy("full")), endpoint("b", reason=LoaderUnavailable("refused")))
    assert type(one_of_two) is LoaderBusy
