"""What is decided from a fleet's books: who is asked, whether anybody will answer, what a late reader is told."""

import numpy as np
import pytest

from feedline.credentials import Credentials
from feedline.description import DatasetInfo, Description
from feedline.receive import Buffers, Received
from feedline.replica import Replica
from feedline.wants import Member, Wanted, choose, hopeless, overdue
from feedline_wire.errors import (
    DatasetChanged,
    FeedlineError,
    LoaderBusy,
    LoaderStalled,
    LoaderUnavailable,
    ProtocolMismatch,
)
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEY = Key("voxels", b"\x01", "train", "shuffle", seed=0, epoch=3, offset=118, rows=32)


class NoHome:
    """Nobody calls a replica that was never started."""


def served(fingerprint: bytes = b"\x01", *, name: str = "voxels", max_window: int = 2) -> Description:
    info = DatasetInfo(name, fingerprint, 100, (), (), {"train": 100}, ("shuffle",))
    return Description("1.2", "r", {name: info}, max_batch_nbytes=1 << 20, max_window=max_window)


def member(
    name: str, description: Description | None = None, *, nbytes: int = 0, outstanding: int = 0, **state: object
) -> Member:
    made = Member(Replica(f"{name}:1", NoHome(), Buffers(0), Credentials()), description, nbytes=nbytes, **state)  # type: ignore[arg-type]
    made.outstanding = {ticket: wanted() for ticket in range(outstanding)}
    return made


def wanted(*refused_by: Member) -> Wanted:
    made = Wanted(None, 7, KEY, 1000)  # type: ignore[arg-type]
    made.refused_by = refused_by
    return made


def test_of_several_loaders_the_one_with_the_fewest_bytes_to_answer_is_asked() -> None:
    busy, idle = member("busy", served(), nbytes=500), member("idle", served(), nbytes=10)

    assert choose([busy, idle], wanted()) is idle


@pytest.mark.parametrize(
    "unable",
    [
        member("connecting"),
        member("draining", served(), is_draining=True),
        member("full", served(), outstanding=2),
        member("other data", served(b"\x02")),
        member("other dataset", served(name="pixels")),
        member("broken", reason=ProtocolMismatch("version 2")),
    ],
    ids=lambda member: member.address,
)
def test_a_loader_that_cannot_answer_is_not_asked(unable: Member) -> None:
    able = member("able", served(), nbytes=10_000)

    assert choose([unable], wanted()) is None
    assert choose([unable, able], wanted()) is able


def test_a_loader_that_said_to_ask_another_one_is_not_asked_again() -> None:
    first, second = member("first", served()), member("second", served(), nbytes=5)

    assert choose([first, second], wanted(first)) is second
    assert choose([first, second], wanted(first, second)) is None


def test_there_is_hope_while_any_loader_may_still_come() -> None:
    changed = member("changed", served(b"\x02"))

    assert hopeless([member("connecting"), changed], wanted()) is None
    assert hopeless([member("gone", reason=LoaderUnavailable("refused")), changed], wanted()) is None
    assert hopeless([member("full", served(), outstanding=2), changed], wanted()) is None


def test_there_is_none_when_all_serve_something_else_or_refuse() -> None:
    changed, broken = member("changed", served(b"\x02\xff")), member("broken", reason=ProtocolMismatch("version 2"))

    error = hopeless([changed, broken], wanted())

    assert isinstance(error, DatasetChanged)
    assert str(error).startswith(
        "the loader at changed:1 now has the fingerprint 02ff for 'voxels'; this trainer began with 01."
    )
    assert isinstance(hopeless([broken], wanted()), ProtocolMismatch)
    gone = hopeless([member("emptied", served(name="pixels"))], wanted())
    assert "now has no such dataset for 'voxels'" in str(gone)


def late(*members: Member, asked: Member | None = None) -> FeedlineError:
    want = wanted()
    want.member = asked
    return overdue(members, want, 60, now=100.0, is_forked=False)


def test_a_late_reader_is_told_which_loader_is_silent() -> None:
    silent = member("silent", served(), outstanding=2, heard_at=38.5)

    error = late(silent, asked=silent)

    assert type(error) is LoaderStalled
    assert str(error) == (
        "no batch voxels/train shuffle seed=0 epoch=3 positions 118..149 within 60 s from silent:1: it is connected, "
        "was last heard 61.5 s ago, and has 2 batches to answer. See what it is doing with `feedline inspect silent:1`"
        "; give it more workers, or this trainer a larger timeout_s"
    )


def test_a_late_reader_is_told_that_no_loader_has_room() -> None:
    error = late(member("full", served(), outstanding=2), member("gone"))

    assert type(error) is LoaderStalled
    assert "full:1 connected, but draining or with a full window" in str(error)


def test_a_late_reader_is_told_why_no_loader_is_connected() -> None:
    error = late(member("a", reason=LoaderUnavailable("a:1: UNAVAILABLE: Connection refused")), member("b"))

    assert type(error) is LoaderUnavailable
    assert "epoch=3 positions 118..149 within 60 s: no loader answers." in str(error)
    assert "Last words: a:1: UNAVAILABLE: Connection refused; b:1: no answer yet." in str(error)
    assert "fork" not in str(error)
    assert "spawn" in str(overdue([member("a")], wanted(), 60, now=0, is_forked=True))


def test_a_late_reader_is_told_that_the_loader_is_full() -> None:
    error = late(member("a", reason=LoaderBusy("this loader serves 64 streams and takes no more")))

    assert type(error) is LoaderBusy
    assert "a:1: this loader serves 64 streams" in str(error)


def test_a_want_shows_what_became_of_it() -> None:
    want = wanted()
    assert repr(want) == f"<Wanted {KEY} wanted>"

    want.outcome = Received(np.empty(0, np.uint8), Layout((), 0))
    assert repr(want) == f"<Wanted {KEY} ready>"

    want.outcome = LoaderBusy("full")
    assert repr(want) == f"<Wanted {KEY} LoaderBusy('full')>"
