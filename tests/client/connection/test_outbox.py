"""What a stream says to its loader: everything once, together where it waited, and nothing after its end."""

import threading

import pytest

from feedline.connection.outbox import Outbox
from feedline_wire import PROTOCOL, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key, to_message


def key(offset: int) -> Key:
    return Key("voxels", b"\x01", "train", "shuffle", 7, 3, offset, 32)


def said(request: pb.FetchRequest) -> tuple[list[int], list[int]]:
    """The tickets wanted and cancelled."""
    return [want.ticket for want in request.wants], list(request.cancelled)


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
