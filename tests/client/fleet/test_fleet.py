"""Connections that come late, break, come back, change, or never answer: nothing is lost, and nobody waits for ever."""

import dataclasses
import gc
import logging
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from logging.handlers import QueueHandler
from queue import SimpleQueue

import grpc
import numpy as np
import ports
import pytest
from busy import next_without_a_stall

import feedline
from feedline.connection import connection as connecting
from feedline.connection.description import Description, from_message
from feedline.connection.outbox import Outbox
from feedline.fleet import rates
from feedline.testing import FakeLoader, serve
from feedline_wire import PROTOCOL, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import (
    BadSample,
    Closed,
    DatasetChanged,
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderDraining,
    LoaderStalled,
    LoaderUnavailable,
    ProtocolMismatch,
)
from feedline_wire.key import Key

SAMPLES = 400
Y = np.arange(SAMPLES, dtype=np.int64)

WAIT_S = 30.0
"""For what takes milliseconds: a test that waits so long should fail and say so."""


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"y": Y}) as loader:
        yield loader


@pytest.fixture
def connection(loader: FakeLoader) -> Iterator[feedline.Loader]:
    with feedline.connect(loader.address, timeout_s=WAIT_S) as connection:
        yield connection


@pytest.fixture
def aside() -> Iterator[Callable[..., "Future[object]"]]:
    """Run something in a thread of its own, and end with it."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


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


@pytest.fixture
def free_address() -> str:
    """An address at which nobody listens."""
    return ports.free_address()


def collect(batches: Iterable[feedline.Batch], into: list[int]) -> None:
    """All their ids, those before an error too."""
    for batch in batches:
        into += batch.ids.tolist()


class _Methods:
    """`feedline_wire.rpc`, with a name for Describe that changes."""

    def __init__(self, describe: Callable[[object], str]) -> None:
        type(self).DESCRIBE = property(describe)

    def __getattr__(self, name: str) -> object:
        return getattr(rpc, name)


def connection_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feedline 127")]


# ---- connecting ----


def test_a_loader_that_starts_later_than_its_trainer_is_waited_for(
    free_address: str, aside: Callable[..., "Future[feedline.Loader]"], logged: "SimpleQueue[str]"
) -> None:
    connecting = aside(feedline.connect, free_address, timeout_s=WAIT_S)
    line = logged.get(timeout=WAIT_S)  # a person at the terminal is told what is waited for
    assert re.fullmatch(rf"refused by {free_address}, where nothing listens; still trying for 2\d s", line)

    with serve({"y": Y}, address=free_address), connecting.result(WAIT_S) as connection:
        assert len(list(connection.epoch(batch_size=100))) == 4


def test_without_a_timeout_each_address_is_tried_once(free_address: str) -> None:
    with pytest.raises(
        LoaderUnavailable, match=f"at the first attempt no loader answers. Last words: refused by {free_address}"
    ):
        feedline.connect(free_address, timeout_s=0)

    with serve({"y": Y}) as loader, feedline.connect(f"{free_address},{loader.address}", timeout_s=0) as connection:
        assert connection.replicas == 1


def test_an_address_where_nobody_listens_is_named_with_seconds_reason_and_remedy(free_address: str) -> None:
    with pytest.raises(LoaderUnavailable) as error:
        feedline.connect(free_address, timeout_s=3)

    message = str(error.value)
    assert message.startswith(f"after 3 s no loader answers. Last words: refused by {free_address}, where nothing li")
    assert "Is it running (`feedline serve`), is this its address, is the port open?" in message
    assert connection_threads() == []


def test_a_target_that_is_no_address_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="'loader' is not 'host:port'"):
        feedline.connect("loader")


def test_a_loader_of_another_protocol_is_refused_at_once_naming_both_versions() -> None:
    with serve({"y": Y}, protocol=99) as loader, pytest.raises(ProtocolMismatch) as error:
        feedline.connect(loader.address, timeout_s=600)

    assert "99" in str(error.value)
    assert f"version {PROTOCOL}" in str(error.value)


def test_what_is_no_loader_is_refused_at_once() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ProtocolMismatch, match=f"what listens at 127.0.0.1:{port} is not a feedline loader"):
            feedline.connect(f"127.0.0.1:{port}", timeout_s=600)
    finally:
        server.stop(None).wait()


def test_a_reader_that_has_asked_for_nothing_yet_says_that_it_reads_from_one_loader(
    connection: feedline.Loader,
) -> None:
    reader = pb.Reader(trainer="a")

    connection._fleet.report(reader)

    assert reader.loaders == 1


def test_who_only_looks_takes_no_place_of_a_trainer(connection: feedline.Loader, loader: FakeLoader) -> None:
    connection.status()

    assert loader.streams == 0
    next(connection.epoch())
    assert loader.streams == 1


# ---- loss and return ----


def epoch_ids(connection: feedline.Loader, *, disturb: Callable[[int], None], **options: object) -> list[int]:
    """All ids of an epoch, in order; `disturb` is called with each batch's number before it is asked for."""
    got: list[int] = []
    epoch = connection.epoch(batch_size=10, **options)  # type: ignore[arg-type]
    for number in range(len(connection.feed(batch_size=10))):
        disturb(number)
        got += next(epoch).ids.tolist()
    assert next(epoch, None) is None
    return got


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_an_epoch_is_whole_although_the_stream_breaks_again_and_again(
    connection: feedline.Loader, loader: FakeLoader, order: str
) -> None:
    undisturbed = epoch_ids(connection, disturb=lambda _: None, order=order)

    disturbed = epoch_ids(connection, disturb=lambda number: number % 7 or loader.drop_streams(), order=order)  # type: ignore[func-returns-value]

    assert disturbed == undisturbed
    assert Counter(disturbed) == Counter(range(SAMPLES))


