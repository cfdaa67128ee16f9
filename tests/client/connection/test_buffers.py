"""Where arriving bytes are put: buffers that nobody overwrites, headers that nobody believes."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from feedline.connection import buffers as module
from feedline.connection.buffers import KEPT_NBYTES, POOLED_NBYTES, Buffers, Received, Receiver
from feedline.connection.description import IDS_COLUMN, DatasetInfo, Description
from feedline_wire import compression, frames, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.compression import METHODS
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.frames import Piece
from feedline_wire.key import Key
from feedline_wire.tensors import VARIES, Array, Column

F4, I8, U1 = np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1")

MIB = 1 << 20


def address(array: Array) -> int:
    return int(array.ctypes.data)


# ---- buffers ----


@pytest.mark.parametrize("nbytes", [1, 63, POOLED_NBYTES - 1, POOLED_NBYTES, MIB + 1])
def test_a_buffer_has_the_size_that_was_asked_for_and_starts_on_a_boundary(nbytes: int) -> None:
    buffer = Buffers(64 * MIB).lend(nbytes)

    assert (buffer.shape, buffer.dtype) == ((nbytes,), np.dtype(np.uint8))
    assert address(buffer) % 64 == 0


def test_a_buffer_is_lent_again_when_its_last_view_is_gone() -> None:
    buffers = Buffers(64 * MIB)
    first = buffers.lend(MIB)
    where = address(first)

    del first

    assert address(buffers.lend(MIB)) == where


def views(buffer: Array) -> Iterator[object]:
    yield buffer[5:9]
    yield buffer[:64].view(F4).reshape(4, 4).T
    yield memoryview(buffer)
    yield np.frombuffer(buffer, F4)
    yield np.ndarray((3,), F4, buffer=buffer)
    yield [{"nested": (buffer[1:2],)}]


@pytest.mark.parametrize("number", range(6))
def test_a_buffer_is_not_lent_while_anybody_holds_a_view_of_it(number: int) -> None:
    buffers = Buffers(64 * MIB)
    buffer = buffers.lend(MIB)
    where = address(buffer)
    held = list(views(buffer))[number]

    del buffer

    assert address(buffers.lend(MIB)) != where
    del held
    gc.collect()
    assert address(buffers.lend(MIB)) == where


def test_of_a_wide_window_the_buffer_behind_the_one_lent_last_is_asked_first() -> None:
    """Each batch asked all that were lent before it, 512 where batches are small: longer than receiving one took."""
    buffers = Buffers(64 * MIB)
    lent = {number: buffers.lend(MIB) for number in range(12)}
    places = {number: address(buffer) for number, buffer in lent.items()}
    del lent[6]
    lent[6] = buffers.lend(MIB)

    del lent[5], lent[9]
    found = buffers.lend(MIB)

    assert (address(lent[6]), address(found)) == (places[6], places[9])


def test_what_a_reader_holds_is_never_written_to_by_what_arrives_later() -> None:
    buffers = Buffers(64 * MIB)
    held = []
    for number in range(8):
        buffer = buffers.lend(MIB)
        buffer[:] = number
        held.append(buffer[-100:])

    assert [set(view.tolist()) for view in held] == [{number} for number in range(8)]


def test_buffers_of_nearly_equal_size_are_shared_and_a_much_larger_one_is_not_wasted_on_a_small_batch() -> None:
    buffers = Buffers(64 * MIB)
    large = address(buffers.lend(8 * MIB))

    assert address(buffers.lend(8 * MIB - 1000)) == large
    assert address(buffers.lend(MIB)) != large


@pytest.mark.parametrize(
    ("nbytes", "capacity"),
    [
        (65_536, 65_536),
        (65_537, 73_728),
        (73_729, 81_920),
        (131_071, 131_072),
        (131_073, 147_456),
        (1_000_000, 1_048_576),
        (1_048_576, 1_048_576),
        (1_048_577, 1_179_648),
    ],
)
def test_a_buffer_has_at_most_an_eighth_more_than_was_asked_for(nbytes: int, capacity: int) -> None:
    root = Buffers(64 * MIB).lend(nbytes).base

    assert root is not None
    assert root.nbytes == capacity + 64


def test_memory_from_elsewhere_is_its_owners_to_give_out_again() -> None:
    given: list[Array] = []

    def allocate(nbytes: int) -> Array:
        given.append(np.zeros(nbytes, np.uint8))
        return given[-1]

    buffers = Buffers(64 * MIB)
    buffers.allocate = allocate

    assert [buffers.lend(nbytes) is given[-1] for nbytes in (1, MIB, MIB)] == [True] * 3
    assert repr(buffers) == "<Buffers kept=0 free=0 nbytes=0>"


def test_small_buffers_are_not_kept() -> None:
    buffers = Buffers(64 * MIB)
    small = buffers.lend(65_535)
    assert small.base is not None
    assert small.base.nbytes == 65_535 + 64
    assert repr(buffers) == "<Buffers kept=0 free=0 nbytes=0>"

    large = buffers.lend(65_536)

    assert repr(buffers) == "<Buffers kept=1 free=0 nbytes=65600>"
    assert len(large) == 65_536


def test_a_buffer_that_is_lent_again_has_the_size_and_the_boundary_of_a_new_one() -> None:
    buffers = Buffers(64 * MIB)
    kept = [buffers.lend(MIB), buffers.lend(MIB)]
    where = {address(one) for one in kept}
    del kept

    again = [buffers.lend(MIB - 1), buffers.lend(MIB - 2)]

    assert {address(one) for one in again} == where
    assert [one.shape for one in again] == [(MIB - 1,), (MIB - 2,)]


def left_of_five() -> tuple[list[int], list[int]]:
    """Where the last three of five lay, and where three lie that are lent when only so many are kept."""
    buffers = Buffers(3 * MIB)
    held = [buffers.lend(MIB) for _ in range(5)]
    where = [address(one) for one in held]
    del held
    again = [buffers.lend(MIB) for _ in range(3)]
    return where[2:], [address(one) for one in again]


def test_the_oldest_are_forgotten_first_and_what_is_left_keeps_its_boundaries() -> None:
    """Roots begin at any byte: an aligned start that belongs to another root would not be one."""
    left, lent = left_of_five()

    assert lent == left
    assert all(one % 64 == 0 for one in lent)


def test_each_that_is_left_begins_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = itertools.count()
    monkeypatch.setattr(module, "_start", lambda _: next(starts))  # at another byte each

    left, lent = left_of_five()

    assert lent == left


@pytest.mark.parametrize(("kept_nbytes", "kept"), [(MIB - 1, 0), (MIB, 1), (2 * MIB - 1, 1), (2 * MIB, 2)])
def test_as_many_are_kept_as_fit_to_the_byte(kept_nbytes: int, kept: int) -> None:
    buffers = Buffers(kept_nbytes)
    held = [buffers.lend(MIB), buffers.lend(MIB)]

    assert len(held) == 2
    assert repr(buffers).startswith(f"<Buffers kept={kept} ")


def test_twice_what_is_read_ahead_is_kept_and_never_less_than_before() -> None:
    """A full window, and as much again with the trainer."""
    buffers = Buffers(4 * MIB)

    buffers.expect(MIB)
    assert buffers.kept_nbytes == 4 * MIB
    buffers.expect(10 * MIB)
    assert buffers.kept_nbytes == 20 * MIB
    buffers.expect(3 * MIB)
    assert buffers.kept_nbytes == 20 * MIB


def test_a_whole_window_of_the_default_size_is_kept_twice() -> None:
    assert KEPT_NBYTES == 2 * (256 << 20)


def test_the_memory_kept_for_later_is_bounded_also_when_readers_hold_on_to_batches() -> None:
    buffers = Buffers(4 * MIB)
    held = [buffers.lend(MIB) for _ in range(10)]

    assert repr(buffers) == f"<Buffers kept=4 free=0 nbytes={4 * (MIB + 64)}>"
    del held
    assert repr(buffers) == f"<Buffers kept=4 free=4 nbytes={4 * (MIB + 64)}>"


def test_a_buffer_larger_than_all_that_may_be_kept_is_lent_and_forgotten() -> None:
    buffers = Buffers(MIB)
    buffer = buffers.lend(2 * MIB)

    assert len(buffer) == 2 * MIB
    assert repr(buffers) == "<Buffers kept=0 free=0 nbytes=0>"


def test_buffers_that_are_not_needed_any_more_go_at_once_and_what_is_held_with_its_last_view() -> None:
    buffers = Buffers(8 * MIB)
    held, given_back = buffers.lend(MIB), buffers.lend(2 * MIB)
    roots = [weakref.ref(root) for root in buffers._roots]
    held[:] = 7
    del given_back

    buffers.forget()
    buffers.forget()

    assert [root() is None for root in roots] == [False, True]
    assert buffers.lend(MIB).base is not roots[0]()
    assert np.all(held == 7)
    del held
    assert roots[0]() is None
    assert repr(buffers) == "<Buffers kept=0 free=0 nbytes=0>"


# ---- arrivals ----

X, Y = Column("x", F4, (3,)), Column("y", U1, ())
KEY = Key("fake", b"\x01", "train", "shuffle", seed=0, epoch=0, offset=0, rows=4)


def description(*columns: Column, max_batch_nbytes: int = MIB) -> Description:
    info = DatasetInfo("fake", b"\x01", 100, columns, tuple(c.name for c in columns), {"train": 100}, ("shuffle",))
    return Description("1", "r", {"fake": info}, max_batch_nbytes, max_window=1024)


def receiver(*columns: Column, max_batch_nbytes: int = MIB) -> Receiver:
    return Receiver(description(*columns, max_batch_nbytes=max_batch_nbytes), Buffers(0), may_be_compressed=False)


def header(*columns: Column, rows: int = 4) -> pb.BatchHeader:
    return tensors.to_header(tensors.batch_layout((*columns, IDS_COLUMN), rows))


def body(columns: tuple[Column, ...], arrays: dict[str, Array], rows: int = 4) -> bytes:
    layout = tensors.batch_layout((*columns, IDS_COLUMN), rows)
    memory = np.zeros(layout.nbytes, np.uint8)
    for name, view in tensors.views(memory, layout).items():
        view[...] = arrays[name]
    return memory.tobytes()


ARRAYS: dict[str, Array] = {
    "x": np.arange(12, dtype=F4).reshape(4, 3),
    "y": np.array([7, 8, 9, 10], U1),
    "__ids__": np.array([3, 1, 4, 1]),
}


@pytest.mark.parametrize("frame_nbytes", [1 << 20, 50, 1])
def test_a_batch_arrives_in_one_piece_or_in_many(frame_nbytes: int) -> None:
    receive = receiver(X, Y)
    wire = memoryview(body((X, Y), ARRAYS))

    outcomes = [
        receive.take(piece, KEY) for piece in frames.cut(1, header(X, Y).SerializeToString(), wire, frame_nbytes)
    ]

    assert outcomes[:-1] == [None] * (len(outcomes) - 1)
    received = outcomes[-1]
    assert isinstance(received, Received)
    assert {name: array.tolist() for name, array in received.arrays().items()} == {
        "x": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
        "y": [7, 8, 9, 10],
        "__ids__": [3, 1, 4, 1],
    }


def test_batches_arrive_interleaved() -> None:
    receive = receiver(Y)
    wire = memoryview(body((Y,), ARRAYS))
    one, two = (list(frames.cut(ticket, header(Y).SerializeToString(), wire, 48)) for ticket in (1, 2))

    outcomes = [receive.take(piece, KEY) is not None for piece in (one[0], two[0], two[1], one[1])]

    assert outcomes == [False, False, True, True]


def test_a_batch_that_is_no_longer_wanted_can_be_forgotten_and_asked_for_again() -> None:
    receive = receiver(Y)
    wire = memoryview(body((Y,), ARRAYS))
    first, second = frames.cut(1, header(Y).SerializeToString(), wire, 48)

    receive.take(first, KEY)
    receive.forget(1)
    receive.take(first, KEY)

    assert receive.take(second, KEY) is not None


def test_dimensions_that_vary_may_have_any_size() -> None:
    ragged = Column("r", F4, (VARIES, 2))
    layout = tensors.lay_out([("r", F4, (4, 9, 2)), ("__ids__", np.dtype("<i8"), (4,))])
    wire = bytes(layout.nbytes)

    received = receiver(ragged).take(Piece(1, 0, wire, tensors.to_header(layout).SerializeToString()), KEY)

    assert received is not None
    assert received.arrays()["r"].shape == (4, 9, 2)


I8 = np.dtype("<i8")


def shortened(x: int, ids: tuple[int, ...], bad: tuple[int, ...] | None) -> pb.BatchHeader:
    """The header of a batch with so many rows of X, such ids, and bad samples if they are spoken of."""
    arrays = [("x", F4, (x, 3)), ("__ids__", I8, ids)]
    return tensors.to_header(tensors.lay_out([*arrays, *([("__bad__", I8, bad)] if bad is not None else [])]))


@pytest.mark.parametrize("made", [(4, (4,), (0, 2)), (3, (3,), (1, 2)), (1, (1,), (3, 2)), (4, (4,), (4, 2))])
def test_rows_are_missing_or_replaced_as_the_bad_samples_beside_them_say(
    made: tuple[int, tuple[int, ...], tuple[int, ...]],
) -> None:
    wire = shortened(*made)

    received = receiver(X).take(Piece(1, 0, bytes(wire.nbytes), wire.SerializeToString()), KEY)

    assert received is not None
    assert received.arrays()["x"].shape == (made[0], 3)
    assert received.arrays()["__bad__"].shape == made[2]


def test_a_ready_batch_may_have_any_number_of_rows_and_has_one_id_a_position() -> None:
    info = DatasetInfo("fake", b"\x01", 100, (X,), "x", {"train": 100}, ("shuffle",), is_batched=True)
    receive = Receiver(Description("1", "r", {"fake": info}, MIB, max_window=1024), Buffers(0), may_be_compressed=False)
    wire, wrong = shortened(17, (4,), None), shortened(17, (17,), None)

    received = receive.take(Piece(1, 0, bytes(wire.nbytes), wire.SerializeToString()), KEY)

    assert received is not None
    assert received.arrays()["x"].shape == (17, 3)
    with pytest.raises(ProtocolMismatch, match="came with __ids__ as int64"):
        receive.take(Piece(2, 0, b"", wrong.SerializeToString()), KEY)


def bad_headers() -> dict[str, tuple[pb.BatchHeader, str]]:
    too_many_rows, other_dtype, unknown = header(X, rows=5), header(X), header(X, Y)
    other_dtype.arrays[0].dtype = "int32"
    missing = tensors.to_header(tensors.lay_out([("x", F4, (4, 3))]))
    twice = header(X)
    twice.arrays.append(twice.arrays[0])
    inflated = header(X)
    inflated.nbytes = 1 << 40
    flat = tensors.to_header(tensors.lay_out([("x", F4, (12,)), ("__ids__", np.dtype("<i8"), (4,))]))
    return {
        "rows": (too_many_rows, "a batch of 4 rows of 'fake' came with x as float32(5, 3)"),
        "dtype": (other_dtype, "came with x as int32(4, 3); described was x float32(3)"),
        "unknown": (unknown, "came with the columns x, y, __ids__; described were x, __ids__"),
        "missing": (missing, "came with the columns x; described were x, __ids__"),
        "twice": (twice, "came with the columns x, __ids__"),
        "inflated": (inflated, "announced 1099511627776 bytes; its arrays end at 96"),
        "flat": (flat, "came with x as float32(12,)"),
        "fewer": (shortened(3, (3,), None), "a batch of 4 rows of 'fake' came with x as float32(3, 3)"),
        "fewer, none bad": (shortened(3, (3,), (0, 2)), "came with x as float32(3, 3)"),
        "fewer, too many bad": (shortened(3, (3,), (2, 2)), "came with x as float32(3, 3)"),
        "none left": (shortened(0, (0,), (4, 2)), "came with x as float32(0, 3)"),
        "more bad than rows": (shortened(4, (4,), (5, 2)), "came with __bad__ as int64(5, 2)"),
        "bad in another form": (shortened(3, (3,), (1,)), "came with __bad__ as int64(1,)"),
        "bad without a form": (shortened(4, (4,), ()), "came with __bad__ as int64()"),
        "ids without a form": (shortened(4, (), (0, 2)), "came with __ids__ as int64()"),
        "ids shorter than the columns": (shortened(4, (3,), (1, 2)), "came with x as float32(4, 3)"),
    }


@pytest.mark.parametrize("name", bad_headers())
def test_a_header_that_is_not_what_was_described_is_refused_before_memory_is_taken(name: str) -> None:
    found, told = bad_headers()[name]

    with pytest.raises(ProtocolMismatch) as error:
        receiver(X).take(Piece(1, 0, b"", found.SerializeToString()), KEY)

    assert told in str(error.value)


def test_a_batch_larger_than_the_loaders_own_limit_is_refused() -> None:
    with pytest.raises(ProtocolMismatch, match="the loader's limit is 64"):
        receiver(X, max_batch_nbytes=64).take(Piece(1, 0, b"", header(X).SerializeToString()), KEY)


def test_a_batch_as_large_as_the_loaders_own_limit_is_taken() -> None:
    assert receiver(X, max_batch_nbytes=96).take(Piece(1, 0, bytes(96), header(X).SerializeToString()), KEY) is not None


# ---- whole batches, as a lane brings them ----


def nothing(_: memoryview) -> None:
    """A body that is whatever was there."""


def test_a_batch_that_follows_its_piece_is_given_memory_of_its_size() -> None:
    received = receiver(X).whole(Piece(1, 0, b"", header(X).SerializeToString()), 96, KEY, nothing)

    assert received.body.shape == (96,)
    assert set(received.arrays()) == {"x", "__ids__"}


def test_a_batch_that_was_placed_stays_where_it_lies() -> None:
    placed = np.arange(96, dtype=np.uint8)

    received = receiver(X).whole(Piece(1, 0, b"", header(X).SerializeToString()), 96, KEY, placed)

    assert received.body is placed


@pytest.mark.parametrize("nbytes", [0, 95, 97])
def test_a_batch_whose_header_and_lane_say_other_lengths_is_refused(nbytes: int) -> None:
    with pytest.raises(ProtocolMismatch, match=f"has 96 bytes; {nbytes} were announced"):
        receiver(X).whole(Piece(1, 0, b"", header(X).SerializeToString()), nbytes, KEY, nothing)


# ---- compressed ----

LONG = Column("x", F4, (4096,))


def compressed(said: list[int] | None = None) -> tuple[Piece, bytes, bytes]:
    """A piece, what follows it, and the body that this stands for."""
    pytest.importorskip("numcodecs")
    layout = tensors.lay_out([("x", F4, (4, 4096)), ("__ids__", I8, (4,))])
    body = np.arange(layout.nbytes // 4, dtype="<i4").view(np.uint8)
    parts = [
        bytes(compression.compress(body[start:stop], 4, METHODS[0])) for _, start, stop in compression.chunks(layout)
    ]
    lengths = compression.write_lengths(said or [len(part) for part in parts])
    piece = Piece(1, 0, b"", tensors.to_header(layout).SerializeToString(), compressed=lengths)
    return piece, b"".join(parts), body.tobytes()


def compressed_receiver(*, asks: bool = True) -> Receiver:
    return Receiver(receiver(LONG)._description, Buffers(0), may_be_compressed=asks)


def test_a_compressed_batch_becomes_what_it_was_by_a_lane_and_in_pieces() -> None:
    piece, source, body = compressed()
    receive = compressed_receiver()

    def incoming(into: memoryview) -> None:
        into[:] = source

    assert receive.whole(piece, len(source), KEY, incoming).body.tobytes() == body
    assert receive.take(replace(piece, data=source[:100]), KEY) is None
    taken = receive.take(Piece(1, 100, source[100:]), KEY)
    assert taken is not None
    assert taken.body.tobytes() == body


def test_a_batch_that_comes_compressed_and_was_not_asked_for_so_is_refused() -> None:
    piece, source, _ = compressed()

    with pytest.raises(ProtocolMismatch, match="which was not asked for"):
        compressed_receiver(asks=False).whole(piece, len(source), KEY, nothing)


@pytest.mark.parametrize("said", [[1 << 40, 32], [32], [65537, 32], [0, 32]], ids=str)
def test_no_memory_is_taken_for_lengths_that_cannot_be(said: list[int]) -> None:
    piece, source, _ = compressed(said)

    for take in (lambda one: one.whole(piece, sum(said), KEY, nothing), lambda one: one.take(piece, KEY)):
        with pytest.raises(ProtocolMismatch):
            take(compressed_receiver())
    assert source


def test_a_compressed_batch_of_another_length_than_its_lane_says_is_refused() -> None:
    piece, source, _ = compressed()

    with pytest.raises(ProtocolMismatch, match="were announced"):
        compressed_receiver().whole(piece, len(source) + 1, KEY, nothing)


def test_a_compressed_batch_that_was_damaged_is_refused() -> None:
    piece, source, _ = compressed()

    with pytest.raises(ProtocolMismatch):
        compressed_receiver().take(replace(piece, data=b"\0" * len(source)), KEY)


def test_of_headers_that_always_differ_no_more_are_remembered_than_of_those_that_repeat() -> None:
    """A loader of varying batches must not fill its trainer's memory with their layouts."""
    words = Column("words", I8, (VARIES,))
    receive = receiver(words)
    for length in range(1, 200):
        fields = [("words", I8, (4, length)), ("__ids__", I8, (4,))]
        wire = tensors.to_header(tensors.lay_out(fields))
        receive.whole(Piece(1, 0, b"", wire.SerializeToString()), wire.nbytes, KEY, nothing)
        assert len(receive._layouts) == (length - 1) % 64 + 1


