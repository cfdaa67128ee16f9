"""What a stream says to its loader: everything once, together where it waited, and nothing after its end."""

import threading
import time

import pytest

from feedline.connection import outbox as outboxes
from feedline.connection.outbox import Outbox
from feedline_wire import PROTOCOL, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key, to_message


def key(offset: int) -> Key:
    return Key("voxels", b"\x01", "train", "shuffle", 7, 3, offset, 32)


def said(request: pb.FetchRequest) -> tuple[list[int], list[int]]:
    """The tickets wanted and cancelled."""
    return [want.ticket for want in request.wants], list(request.cancelled)


def next_of(outbox: Outbox) -> pb.FetchRequest:
    """What is said first."""
    outbox.want(1, key(0))
    return next(outbox)


def test_only_the_first_message_says_versions_lane_and_checksums() -> None:
    outbox = Outbox("tcp", is_checksummed=True)
    outbox.want(1, key(0))
    first = next(outbox)
    outbox.want(2, key(32))
    second = next(outbox)

    assert first == pb.FetchRequest(
        protocol=PROTOCOL,
        oldest_protocol=PROTOCOL,
        features=sorted(versions.FEATURES),
        version=versions.here("trainer").version,
        lane="tcp",
        checksum=True,
        wants=[pb.Want(ticket=1, key=to_message(key(0)))],
    )
    assert second == pb.FetchRequest(wants=[pb.Want(ticket=2, key=to_message(key(32)))])


def test_what_this_connection_can_beside_what_all_can_is_said_with_it() -> None:
    first = next_of(Outbox(features=["compression"]))

    assert set(first.features) == versions.FEATURES | {"compression"}


def test_what_was_put_down_meanwhile_goes_out_together() -> None:
    outbox = Outbox()
    outbox.want(1, key(0))
    next(outbox)
    outbox.want(2, key(32))
    outbox.cancel(1)
    outbox.want(3, key(64))

    assert not outbox.is_empty
    assert said(next(outbox)) == ([2, 3], [1])
    assert outbox.is_empty


def test_what_was_cancelled_before_it_went_out_is_never_said() -> None:
    outbox = Outbox()
    outbox.want(1, key(0))
    outbox.want(2, key(32))
    outbox.cancel(1)

    assert said(next(outbox)) == ([2], [])


def test_nothing_is_said_of_a_ticket_that_is_cancelled_alone_before_it_went_out() -> None:
    outbox = Outbox()
    outbox.want(1, key(0))
    outbox.cancel(1)
    outbox.end()

    with pytest.raises(StopIteration):
        next(outbox)


def test_it_waits_for_something_to_say() -> None:
    outbox = Outbox()
    went = threading.Event()
    requests: list[pb.FetchRequest] = []

    def take() -> None:
        requests.append(next(outbox))
        went.set()

    thread = threading.Thread(target=take)
    thread.start()
    outbox.want(1, key(0))
    outbox.flush()

    assert went.wait(20)
    thread.join()
    assert said(requests[0]) == ([1], [])


def test_who_waits_in_it_is_woken_by_its_end() -> None:
    outbox = Outbox()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(outbox.wait()))
    thread.start()

    outbox.end()

    thread.join(20)
    assert found == [False]


def test_after_its_end_it_says_nothing_although_something_was_put_down() -> None:
    outbox = Outbox()
    outbox.want(1, key(0))
    outbox.end()

    with pytest.raises(StopIteration):
        next(outbox)


def test_how_a_reader_fares_is_said_by_the_next_stream_where_this_one_did_not() -> None:
    """A client that has looked and wanted nothing gets a new outbox with its first want."""
    first, second = Outbox(), Outbox()
    first.report(pb.Reader(trainer="a", rank=3))

    second.report_as(first)
    second.want(1, Key("d", b"", "train", "shuffle", 0, 0, 0, 1))

    assert next(second).reader == pb.Reader(trainer="a", rank=3)


def test_how_readers_fare_goes_with_what_is_wanted_next() -> None:
    outbox = Outbox()
    outbox.want(1, key(0))
    next(outbox)
    outbox.report(pb.Reader(trainer="a", batches=1))

    assert outbox.is_empty
    outbox.want(2, key(32))
    assert next(outbox) == pb.FetchRequest(
        wants=[pb.Want(ticket=2, key=to_message(key(32)))], reader=pb.Reader(trainer="a", batches=1)
    )


