"""The loader in memory does what a test tells it to, and nothing else; seen from a trainer in plain gRPC."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from feedline.testing import FakeLoader, serve
from feedline_wire import structure
from feedline_wire.errors import (
    BadSample,
    DataError,
    DatasetChanged,
    InvalidRequest,
    LoaderBusy,
    LoaderDraining,
    LoaderUnavailable,
    ProtocolMismatch,
)

COLUMNS = {"x": np.arange(40, dtype=np.float32).reshape(20, 2), "y": np.arange(20)}


@pytest.fixture
def fake() -> Iterator[FakeLoader]:
    """Twenty samples, answered in the order they are wanted."""
    with serve(COLUMNS) as loader:
        yield loader


@pytest.fixture
def raw(fake: FakeLoader, connected: Callable[..., Any]) -> Iterator[Any]:
    """A trainer that is connected to it."""
    with connected(fake.address) as loader:
        yield loader


@pytest.fixture
def keys(raw: Any, keys_of: Callable[..., Any]) -> Callable[..., Any]:
    """Keys of two rows: `keys(offset=2)`."""
    make = keys_of(raw.describe())
    return lambda **different: make(**{"rows": 2, "order": "sequential", **different})


@contextmanager
def refused(kind: type[Exception], code: grpc.StatusCode, refusal_of: Callable[..., Any]) -> Iterator[None]:
    """A call in this block fails with the code, and with an error of the kind beside it."""
    with pytest.raises(grpc.RpcError) as failed:
        yield
    assert type(refusal_of(failed.value)) is kind
    assert failed.value.code() is code


def asked(count: int) -> Callable[[FakeLoader], bool]:
    return lambda loader: len(loader.requests) >= count


# ---- what it has seen ----


def test_it_remembers_every_key_in_order_of_arrival(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    raw.fetch(keys(offset=4), keys(offset=0))
    raw.fetch(keys(offset=4))

    assert fake.requests == [keys(offset=4), keys(offset=0), keys(offset=4)]


def test_it_shows_its_state(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    raw.fetch(keys())
    fake.wait_until(lambda loader: loader.streams == 0 and loader.answered == 1)
    assert repr(fake) == f"<FakeLoader fake at {fake.address} streams=0 requests=1 answered=1>"

    fake.drain()
    fake.stall()
    fake.stop()
    assert repr(fake).endswith("answered=1 stopped draining stalled>")


def test_waiting_in_vain_says_what_was_seen(fake: FakeLoader) -> None:
    with pytest.raises(TimeoutError, match=r"within 0.01 s: <FakeLoader .* requests=0"):
        fake.wait_until(asked(1), timeout_s=0.01)


# ---- stalls ----


def test_stalled_it_answers_nothing_until_it_resumes(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    with raw.stream() as stream:
        fake.stall()
        stream.want({1: keys(), 2: keys(offset=2)})
        fake.wait_until(asked(2))
        assert fake.answered == 0

        fake.resume()
        assert set(stream.receive(2)) == {1, 2}


def test_it_stalls_after_so_many_answers(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    with raw.stream() as stream:
        fake.stall(after=3)
        stream.want({ticket: keys(offset=ticket) for ticket in range(8)})

        assert list(stream.receive(3)) == [0, 1, 2]
        fake.wait_until(lambda loader: loader.answered == 3)
        fake.resume()
        assert list(stream.receive(5)) == [3, 4, 5, 6, 7]


def test_stalled_it_does_not_describe_itself_either(fake: FakeLoader, raw: Any) -> None:
    fake.stall()
    describe = raw.channel.unary_unary("/feedline.v1.Loader/Describe")
    answer = describe.future(b"\x08\x02", timeout=30)  # protocol = 2
    with pytest.raises(grpc.RpcError) as late:
        describe(b"\x08\x02", timeout=0.1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    fake.resume()
    assert answer.result()


# ---- failures ----


def test_it_fails_the_keys_it_is_told_to_fail(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    fake.fail(lambda key: BadSample("sample 7 is no image", samples=[7]) if key.offset == 6 else None)

    with raw.stream() as stream:
        stream.want({1: keys(offset=6), 2: keys(offset=0)})
        answers = stream.receive(2)
        fake.fail(None)
        stream.want({3: keys(offset=6)})
        later = stream.receive(1)

    assert isinstance(answers[1], BadSample)
    assert answers[1].samples == (7,)
    assert answers[2].ids == [0, 1]
    assert later[3].ids == [6, 7]


def test_dropped_streams_break_and_what_was_unanswered_is_lost(
    fake: FakeLoader, raw: Any, keys: Callable[..., Any], refusal_of: Callable[..., Any]
) -> None:
    with raw.stream() as one, raw.stream() as other:
        one.want({1: keys()})
        one.receive(1)
        fake.stall()
        one.want({2: keys(offset=2)})
        other.want({1: keys(offset=4)})
        fake.wait_until(asked(3))

        fake.drop_streams()

        for stream in (one, other):
            with pytest.raises(grpc.RpcError) as broken:
                stream.receive(1)
            assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refusal_of(broken.value) is None
    fake.resume()
    assert raw.fetch(keys(offset=2))[0].ids == [2, 3]


def test_a_stream_too_many_is_refused(connected: Callable[..., Any], refusal_of: Callable[..., Any]) -> None:
    with serve(COLUMNS, max_trainers=1) as fake, connected(fake.address) as raw, raw.stream() as first:
        first.want({})
        fake.wait_until(lambda loader: loader.streams == 1)

        with (
            raw.stream() as second,
            refused(LoaderBusy, grpc.StatusCode.RESOURCE_EXHAUSTED, refusal_of),
        ):
            second.want({})
            second.receive(1)


def test_a_key_beyond_the_window_is_refused(connected: Callable[..., Any], keys_of: Callable[..., Any]) -> None:
    with serve(COLUMNS, max_window=3) as fake, connected(fake.address) as raw, raw.stream() as stream:
        key = keys_of(raw.describe())
        stream.want({ticket: key(rows=1) for ticket in range(4)})
        answers = stream.receive(4)

    assert isinstance(answers[3], InvalidRequest)
    assert "more than 3 keys" in str(answers[3])


def test_a_batch_too_large_is_refused(connected: Callable[..., Any], keys_of: Callable[..., Any]) -> None:
    with serve(COLUMNS, max_batch_bytes=200) as fake, connected(fake.address) as raw:
        key = keys_of(raw.describe())

        assert len(raw.fetch(key(rows=5))[0].ids) == 5
        with pytest.raises(InvalidRequest, match="ask for fewer rows"):
            raw.fetch(key(rows=20))


# ---- going away and coming back ----


def test_draining_it_answers_what_was_wanted_and_ends_its_streams(
    fake: FakeLoader, raw: Any, keys: Callable[..., Any], refusal_of: Callable[..., Any]
) -> None:
    with raw.stream() as stream:
        fake.stall()
        stream.want({1: keys(), 2: keys(offset=2)})
        fake.wait_until(asked(2))

        fake.drain()
        stream.want({3: keys(offset=4)})
        fake.wait_until(asked(3))
        fake.resume()

        assert {ticket for ticket, _ in stream.answers()} == {1, 2}
        assert stream.frames[0].draining
        assert stream.call.code() is grpc.StatusCode.OK
    with raw.stream() as late, refused(LoaderDraining, grpc.StatusCode.UNAVAILABLE, refusal_of):
        late.want({1: keys()})
        late.receive(1)


def test_draining_in_a_hurry_it_leaves_what_was_wanted(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    with raw.stream() as stream:
        fake.stall()
        stream.want({1: keys(), 2: keys(offset=2)})
        fake.wait_until(asked(2))

        fake.drain(finish=False)

        assert list(stream.answers()) == []
        assert [frame.draining for frame in stream.frames] == [True]


def test_it_comes_back_on_the_same_port_as_another_replica(
    fake: FakeLoader, raw: Any, keys: Callable[..., Any], connected: Callable[..., Any]
) -> None:
    address, before = fake.address, raw.describe()
    fake.drain()
    fake.stall()

    fake.stop()
    with connected(address) as gone, pytest.raises(grpc.RpcError) as unreachable:
        gone.describe()
    fake.start()

    assert unreachable.value.code() is grpc.StatusCode.UNAVAILABLE
    assert fake.address == address
    with connected(address) as again:
        after = again.describe()
        assert after.datasets == before.datasets
        assert after.replica != before.replica
        assert again.fetch(keys())[0].ids == [0, 1]


def test_stopped_in_the_middle_it_leaves_no_thread_and_no_waiting_trainer(
    connected: Callable[..., Any], keys_of: Callable[..., Any]
) -> None:
    before = set(threading.enumerate())
    with serve(COLUMNS) as fake, connected(fake.address) as raw, raw.stream() as stream:
        key = keys_of(raw.describe())
        fake.stall()
        stream.want({1: key()})
        fake.wait_until(asked(1))

        fake.stop()
        fake.stop()

        with pytest.raises(grpc.RpcError) as broken:
            stream.receive(1)
        assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
        left = set(threading.enumerate()) - before
        assert [thread.name for thread in left if thread.name.startswith("feedline-fake")] == []


def test_a_port_in_use_is_an_error(fake: FakeLoader) -> None:
    with pytest.raises(LoaderUnavailable, match="cannot listen on"), serve(COLUMNS, address=fake.address):
        pass


# ---- pretending to be another ----


def test_it_can_pretend_another_version(
    fake: FakeLoader, raw: Any, keys: Callable[..., Any], refusal_of: Callable[..., Any]
) -> None:
    asked_before = keys()
    fake.change(protocol=99)

    assert raw.describe().protocol == 99
    with raw.stream() as stream, refused(ProtocolMismatch, grpc.StatusCode.FAILED_PRECONDITION, refusal_of):
        stream.want({1: asked_before})
        stream.receive(1)
    with raw.stream() as stream:
        stream.want({1: asked_before}, protocol=99)
        assert set(stream.receive(1)) == {1}


def test_it_can_pretend_another_dataset(fake: FakeLoader, raw: Any, keys: Callable[..., Any]) -> None:
    asked_before = keys()
    fake.change(fingerprint=b"other")

    assert raw.describe().datasets[0].fingerprint == b"other"
    with pytest.raises(DatasetChanged, match=b"other".hex()):
        raw.fetch(asked_before)


def test_the_fingerprint_is_of_the_content(connected: Callable[..., Any]) -> None:
    def fingerprint(columns: dict[str, Any], **declared: Any) -> bytes:
        with serve(columns, **declared) as fake, connected(fake.address) as raw:
            return raw.describe().datasets[0].fingerprint

    original = fingerprint(COLUMNS)
    changed = COLUMNS["x"].copy()
    changed[19, 1] += 1

    assert fingerprint({name: array.copy() for name, array in COLUMNS.items()}) == original
    assert fingerprint({**COLUMNS, "x": changed}) != original
    assert fingerprint(COLUMNS, views={"train": range(19)}) != original
    assert fingerprint(COLUMNS, structure=("y", "x")) != original


# ---- options ----


def test_answers_can_come_in_another_order(connected: Callable[..., Any], keys_of: Callable[..., Any]) -> None:
    with serve(COLUMNS, shuffle_answers=True) as fake, connected(fake.address) as raw, raw.stream() as stream:
        key = keys_of(raw.describe())
        stream.want({ticket: key(rows=1, offset=ticket) for ticket in range(20)})

        tickets = list(stream.receive(20))

    assert sorted(tickets) == list(range(20))
    assert tickets != list(range(20))


def test_small_batches_share_a_frame_and_large_ones_take_several(
    connected: Callable[..., Any], keys_of: Callable[..., Any]
) -> None:
    with serve(COLUMNS, frame_bytes=400) as fake, connected(fake.address) as raw, raw.stream() as stream:
        key = keys_of(raw.describe())
        fake.stall()
        stream.want({1: key(rows=1), 2: key(rows=1), 3: key(rows=20)})
        fake.wait_until(asked(3))
        fake.resume()
        stream.receive(3)

    assert [[piece.ticket for piece in frame.pieces] for frame in stream.frames] == [[1, 2], [3], [3]]


@pytest.mark.parametrize(
    ("view", "ids"),
    [
        (range(5, 8), [5, 6, 7]),
        (slice(None, None, 8), [0, 8, 16]),
        (slice(-2, None), [18, 19]),
        ([9, 3, 3], [9, 3, 3]),
    ],
)
def test_a_view_is_a_range_a_slice_or_ids(
    connected: Callable[..., Any], keys_of: Callable[..., Any], view: Any, ids: list[int]
) -> None:
    with serve(COLUMNS, views={"some": view}) as fake, connected(fake.address) as raw:
        key = keys_of(raw.describe())
        (batch,) = raw.fetch(key(view="some", order="sequential", rows=len(ids)))

    assert batch.ids == ids
    assert batch.arrays["y"].tolist() == ids


def test_a_batch_is_structured_as_declared_or_a_tuple_of_all(connected: Callable[..., Any]) -> None:
    def described(columns: dict[str, Any], **declared: Any) -> Any:
        with serve(columns, **declared) as fake, connected(fake.address) as raw:
            return structure.from_message(raw.describe().datasets[0].structure)

    assert described(COLUMNS) == ("x", "y")
    assert described({"x": COLUMNS["x"]}) == "x"
    assert described(COLUMNS, structure=({"image": "x"}, "y")) == ({"image": "x"}, "y")


def test_data_of_the_other_byte_order_is_served_all_the_same(
    connected: Callable[..., Any], keys_of: Callable[..., Any]
) -> None:
    with serve({"x": np.arange(20, dtype=">i4")}) as fake, connected(fake.address) as raw:
        (batch,) = raw.fetch(keys_of(raw.describe())(order="sequential", rows=3))

    assert batch.arrays["x"].dtype.str == "<i4"
    assert batch.arrays["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("columns", "declared", "kind", "says"),
    [
        ({}, {}, InvalidRequest, "columns must be arrays of one length"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, {}, InvalidRequest, "'x': 3, 'y': 4"),
        ({"x": np.zeros(0)}, {}, InvalidRequest, "at least 1"),
        ({"x": np.array(5.0)}, {}, InvalidRequest, "arrays of one length"),
        ({"__ids__": np.zeros(3)}, {}, InvalidRequest, "loader's own"),
        ({"x": np.array(["a", "b"])}, {}, DataError, "cannot be served"),
        (COLUMNS, {"views": {"train": []}}, InvalidRequest, "0..19"),
        (COLUMNS, {"views": {"train": [20]}}, InvalidRequest, "0..19"),
        (COLUMNS, {"views": {"train": [-1]}}, InvalidRequest, "0..19"),
        (COLUMNS, {"structure": ("x", "z")}, InvalidRequest, "the structure names z; the columns are x, y"),
    ],
)
def test_arrays_that_cannot_be_a_dataset_are_refused(
    columns: dict[str, Any], declared: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says), serve(columns, **declared):
        pass