def test_bytes_that_are_no_header_are_refused() -> None:
    with pytest.raises(ProtocolMismatch, match="3 bytes stand where a batch's header belongs and are none"):
        receiver(X).take(Piece(1, 0, b"", b"\xff\xff\xff"), KEY)


@pytest.mark.parametrize(
    ("start", "nbytes"), [(0, 97), (1, 1), (96, 1), (10_000, 1)], ids=["too long", "a gap", "at the end", "far outside"]
)
def test_a_piece_that_does_not_belong_where_it_says_is_refused(start: int, nbytes: int) -> None:
    piece = Piece(1, start, bytes(nbytes), header(X).SerializeToString())

    with pytest.raises(ProtocolMismatch, match="has 96 bytes of which 0 arrived; a piece came for bytes"):
        receiver(X).take(piece, KEY)


def test_a_piece_that_comes_twice_is_refused() -> None:
    receive = receiver(X)
    receive.take(Piece(1, 0, bytes(50), header(X).SerializeToString()), KEY)

    with pytest.raises(ProtocolMismatch, match=r"50 arrived; a piece came for bytes 0\.\.50"):
        receive.take(Piece(1, 0, bytes(50)), KEY)


def test_a_batch_that_begins_anew_is_the_second_one_whole() -> None:
    """A loader that needed the memory while this trainer did not read assembles it again, and sends all of it."""
    receive = receiver(X)
    receive.take(Piece(1, 0, b"a" * 50, header(X).SerializeToString()), KEY)

    assert receive.take(Piece(1, 0, b"b" * 40, header(X).SerializeToString()), KEY) is None
    received = receive.take(Piece(1, 40, b"b" * 56), KEY)

    assert received is not None
    assert received.body.tobytes() == b"b" * 96


def test_a_piece_without_a_header_or_with_a_second_one_in_the_middle_is_refused() -> None:
    receive = receiver(X)

    with pytest.raises(ProtocolMismatch, match="without a header"):
        receive.take(Piece(1, 0, bytes(50)), KEY)

    receive.take(Piece(1, 0, bytes(50), header(X).SerializeToString()), KEY)
    with pytest.raises(ProtocolMismatch, match=r"of which 0 arrived; a piece came for bytes 50\.\.96"):
        receive.take(Piece(1, 50, bytes(46), header(X).SerializeToString()), KEY)
