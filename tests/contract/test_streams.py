"""Every key wanted is answered once, with a batch or a typed failure, however the window looks."""

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from feedline_wire.errors import DatasetChanged, InvalidRequest, ProtocolMismatch

FRAME_LIMIT = (4 << 20) + (64 << 10)
"""4 MiB of bulk bytes, which is as large as a frame may get, and what is around them."""


def test_two_hundred_keys_wanted_at_once_are_all_answered_once(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({ticket: key(order="sequential", offset=4 * ticket, rows=4) for ticket in range(200)})
        answers = stream.receive(200)
        stream.want({1000: key()})
        last = stream.receive(1)  # had anything been answered twice, it would be here

    assert {ticket: answer.ids[0] for ticket, answer in answers.items()} == {t: 4 * t for t in range(200)}
    assert list(last) == [1000]


def test_the_same_key_wanted_under_two_tickets_is_answered_under_both(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({1: key(), 2: key()})
        answers = stream.receive(2)

    assert answers[1].digest == answers[2].digest


def test_tickets_may_be_any_number_and_need_not_rise(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({2**64 - 1: key(offset=0), 0: key(offset=32)})
        stream.want({7: key(offset=64)})

        assert set(stream.receive(3)) == {2**64 - 1, 0, 7}


def test_no_frame_is_larger_than_four_mebibytes(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({0: key(rows=900), **{ticket: key(offset=ticket) for ticket in range(1, 100)}})
        stream.receive(100)

    assert max(stream.sizes) <= FRAME_LIMIT
    assert sum(stream.sizes) > 90_000_000


BAD_KEYS = {
    "dataset": ({"dataset": "letters"}, InvalidRequest, "numbers"),
    "fingerprint": ({"fingerprint": b"of yesterday"}, DatasetChanged, b"of yesterday".hex()),
    "no fingerprint": ({"fingerprint": b""}, DatasetChanged, "fingerprint"),
    "view": ({"view": "test"}, InvalidRequest, "validation"),
    "order": ({"order": "alphabetical"}, InvalidRequest, "sequential"),
    "no rows": ({"rows": 0}, InvalidRequest, "1..4096"),
    "more rows than a small view is repeated in": ({"rows": 4097}, InvalidRequest, "1..4096"),
    "four billion rows": ({"rows": 2**32 - 1}, InvalidRequest, "1..4096"),
    "a first position past the end": ({"offset": 905, "epoch": 2}, InvalidRequest, "position 5 of epoch 3"),
}


@pytest.mark.parametrize(("different", "kind", "says"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_bad_key_fails_alone_and_says_what_there_is(
    loader: Any, key: Callable[..., Any], different: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with loader.stream() as stream:
        stream.want({1: key(offset=0), 2: key(**different), 3: key(offset=32)})
        answers = stream.receive(3)
        stream.want({4: key(offset=64)})
        later = stream.receive(1)

    assert type(answers[2]) is kind
    assert says in str(answers[2])
    assert len(answers[1].ids) == len(answers[3].ids) == len(later[4].ids) == 32


def test_what_is_cancelled_is_not_awaited_and_the_rest_is_answered(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({ticket: key(offset=ticket, rows=100) for ticket in range(100)})
        stream.want({1000: key()}, cancelled=tuple(range(0, 100, 2)))
        answers = dict.fromkeys(range(1, 100, 2))
        answers[1000] = None
        for ticket, answer in stream.answers():
            if ticket in answers:
                assert answers[ticket] is None, f"ticket {ticket} was answered twice"
                answers[ticket] = answer
            else:
                assert ticket < 100, f"ticket {ticket} was never wanted"
            if all(answers.values()):
                break

    assert all(len(answers[ticket].ids) == 100 for ticket in range(1, 100, 2))


def test_cancelling_what_was_never_wanted_is_no_fault(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({1: key()}, cancelled=(77,))

        assert list(stream.receive(1)) == [1]


def test_a_trainer_that_leaves_in_the_middle_leaves_the_others_alone(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stays:
        stays.want({ticket: key(offset=ticket) for ticket in range(50)})
        with loader.stream() as leaves:
            leaves.want({ticket: key(rows=900, epoch=ticket) for ticket in range(20)})
            leaves.receive(1)

        assert len(stays.receive(50)) == 50


@pytest.mark.parametrize(
    ("oldest", "newest", "words"),
    [
        (0, 2, r"the trainer \(feedline 0\.1\) speaks version 2 .* version 3: update feedline in the trainer"),
        (4, 6, r"speaks versions 4 to 6 .* version 3: update feedline in the loader"),
        (0, 0, r"says that it speaks versions 0 to 0 .* no range"),
        (5, 3, r"says that it speaks versions 5 to 3 .* no range"),
    ],
    ids=["0.1", "newer", "none", "nonsense"],
)
def test_a_stream_of_another_version_is_refused(
    loader: Any, key: Callable[..., Any], refusal_of: Callable[..., Any], oldest: int, newest: int, words: str
) -> None:
    with loader.stream() as stream:
        stream.want({1: key()}, protocol=newest, oldest_protocol=oldest)

        with pytest.raises(grpc.RpcError) as refused:
            stream.receive(1)

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    refusal = refusal_of(refused.value)
    assert type(refusal) is ProtocolMismatch
    assert re.search(words, str(refusal))


def test_a_refusal_of_any_length_arrives_as_itself(
    loader: Any, key: Callable[..., Any], refusal_of: Callable[..., Any]
) -> None:
    """It travels in a header: a long one was RESOURCE_EXHAUSTED of gRPC's own, and the loader seemed to be away."""
    with loader.stream() as stream:
        stream.want({1: key()}, protocol=4, oldest_protocol=4, version="9" * 200_000)

        with pytest.raises(grpc.RpcError) as refused:
            stream.receive(1)

    refusal = refusal_of(refused.value)
    assert type(refusal) is ProtocolMismatch
    assert re.search(r"characters are left out here(.|\n)*update feedline in the loader", str(refusal))


def test_a_stream_whose_range_reaches_this_version_is_served(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({1: key()}, protocol=7, oldest_protocol=3, features=("thought reading",))

        assert set(stream.receive(1)) == {1}


def test_only_a_streams_first_message_says_the_version(loader: Any, key: Callable[..., Any]) -> None:
    with loader.stream() as stream:
        stream.want({1: key()})
        stream.want({2: key(offset=32)}, protocol=0)

        assert set(stream.receive(2)) == {1, 2}


def test_a_loader_that_drains_says_so_and_ends_its_streams(
    own_loader: Any, connected: Callable[..., Any], keys_of: Callable[..., Any]
) -> None:
    with connected(own_loader.address) as loader:
        key = keys_of(loader.describe())
        with loader.stream() as stream:
            stream.want({1: key()})
            stream.receive(1)

            own_loader.drain()
            after = list(stream.answers())

            assert after == []
            assert [frame.draining for frame in stream.frames] == [False, True]
            assert stream.call.code() is grpc.StatusCode.OK