def test_where_nothing_is_wanted_for_long_how_readers_fare_is_said_by_itself() -> None:
    # By a thin line a window is filled again after many seconds: a loader knew nothing of the rank that waited for it.
    outbox = Outbox()
    outbox.want(1, key(0))
    next(outbox)
    outbox.report(pb.Reader(trainer="a", batches=1))
    outbox.report(pb.Reader(trainer="b", batches=7))
    outbox.report(pb.Reader(trainer="a", batches=2))

    assert not outbox.is_empty
    assert next(outbox) == pb.FetchRequest(reader=pb.Reader(trainer="a", batches=2))
    assert next(outbox) == pb.FetchRequest(reader=pb.Reader(trainer="b", batches=7))
    assert outbox.is_empty


def test_how_readers_fare_opens_no_stream() -> None:
    outbox = Outbox()
    outbox.report(pb.Reader(trainer="a", batches=1))
    outbox.report(pb.Reader(trainer="a", batches=2))

    assert outbox.is_empty
    outbox.want(1, key(0))
    assert next(outbox).reader == pb.Reader(trainer="a", batches=2)


def test_a_loader_that_is_connected_again_is_told_how_the_last_reader_fares() -> None:
    # A rank by a line so thin that its connection was lost was one of which the loader knew nothing.
    lost = Outbox()
    lost.want(1, key(0))
    lost.report(pb.Reader(trainer="a"))
    lost.report(pb.Reader(trainer="b", batches=2))
    lost.want(2, key(32))
    assert [next(lost).reader.trainer for _ in range(1)] == ["a"]
    lost.want(3, key(64))
    assert next(lost).reader.trainer == "b"

    for _ in range(2):  # lost again before it said any more
        found = Outbox()
        found.report_as(lost)
        lost = found
    found.want(1, key(0))

    assert next(found).reader == pb.Reader(trainer="b", batches=2)


# ---- rest ----


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream on which nothing is said for a moment may rest."""
    monkeypatch.setattr(outboxes, "REST_AFTER_S", 0.01)


def test_a_stream_on_which_nothing_is_said_for_long_ends_by_itself_where_it_may(soon: None) -> None:
    asked: list[bool] = []

    def may_rest() -> bool:
        asked.append(True)
        return len(asked) == 3

    outbox = Outbox(may_rest=may_rest)
    outbox.want(1, key(0))
    next(outbox)

    with pytest.raises(StopIteration):
        next(outbox)
    assert len(asked) == 3
    assert outbox.rests


def test_a_stream_that_has_something_to_say_does_not_rest(soon: None) -> None:
    outbox = Outbox(may_rest=lambda: True)
    outbox.want(1, key(0))

    assert said(next(outbox)) == ([1], [])
    assert not outbox.rests


def test_a_stream_that_was_ended_does_not_rest(soon: None) -> None:
    outbox = Outbox(may_rest=lambda: True)
    outbox.end()

    with pytest.raises(StopIteration):
        next(outbox)
    assert not outbox.rests


def test_who_waits_for_the_first_want_waits_for_as_long_as_it_takes(soon: None) -> None:
    """No stream is open yet: there is nothing that could rest."""
    outbox = Outbox(may_rest=lambda: True)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(outbox.wait()))
    thread.start()
    thread.join(0.1)

    assert thread.is_alive()
    outbox.want(1, key(0))
    outbox.flush()
    thread.join(20)
    assert found == [True]


def test_a_stream_on_which_nothing_is_wanted_rests_although_readers_say_how_they_fare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outboxes, "REST_AFTER_S", 0.2)
    outbox = Outbox(may_rest=lambda: True)
    outbox.want(1, key(0))
    next(outbox)
    reports: list[pb.Reader] = []

    def report() -> None:
        outbox.report(pb.Reader(trainer="a"))
        outbox.report(pb.Reader(trainer="a"))
        reports.append(next(outbox).reader)
        time.sleep(0.01)

    with pytest.raises(StopIteration):
        [report() for _ in range(1000)]

    assert reports
    assert outbox.rests