def test_an_epoch_is_whole_although_the_loader_dies_and_comes_back(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    undisturbed = epoch_ids(connection, disturb=lambda _: None)

    def die(number: int) -> None:
        if number in {3, 4, 20}:
            loader.stop()
            loader.start()

    assert epoch_ids(connection, disturb=die) == undisturbed


def test_batches_that_arrived_before_a_loss_are_used_and_the_others_asked_for_again(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    loader.stall(after=6)
    epoch = connection.epoch(batch_size=10, prefetch=10)
    for _ in range(4):
        next(epoch)
    loader.wait_until(lambda seen: seen.answered == 6 and len(seen.requests) == 14)
    asked_before = len(loader.requests)

    loader.drop_streams()
    loader.wait_until(lambda seen: seen.streams == 0)
    loader.resume()

    assert len(list(epoch)) == 36
    asked_again = [key.offset for key in loader.requests[asked_before:]]
    assert len(set(asked_again)) == 34
    # Two more may have been wanted of the old stream before its loss was noticed, and were then wanted again.
    lost = [offset for offset in asked_again if offset not in {140, 150}]
    assert lost[:8] == [60, 70, 80, 90, 100, 110, 120, 130], "what was not answered, and that first"


def test_a_draining_loader_gets_no_new_keys_and_its_successor_serves_the_rest(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    def drain(number: int) -> None:
        if number == 5:
            loader.drain(finish=False)
            loader.wait_until(lambda seen: seen.streams == 0)
            loader.stop()
            loader.start()

    assert Counter(epoch_ids(connection, disturb=drain)) == Counter(range(SAMPLES))


def test_a_loader_that_comes_back_with_other_data_is_an_error_naming_address_and_both_fingerprints(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    epoch = connection.epoch(batch_size=10, prefetch=2, timeout_s=600)
    next(epoch)
    began_with = connection.dataset().fingerprint.hex()

    loader.stop()
    loader.change(fingerprint=b"\xfe\xed")
    loader.start()

    with pytest.raises(DatasetChanged) as error:
        list(epoch)
    assert f"the loader at {loader.address} now has the fingerprint feed for 'fake'" in str(error.value)
    assert f"this trainer began with {began_with}" in str(error.value)


def test_a_loader_that_was_replaced_before_the_first_batch_was_wanted_is_noticed(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    loader.stop()
    loader.change(fingerprint=b"\xfe\xed")
    loader.start()

    with pytest.raises(DatasetChanged, match=f"{loader.address} now has the fingerprint feed"):
        next(connection.epoch(timeout_s=600))


def test_a_call_that_was_damaged_on_its_way_is_made_again_before_a_loader_is_taken_for_none(
    connection: feedline.Loader, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit of the method's name: the loader knows no such method. On reconnection that had ended a training."""
    epoch = connection.epoch(batch_size=10)
    next(epoch)
    asked = []

    def damaged_once(_: object) -> str:
        asked.append(rpc.DESCRIBE)
        return rpc.DESCRIBE if len(asked) > 1 else rpc.DESCRIBE.replace("Describe", "Dascribe")

    monkeypatch.setattr(connecting, "rpc", _Methods(damaged_once))
    loader.drop_streams()

    assert len(list(epoch)) == 39
    assert len(asked) in {2, 3}  # once more where no key was wanted in time, see Connection._serve


def test_with_checksums_a_description_that_was_damaged_on_its_way_is_not_believed(
    loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message has no checksum. Another fingerprint would be a loader with other data, and the end of a training."""
    described = []

    def damaged_once(message: pb.Description, address: str) -> Description:
        described.append(from_message(message, address))
        return described[-1] if len(described) > 1 else dataclasses.replace(described[-1], max_window=7)

    monkeypatch.setattr(connecting, "from_message", damaged_once)
    with feedline.connect(loader.address, timeout_s=WAIT_S, checksum=True) as connection:
        assert len(list(connection.epoch(batch_size=10))) == 40

    # Twice less where the first key was wanted before its connection looked.
    assert len(described) in {4, 6}, "twice in vain, twice alike, and twice before the first key, see Connection._serve"


def test_a_loader_that_comes_back_as_another_generation_is_an_error_at_once(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    epoch = connection.epoch(batch_size=10, prefetch=2, timeout_s=600)
    next(epoch)

    loader.stop()
    loader.change(protocol=99)
    loader.start()

    with pytest.raises(ProtocolMismatch):
        list(epoch)


def test_the_loss_of_a_loader_is_told_with_what_it_leaves_unanswered(
    connection: feedline.Loader, loader: FakeLoader, logged: "SimpleQueue[str]"
) -> None:
    loader.stall(after=1)
    epoch = connection.epoch(batch_size=10, prefetch=5)
    next(epoch)
    loader.wait_until(lambda seen: len(seen.requests) == 6)

    loader.drop_streams()

    assert logged.get(timeout=WAIT_S).startswith(
        f"lost a loader that had 5 batches to answer, reconnecting to {loader.address}: UNAVAILABLE: "
    )


def test_a_stream_on_which_nothing_comes_any_more_is_made_anew_and_the_epoch_goes_on(
    connection: feedline.Loader, loader: FakeLoader, logged: "SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection lives, so keepalive sees nothing; with one loader there is nobody else to ask."""
    feed = connection.feed()
    for _ in range(10):  # what is usual is learnt from answers that come one by one
        feed.fetch(feed.plan.step(9, 0))
    epoch = connection.epoch(batch_size=10, timeout_s=WAIT_S, prefetch=4)
    got = [sample for _ in range(10) for sample in next(epoch).ids.tolist()]
    monkeypatch.setattr(rates, "RENEW_AFTER_S", 1.5)
    stuck, freed = threading.Event(), threading.Event()

    def sticks(_: Key) -> None:
        if not stuck.is_set():  # this stream's thread, and no other
            stuck.set()
            assert freed.wait(WAIT_S)

    loader.fail(sticks)
    collect(epoch, got)
    freed.set()

    assert Counter(got) == Counter(range(SAMPLES))
    while (line := logged.get(timeout=WAIT_S)).startswith("waiting for up to "):  # what a busy machine adds
        pass
    assert re.match(r"lost a loader .*: nothing came for \d+ s although the connection stands", line)


# ---- deadlines ----


def test_a_loader_that_is_connected_and_silent_is_a_stall(connection: feedline.Loader, loader: FakeLoader) -> None:
    next(connection.epoch(batch_size=10))
    loader.stall()

    with pytest.raises(LoaderStalled) as error:
        next(connection.epoch(1, batch_size=10, timeout_s=0.3))

    assert f"epoch=1 positions 0..9 within 0.3 s from {loader.address}: it is connected" in str(error.value)
    assert isinstance(error.value, TimeoutError)


def test_a_long_wait_is_told_with_what_is_awaited_and_from_whom(
    connection: feedline.Loader, loader: FakeLoader, logged: "SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    next(connection.epoch(batch_size=10))
    loader.stall()
    monkeypatch.setattr("feedline.fleet.fleet.LOG_WAIT_AFTER_S", 0.05)

    with pytest.raises(LoaderStalled):
        next(connection.epoch(1, batch_size=10, timeout_s=0.3))

    key = "fake/train shuffle seed=0 epoch=1 positions 0..9"
    assert logged.get(timeout=WAIT_S) == f"waiting for up to 0.3 s for the batch {key} from {loader.address}"


def test_a_loader_that_is_gone_is_unavailable_and_an_epoch_can_go_on_when_it_is_back(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    epoch = connection.epoch(batch_size=10, timeout_s=3.0, prefetch=1)
    got = next(epoch).ids.tolist()
    loader.stop()

    with pytest.raises(LoaderUnavailable) as error:
        collect(epoch, got)
    assert f"within 3 s: no loader answers. Last words: refused by {loader.address}, where nothing" in str(error.value)
    assert not isinstance(error.value, LoaderStalled)

    loader.start()
    while True:
        try:
            collect(epoch, got)
            break
        except LoaderUnavailable:  # three seconds may be too short for a busy machine
            continue
    assert Counter(got) == Counter(range(SAMPLES))


def test_a_loader_that_has_no_room_for_another_trainer_says_so_and_is_asked_again() -> None:
    with serve({"y": Y}, max_trainers=1) as loader, feedline.connect(loader.address) as first:
        next(first.epoch(batch_size=10))
        with feedline.connect(loader.address) as second:
            epoch = second.epoch(batch_size=10, timeout_s=0.5)
            with pytest.raises(LoaderBusy):
                next_without_a_stall(epoch)

            first.close()
            loader.wait_until(lambda seen: seen.streams == 0)

            assert len(list(second.epoch(batch_size=10))) == 40


def test_a_window_larger_than_the_loaders_is_held_back() -> None:
    with serve({"y": Y}, max_window=3) as loader, feedline.connect(loader.address) as connection:
        ids = [sample for batch in connection.epoch(batch_size=10, prefetch=20) for sample in batch.ids.tolist()]

    assert Counter(ids) == Counter(range(SAMPLES))


# ---- several loaders ----


@pytest.fixture
def second() -> Iterator[FakeLoader]:
    with serve({"y": Y}, shuffle_answers=True) as loader:
        yield loader


@pytest.fixture
def both(loader: FakeLoader, second: FakeLoader) -> Iterator[feedline.Loader]:
    with feedline.connect([loader.address, second.address], timeout_s=WAIT_S) as connection:
        feed = connection.feed()
        while connection.replicas < 2:  # connect returns with the first
            feed.fetch(feed.plan.step(0, 0))
        yield connection


def test_keys_are_spread_over_the_loaders(both: feedline.Loader, loader: FakeLoader, second: FakeLoader) -> None:
    ids = [sample for batch in both.epoch(batch_size=4) for sample in batch.ids.tolist()]

    assert Counter(ids) == Counter(range(SAMPLES))
    assert len(loader.requests) > 2  # how many depends on how fast each was found to be
    assert len(second.requests) > 2


def test_keys_of_a_lost_loader_are_wanted_from_the_other(
    both: feedline.Loader, loader: FakeLoader, second: FakeLoader
) -> None:
    ids = []
    for batch in both.epoch(batch_size=4, prefetch=20):
        ids += batch.ids.tolist()
        if batch.index == 20:
            loader.stall()  # it takes keys and does not answer them
        if batch.index == 40:
            loader.stop()

    assert Counter(ids) == Counter(range(SAMPLES))


def test_what_one_loader_cannot_answer_is_asked_of_the_other(
    both: feedline.Loader, loader: FakeLoader, second: FakeLoader
) -> None:
    loader.fail(lambda _: LoaderDraining("ask another", elsewhere=True))

    ids = [sample for batch in both.epoch(batch_size=10) for sample in batch.ids.tolist()]

    assert Counter(ids) == Counter(range(SAMPLES))


def test_a_loader_that_has_no_room_for_a_key_is_waited_for(connection: feedline.Loader, loader: FakeLoader) -> None:
    epoch = connection.epoch(batch_size=10, timeout_s=0.3)
    loader.fail(lambda _: LoaderBusy("no room for a batch now", elsewhere=True))
    with pytest.raises(LoaderBusy, match=r"positions 0\.\.9 within 0\.3 s: no room for a batch now"):
        next_without_a_stall(epoch)

    loader.fail(None)
    loader.drop_streams()

    epoch._ahead._timeout_s = WAIT_S

    assert len(list(epoch)) == 40


def test_what_no_loader_can_answer_is_the_last_ones_error(
    both: feedline.Loader, loader: FakeLoader, second: FakeLoader
) -> None:
    for each in (loader, second):
        each.fail(lambda _: BadSample("the disk is gone", elsewhere=True))

    with pytest.raises(BadSample, match="the disk is gone"):
        next(both.epoch(timeout_s=600))


def test_an_error_that_another_loader_would_repeat_is_told_at_once(
    both: feedline.Loader, loader: FakeLoader, second: FakeLoader
) -> None:
    asked: list[Key] = []

    def fail(key: Key) -> FeedlineError | None:
        asked.append(key)
        return BadSample("sample 3 is no image", samples=[3])

    for each in (loader, second):
        each.fail(fail)
    with pytest.raises(BadSample):
        both.feed().fetch(both.feed().plan.step(0, 0))

    assert len(asked) == 1


# ---- decide under the lock, act after it ----


def test_loaders_are_spoken_to_without_the_lock(
    connection: feedline.Loader,
    loader: FakeLoader,
    aside: Callable[..., "Future[bool]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC takes locks of its own, and wakes threads that tell the fleet what happened."""
    lock, acts = connection._fleet._lock, []

    def free() -> bool:
        with lock:
            return True

    def watched(kind: type, name: str) -> None:
        act = getattr(kind, name)

        def outside(self: object, *args: object) -> None:
            acts.append(name)
            assert aside(free).result(WAIT_S)
            act(self, *args)

        monkeypatch.setattr(kind, name, outside)

    watched(Outbox, "flush")
    watched(connecting.Connection, "renew")
    for constant in ("RENEW_AFTER_S", "RENEW_UNKNOWN_S"):
        monkeypatch.setattr(rates, constant, 0.1)
    monkeypatch.setattr(rates, "FIRST_LATE_S", 0.02)

    assert len(list(connection.epoch(batch_size=100))) == 4
    loader.stall()
    with pytest.raises((LoaderStalled, LoaderUnavailable)):
        next(connection.epoch(1, batch_size=100, timeout_s=1.0))

    assert set(acts) == {"flush", "renew"}


def test_what_was_still_to_be_done_at_a_fork_is_left_to_the_parent(connection: feedline.Loader) -> None:
    done: list[str] = []
    fleet = connection._fleet
    fleet._tracker.after.append(lambda: done.append("talked to a loader by what is the parent's"))

    _, connections, _ = fleet.leave_to_parent()  # type: ignore[misc]
    fleet.cancel([])

    assert done == []
    for one in connections:
        one.begin_close()
        one.finish_close(WAIT_S)


# ---- cancel and close ----


def test_closing_wakes_whoever_waits(
    connection: feedline.Loader, loader: FakeLoader, aside: Callable[..., "Future[object]"]
) -> None:
    loader.stall()
    waiting = aside(next, connection.epoch(batch_size=10, timeout_s=600))
    loader.wait_until(lambda seen: bool(seen.requests) or seen.streams == 0)

    connection.close()

    with pytest.raises(Closed, match="the connection to the loader was closed; connect again"):
        waiting.result(WAIT_S)


def test_closing_a_feed_wakes_who_waits_in_it_and_nobody_else(
    connection: feedline.Loader, loader: FakeLoader, aside: Callable[..., "Future[object]"]
) -> None:
    next(connection.epoch(batch_size=10, prefetch=1))
    loader.stall()
    feed, other = connection.feed(timeout_s=600, prefetch=1), connection.feed(timeout_s=600, prefetch=1, seed=1)
    waiting, patient = aside(next, iter(feed)), aside(next, iter(other))
    loader.wait_until(lambda seen: {key.seed for key in seen.requests if key.rows == 32} == {0, 1})

    feed.close()

    with pytest.raises(Closed):
        waiting.result(WAIT_S)
    loader.resume()
    assert isinstance(patient.result(WAIT_S), feedline.Batch)


def test_a_cancelled_want_is_not_answered(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=10)
    first = feed.plan.step(0, 0)
    feed.fetch(first)
    loader.stall()
    want = connection._fleet.want(feed.key(first), 100)
    loader.wait_until(lambda seen: len(seen.requests) == 2)

    connection._fleet.cancel([want])
    connection._fleet.cancel([want])
    another = connection._fleet.want(feed.key(first), 100)
    loader.wait_until(lambda seen: len(seen.requests) == 3)
    loader.resume()
    connection._fleet.wait(another, WAIT_S)

    loader.wait_until(lambda seen: seen.answered == 2)
    with pytest.raises(Closed, match="no longer wanted"):
        connection._fleet.wait(want, 0)


def test_a_closed_connection_has_no_threads_and_says_what_to_do(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    epoch = connection.epoch(batch_size=10)
    next(epoch)
    connection.close()
    connection.close()

    assert connection_threads() == []
    for use in (connection.feed, connection.status, lambda: next(epoch)):
        with pytest.raises(Closed, match="connect again"):
            use()
    loader.wait_until(lambda seen: seen.streams == 0)


def test_a_connection_that_is_closed_keeps_no_memory_for_batches_although_nobody_collects_garbage() -> None:
    """Up to twice what is read ahead, in objects that refer to one another."""
    gc.collect()
    gc.disable()  # as trainers do, so that it does not stop a step
    try:
        with (
            serve({"x": np.zeros((40, 100_000), np.uint8)}) as loader,
            feedline.connect(loader.address, timeout_s=WAIT_S) as connection,
        ):
            epoch = connection.epoch(0, batch_size=4)
            next(epoch)
            roots = [weakref.ref(root) for root in connection._fleet._buffers._roots]
            assert roots
        del epoch

        assert [root for root in roots if root() is not None] == []
    finally:
        gc.enable()


def test_a_connection_can_be_closed_while_its_loader_is_gone(connection: feedline.Loader, loader: FakeLoader) -> None:
    epoch = connection.epoch(batch_size=10)
    next(epoch)
    loader.stop()

    connection.close()

    assert connection_threads() == []


def test_many_readers_share_a_connection(
    connection: feedline.Loader, aside: Callable[..., "Future[list[int]]"]
) -> None:
    def read(seed: int) -> list[int]:
        return [sample for batch in connection.epoch(batch_size=3, seed=seed) for sample in batch.ids.tolist()]

    readers = [aside(read, seed) for seed in range(8)]

    assert all(Counter(reader.result(WAIT_S)) == Counter(range(SAMPLES)) for reader in readers)
