"""Batches for a process that was forked from one with a connection."""

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

import feedline
from feedline.reading.plan import EveryNth
from feedline.reading.relay import Relay
from feedline.testing import FakeLoader, serve
from feedline_wire.errors import BadSample, Closed

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
"""Starting an interpreter takes a busy machine seconds; what would hang would hang for ever."""


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"y": np.arange(100)}) as loader:
        yield loader


def test_a_forked_child_reads_a_feed_that_its_parent_reads_too(loader: FakeLoader) -> None:
    """Without it some runs in a hundred hang or end in gRPC: the child has gRPC's state and none of its threads."""
    script = f"""
        import os, sys, feedline
        from feedline.reading.plan import EveryNth
        from feedline.reading.relay import Relay
        feed = feedline.connect({loader.address!r}).feed(batch_size=10, seed=3)
        epoch = feed.epoch(1)
        first = next(epoch).ids.tolist()
        if not os.fork():
            relay = Relay(feed)
            ahead = relay.readahead(EveryNth(feed.plan, 2, None, 1, 3), feed.state_dict())
            print([ahead.take().index for _ in range(3)], ahead.take(), flush=True)
            print(relay.fetch(feed.plan.step(1, 0)).ids.tolist() == first, flush=True)
            os._exit(0)
        os.wait()
        print(len(list(epoch)))
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )

    assert done.stdout.splitlines() == ["[1, 4, 7] None", "True", "9"]


def test_errors_are_those_of_the_feed_and_the_relay_goes_on(loader: FakeLoader) -> None:
    with feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=10)
        relay = Relay(feed)
        loader.fail(lambda key: BadSample("sample 7 is no image", samples=[7]) if key.offset == 0 else None)
        with pytest.raises(BadSample, match="sample 7 is no image") as raised:
            relay.fetch(feed.plan.step(0, 0))
        assert raised.value.samples == (7,)

        first = relay.readahead(EveryNth(feed.plan, 0, None, 1, 1), feed.state_dict())
        second = relay.readahead(EveryNth(feed.plan, 0, None, 5, 1), feed.state_dict())

        with pytest.raises(Closed, match="this iteration was closed"):
            first.take()
        batch = second.take()
        assert batch is not None
        assert batch.index == 5
        relay._process.kill()
        relay._process.wait(WITHIN_S)
        with pytest.raises(Closed, match="the process that fetches batches ended with code -9"):
            second.take()
        with contextlib.suppress(BrokenPipeError), relay._process:  # closes its pipes
            pass


def test_it_ends_with_the_process_that_started_it(loader: FakeLoader) -> None:
    script = f"""
        import feedline, time
        from feedline.reading.relay import Relay
        relay = Relay(feedline.connect({loader.address!r}).feed())
        print(relay._process.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    relay = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.communicate()

    relay.wait(WITHIN_S)
