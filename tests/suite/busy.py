"""What a busy machine adds to what a test looks at, and passes over: nothing of it is what the test claims."""

import time
from collections.abc import Iterable

import pytest

import feedline
from feedline_wire.errors import LoaderStalled

WITHIN_S = 30.0

WAITS = ("waiting for up to ", "; still trying for ", "overloaded: ")
"""What is in lines that say that somebody waits."""


def without_waits(lines: Iterable[str]) -> list[str]:
    """The lines that say anything else."""
    return [line for line in lines if not any(words in line for words in WAITS)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning, without those lines."""
    return without_waits(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def next_without_a_stall(epoch: feedline.Epoch) -> feedline.Batch:
    """Try again where nothing was heard until the deadline: the answer is late, or was just being asked for again."""
    until = time.monotonic() + WITHIN_S
    while True:
        try:
            return next(epoch)
        except LoaderStalled:
            if time.monotonic() > until:
                raise


def wait_for_lane(connection: feedline.Loader, feed: feedline.Feed) -> None:
    """Until its only loader's lane stands; the batches of until then come by gRPC."""
    until = time.monotonic() + WITHIN_S
    while connection.stats.replicas[0].lane == "grpc":
        assert time.monotonic() < until
        feed.fetch(next(feed.plan.steps(0)))
