"""Several loaders that come, go, stall and disagree: every sample once, and what happened is told."""

import copy
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from logging.handlers import QueueHandler
from queue import SimpleQueue

import numpy as np
import pytest

import feedline
from feedline.connection import connection as connecting
from feedline.connection import outbox
from feedline.fleet import fleet, rates, resolve, tracker
from feedline.testing import FakeLoader, serve
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import DatasetChanged, LoaderUnavailable, ProtocolMismatch

SAMPLES = 2000
Y = np.arange(SAMPLES, dtype=np.int64)
WHOLE = Counter(range(SAMPLES))

WAIT_S = 30.0
"""For what takes milliseconds: a test that waits so long should fail and say so."""

Fleet = Callable[..., list[FakeLoader]]


@pytest.fixture
def fakes() -> Iterator[Fleet]:
    """So many loaders that serve the same."""
    with ExitStack() as serving:
        yield lambda count, **options: [serving.enter_context(serve({"y": Y}, **options)) for _ in range(count)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name service: what is in this list is found within milliseconds, and what is not is left."""
    monkeypatch.setattr(resolve, "EVERY_S", 0.02)
    monkeypatch.setattr(resolve, "SOONEST_S", 0.01)
    monkeypatch.setattr(tracker, "LEAVE_AFTER_S", 0.05)
    return []


@pytest.fixture
def logged() -> Iterator["SimpleQueue[str]"]:
    """What is logged, from WARNING on."""
    lines: SimpleQueue[str] = SimpleQueue()
    handler = QueueHandler(lines)
    handler.setLevel(logging.WARNING)
    handler.prepare = lambda record: record.getMessage()  # type: ignore[method-assign, assignment, return-value]
    log = logging.getLogger("feedline")
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def connected(target: object, replicas: int, **options: object) -> feedline.Loader:
    """A connection, when so many loaders are connected and have answered."""
    connection = feedline.connect(target, timeout_s=WAIT_S, **options)  # type: ignore[arg-type]
    feed = connection.feed(timeout_s=WAIT_S)
    while sum(one.answered > 0 for one in connection.stats.replicas) < replicas:
        feed.fetch(feed.plan.step(0, 0))
    return connection


def read(epoch: feedline.Epoch, into: list[int], *, until: Callable[[], bool] = lambda: False) -> None:
    """Take batches, to the end or until something holds."""
    for batch in epoch:
        into += batch.ids.tolist()
        if until():
            return


def read_epochs(connection: feedline.Loader, *, until: Callable[[], bool]) -> None:
    """Whole epochs, until something holds after one."""
    deadline = time.monotonic() + WAIT_S
    for number in itertools.count():
        read(connection.epoch(number, batch_size=10, timeout_s=WAIT_S), got := [])
        assert Counter(got) == WHOLE
        if until():
            return
        assert time.monotonic() < deadline, f"what was waited for did not come to hold in {number + 1} epochs"


# ---- coming and going ----


def test_every_address_of_a_name_is_asked(fakes: Fleet, names: list[str]) -> None:
    loaders = fakes(3)
    names += [loader.address for loader in loaders]

    with connected(lambda: names, 3) as connection:
        read_epochs(connection, until=lambda: all(loader.answered > 20 for loader in loaders))


def test_a_loader_that_is_added_in_mid_epoch_is_asked_and_one_that_is_removed_is_left(
    fakes: Fleet, names: list[str]
) -> None:
    first, second = fakes(2)
    names[:] = [first.address]
    got: list[int] = []
    with connected(lambda: names, 1) as connection:
        epoch = connection.epoch(batch_size=2)
        read(epoch, got, until=lambda: len(got) >= 100)
        assert not second.requests

        names[:] = [first.address, second.address]
        while not second.answered:
            connection.feed().fetch(connection.feed().plan.step(9, 0))
        read(epoch, got, until=lambda: len(got) >= 500)

        names[:] = [second.address]
        while first.streams:
            connection.feed().fetch(connection.feed().plan.step(9, 0))
        read(epoch, got)

        assert [one.address for one in connection.stats.replicas] == [second.address]
        assert connection.stats.retried == 0

    assert Counter(got) == WHOLE


def test_a_name_that_has_no_address_for_a_while_takes_no_loader_away(fakes: Fleet, names: list[str]) -> None:
    (loader,) = fakes(1)
    asked = SimpleQueue[None]()

    def names_now() -> list[str]:
        asked.put(None)
        if not names:
            raise OSError("no route to the name server")
        return names

    names[:] = [loader.address]
    got: list[int] = []
    with connected(names_now, 1) as connection:
        epoch = connection.epoch(batch_size=2)
        read(epoch, got, until=lambda: len(got) >= 100)
        names.clear()
        while not asked.empty():
            asked.get()
        for _ in range(10):
            asked.get(timeout=WAIT_S)
        read(epoch, got)

    assert Counter(got) == WHOLE


def test_a_name_that_never_has_an_address_is_an_error_that_names_it(names: list[str]) -> None:
    def consul() -> list[str]:
        raise KeyError("loaders")

    with pytest.raises(LoaderUnavailable) as error:
        feedline.connect(consul, timeout_s=0.3)

    assert str(error.value).startswith(
        "after 0.3 s no loader answers. Last words: consul() failed to say where the loaders are: KeyError('loaders')."
    )


# ---- many ----


@pytest.fixture
def crowd(fakes: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[FakeLoader], feedline.Loader]]:
    """More loaders than small batches need, and a trainer that has read from many; all streams rest but a few."""
    monkeypatch.setattr(outbox, "REST_AFTER_S", 0.2)
    loaders = fakes(18)
    with feedline.connect([loader.address for loader in loaders], timeout_s=WAIT_S) as connection:
        while connection.replicas < len(loaders):
            connection.feed().fetch(connection.feed().plan.step(0, 0))
        read_epochs(connection, until=lambda: True)
        assert sum(loader.answered > 0 for loader in loaders) > 4
        _until_they_rest(loaders)
        yield loaders, connection


def _until_they_rest(loaders: list[FakeLoader]) -> None:
    """Blocks until all streams rest but four; nothing is wanted meanwhile."""
    deadline = time.monotonic() + WAIT_S
    while sum(loader.streams for loader in loaders) > 4:
        assert time.monotonic() < deadline, loaders
        time.sleep(0.01)


def test_of_many_loaders_streams_that_rest_are_opened_when_something_is_wanted(
    crowd: tuple[list[FakeLoader], feedline.Loader], logged: "SimpleQueue[str]"
) -> None:
    loaders, connection = crowd

    for _ in range(3):
        read_epochs(connection, until=lambda: True)
        _until_they_rest(loaders)

    assert any(loader.streams for loader in loaders)
    assert connection.replicas == len(loaders)
    assert (connection.stats.retried, connection.stats.damaged) == (0, 0)
    assert logged.empty()


def test_loaders_whose_streams_rest_are_asked_when_those_that_were_asked_are_lost(
    crowd: tuple[list[FakeLoader], feedline.Loader],
) -> None:
    loaders, connection = crowd
    busy = [loader for loader in loaders if loader.streams]
    got: list[int] = []

    epoch = connection.epoch(batch_size=10, prefetch=16, timeout_s=WAIT_S)
    read(epoch, got, until=lambda: len(got) >= 500)
    for loader in busy:
        loader.stop()
    read(epoch, got)

    assert Counter(got) == WHOLE
    # One whose stream had come to rest meanwhile is not missed before it is asked.
    assert len(loaders) - len(busy) <= connection.replicas < len(loaders)


def test_a_loader_that_went_away_while_its_stream_rested_costs_no_batch(
    crowd: tuple[list[FakeLoader], feedline.Loader],
) -> None:
    loaders, connection = crowd
    resting = [loader for loader in loaders if not loader.streams]
    busy = [loader for loader in loaders if loader.streams]
    before = resting[-1].answered

    for loader in resting[:-1]:
        loader.stop()
    for loader in busy:
        loader.drain()

    read_epochs(connection, until=lambda: resting[-1].answered > before)


def test_a_reader_says_how_many_loaders_know_of_it(crowd: tuple[list[FakeLoader], feedline.Loader]) -> None:
    """What it wants is the sum of what they show; those whose streams rest show nothing."""
    connection = crowd[1]
    reader = pb.Reader(trainer="a")

    connection._fleet.report(reader)

    assert reader.loaders == 4


# ---- lost, silent, draining ----


def test_the_keys_of_a_lost_loader_are_wanted_of_the_others(fakes: Fleet) -> None:
    lost, other = fakes(2)
    got: list[int] = []
    with connected([lost.address, other.address], 2) as connection:
        epoch = connection.epoch(batch_size=10)
        read(epoch, got, until=lambda: len(got) >= 500)
        lost.stop()
        read(epoch, got)
        read_epochs(connection, until=lambda: connection.replicas == 1)

    assert Counter(got) == WHOLE


def test_a_loader_that_says_nothing_more_costs_the_learnt_time_and_no_batch(
    fakes: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that was stopped: its connection is open, and nothing comes."""
    # For its silence alone are others asked: of a busy machine's gaps that may be learnt later than what is late.
    monkeypatch.setattr(rates, "LATE_FACTOR", 1e6)
    silent, other = fakes(2)
    got: list[int] = []
    with connected([silent.address, other.address], 2) as connection:
        # Not as many ahead as a busy machine makes of it: all would be there before it is silent.
        epoch = connection.epoch(batch_size=10, prefetch=16, timeout_s=WAIT_S)
        read(epoch, got, until=lambda: len(got) >= 500)
        silent.stall()
        read(epoch, got)
        after = connection.stats
        states = {one.address: one.state for one in after.replicas}

        assert Counter(got) == WHOLE
        assert after.hedged > 0
        assert (after.retried, after.duplicates) == (0, 0)
        assert states == {silent.address: "silent", other.address: "connected"}
        assert f" hedged={after.hedged}>" in repr(connection)

        silent.resume()
        asked_before = connection.stats.replicas[0].asked
        read_epochs(connection, until=lambda: connection.stats.replicas[0].asked > asked_before + 10)
        assert connection.stats.duplicates > 0


def test_a_draining_loader_is_left_without_anybody_noticing(fakes: Fleet, logged: "SimpleQueue[str]") -> None:
    draining, other = fakes(2)
    got: list[int] = []
    with connected([draining.address, other.address], 2) as connection:
        epoch = connection.epoch(batch_size=10, timeout_s=WAIT_S)
        read(epoch, got, until=lambda: len(got) >= 500)
        draining.drain(finish=False)
        read(epoch, got)

    assert Counter(got) == WHOLE


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_all_loaders_may_be_replaced_one_after_the_other_in_mid_epoch(fakes: Fleet, order: str) -> None:
    loaders = fakes(3)
    got: list[int] = []
    with connected([loader.address for loader in loaders], 3) as connection:
        epoch = connection.epoch(batch_size=4, order=order, timeout_s=WAIT_S)
        for number, loader in enumerate(loaders):
            read(epoch, got, until=lambda number=number: len(got) >= 400 * (number + 1))  # type: ignore[misc]
            loader.drain()
            loader.stop()
            loader.start()
        read(epoch, got)

    assert Counter(got) == WHOLE
    if order == "sequential":
        assert got == list(range(SAMPLES))


def test_a_slow_loader_gets_less_of_the_work(fakes: Fleet) -> None:
    fast, slow = fakes(2)
    never = threading.Event()

    def take_long(_key: object) -> None:
        never.wait(0.02)

    slow.fail(take_long)
    got: list[int] = []
    with connected([fast.address, slow.address], 2) as connection:
        read(connection.epoch(batch_size=10, timeout_s=WAIT_S), got)
        asked = {one.address: one.asked for one in connection.stats.replicas}

    assert Counter(got) == WHOLE
    assert asked[slow.address] < asked[fast.address] / 2


# ---- disagreeing ----


def test_loaders_without_a_version_in_common_are_an_error_that_says_what_differs_whichever_answers_first(
    fakes: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETTLE_S", WAIT_S)  # a second is little for the other one on a busy machine
    (one,) = fakes(1)
    with (
        serve({"y": Y[:90]}, fingerprint=b"\xfe\xed") as other,
        pytest.raises(DatasetChanged) as caught,
        feedline.connect([one.address, other.address], timeout_s=WAIT_S),
    ):
        pass

    said = str(caught.value)
    assert f"at {one.address} it has the fingerprint " in said
    assert f"at {other.address} feed, which differ in the number of samples (2000 and 90)" in said
    assert 'connect(…, fingerprint="' in said


def test_a_loader_with_other_data_is_named_once_and_the_epoch_goes_on_without_it(
    fakes: Fleet, logged: "SimpleQueue[str]"
) -> None:
    (good,) = fakes(1)
    got: list[int] = []
    with feedline.connect(good.address) as alone:
        wanted = alone.dataset().fingerprint.hex()
    with (
        serve({"y": Y}, fingerprint=b"\xfe\xed") as other,
        feedline.connect([good.address, other.address], timeout_s=WAIT_S, fingerprint=wanted) as connection,
    ):
        fingerprint = connection.dataset().fingerprint
        read(connection.epoch(batch_size=10, timeout_s=WAIT_S), got)
        read_epochs(connection, until=lambda: connection.replicas == 2)
        read_epochs(connection, until=lambda: True)
        refused = next(one for one in connection.stats.replicas if one.state == "refused")

    odd = other if fingerprint != b"\xfe\xed" else good
    assert Counter(got) == WHOLE
    assert not odd.requests
    assert refused.address == odd.address
    line = logged.get(timeout=WAIT_S)
    assert line.startswith(f"going on without one of 2 loaders: the loader at {odd.address} now has the fingerprint ")
    assert logged.empty()


def test_a_loader_of_another_generation_is_named_once_and_the_epoch_goes_on_without_it(
    fakes: Fleet, logged: "SimpleQueue[str]"
) -> None:
    (good,) = fakes(1)
    got: list[int] = []
    with serve({"y": Y}, protocol=99) as other, connected([good.address, other.address], 1) as connection:
        line = logged.get(timeout=WAIT_S)
        read(connection.epoch(batch_size=10, timeout_s=WAIT_S), got)

    assert Counter(got) == WHOLE
    assert line.startswith("going on without one of 2 loaders: ")
    assert "version 99" in line
    assert logged.empty()


def test_a_typed_error_says_so_when_no_loader_with_the_same_data_is_left(fakes: Fleet) -> None:
    first, second = fakes(2)
    with connected([first.address, second.address], 2) as connection:
        epoch = connection.epoch(batch_size=10, timeout_s=WAIT_S)
        next(epoch)
        for loader, change in ((first, {"fingerprint": b"\xfe\xed"}), (second, {"protocol": 99})):
            loader.stop()
            loader.change(**change)  # type: ignore[arg-type]
            loader.start()

        with pytest.raises((DatasetChanged, ProtocolMismatch)):
            list(epoch)


# ---- two ways to one loader, several loaders behind one ----


def test_one_loader_behind_two_addresses_is_asked_by_one_connection(
    monkeypatch: pytest.MonkeyPatch, fakes: Fleet
) -> None:
    monkeypatch.setattr(connecting, "SAME_AGAIN_S", 0.01)
    monkeypatch.setattr(rates, "LATE_AT_LEAST_S", WAIT_S)  # or a process that stands still takes the other way
    (loader,) = fakes(1, address="0.0.0.0:0")
    port = loader.address.rpartition(":")[2]
    got: list[int] = []
    with connected([f"127.0.0.1:{port}", f"127.0.0.2:{port}"], 1) as connection:
        read_epochs(connection, until=lambda: any(one.state == "same loader" for one in connection.stats.replicas))
        read(connection.epoch(batch_size=10, timeout_s=WAIT_S), got)

        assert Counter(got) == WHOLE
        assert connection.replicas == 1
        assert loader.streams == 1


def test_the_second_way_is_taken_when_the_first_is_lost(fakes: Fleet) -> None:
    (loader,) = fakes(1, address="0.0.0.0:0")
    port = loader.address.rpartition(":")[2]
    with connected([f"127.0.0.1:{port}", f"127.0.0.2:{port}"], 1) as connection:
        read_epochs(connection, until=lambda: any(one.state == "same loader" for one in connection.stats.replicas))
        for number in range(20):
            loader.drop_streams()
            read(connection.epoch(number, batch_size=10, timeout_s=WAIT_S), got := [])
            assert Counter(got) == WHOLE


def test_a_connection_that_was_copied_asks_the_same_target(fakes: Fleet) -> None:
    (loader,) = fakes(1)
    with connected(loader.address, 1, connections=3) as connection, copy.deepcopy(connection) as another:
        assert len(another.stats.replicas) == 3
        assert another.replicas == 1
