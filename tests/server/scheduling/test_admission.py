"""Which streams there may be: tables."""

import threading

import pytest

from feedline_server.access.tokens import Caller
from feedline_server.scheduling.admission import StreamLimits
from feedline_server.scheduling.stream import Stream
from feedline_wire.errors import LoaderBusy

MESSAGES = {
    "max_trainers": r"serves \d streams and takes no more \(max_trainers = \d\); add a replica or raise max_trainers",
    "max_streams_per_client": r"serves \d streams of a and takes no more \(max_streams_per_client = \d\); close some",
}


@pytest.mark.parametrize(
    ("open_to", "max_trainers", "max_streams_per_client", "exceeded"),
    [
        ("", 1, None, None),
        ("a", 1, None, "max_trainers"),
        ("aab", 4, None, None),
        ("aabb", 4, 9, "max_trainers"),
        ("aab", 4, 3, None),
        ("aab", 4, 2, "max_streams_per_client"),
        ("bbb", 4, 1, None),  # another client's streams are not this one's
        ("", 1, 0, "max_streams_per_client"),
    ],
)
def test_a_stream_more_is_let_in_or_the_limit_that_it_would_exceed_is_named(
    open_to: str, max_trainers: int, max_streams_per_client: int | None, exceeded: str | None
) -> None:
    streams = [Stream("peer", threading.Condition(), Caller(name)) for name in open_to]
    limits = StreamLimits(max_trainers, max_streams_per_client)

    if exceeded is None:
        limits.check(streams, Caller("a"))
    else:
        with pytest.raises(LoaderBusy, match=MESSAGES[exceeded]) as error:
            limits.check(streams, Caller("a"))
        assert error.value.elsewhere
