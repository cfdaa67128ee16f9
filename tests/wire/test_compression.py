"""What stands for a body becomes that body, byte for byte; whatever else arrives is refused and takes no memory."""

import contextlib
import importlib.util
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedline_wire import compression, tensors
from feedline_wire.compression import CHUNK_NBYTES, METHODS, Method
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.extras import ExtraMissing
from feedline_wire.lane import Compression
from feedline_wire.tensors import Array, Layout

pytest.importorskip("numcodecs", reason="the extra `compression` is not installed")

DTYPES = ("bool", "uint8", "int16", "float16", "int32", "float32", "int64", "float64", "complex64", "complex128")


def body_of(layout: Layout, seed: int) -> Array:
    drawn = np.random.default_rng(seed)
    body = np.zeros(layout.nbytes, np.uint8)
    for array in layout.arrays:
        numbers = drawn.integers(0, 100, max(array.nbytes // array.dtype.itemsize, 0))
        body[array.offset : array.offset + array.nbytes] = numbers.astype(array.dtype).view(np.uint8)
    return body


def standing_for(layout: Layout, body: Array, method: Method) -> tuple[bytes, list[int]]:
    itemsizes = {array.name: array.dtype.itemsize for array in layout.arrays}
    parts = [
        bytes(compression.compress(body[start:stop], itemsizes[name], method))
        for name, start, stop in compression.chunks(layout)
    ]
    return b"".join(parts), [len(part) for part in parts]


@pytest.mark.parametrize("method", METHODS)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 3000)), min_size=1, max_size=4), st.integers(0, 9))
def test_what_stands_for_a_body_becomes_it(method: Method, columns: list[tuple[str, int]], seed: int) -> None:
    layout = tensors.lay_out((str(at), np.dtype(dtype), (rows,)) for at, (dtype, rows) in enumerate(columns))
    body = body_of(layout, seed)

    source, lengths = standing_for(layout, body, method)
    found = np.full(layout.nbytes, 0xFF, np.uint8)
    compression.read_body(
        memoryview(source), compression.read_lengths(compression.write_lengths(lengths), layout), layout, found
    )

    assert found.tobytes() == body.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_an_array_of_several_chunks_that_compresses_takes_less(method: Method) -> None:
    layout = tensors.lay_out([("x", np.dtype("<i4"), (3 * CHUNK_NBYTES // 4 + 5,))])
    body = body_of(layout, 0)

    source, lengths = standing_for(layout, body, method)

    assert len(lengths) == 4
    assert lengths[-1] == 20  # too short to be worth a call
    assert len(source) < layout.nbytes / 2


def test_noise_stands_for_itself() -> None:
    layout = tensors.lay_out([("x", np.dtype("u1"), (50_000,))])
    body = np.frombuffer(np.random.default_rng(0).bytes(50_000), np.uint8)

    source, lengths = standing_for(layout, body, METHODS[0])

    assert (source, lengths) == (body.tobytes(), [50_000])


LAYOUT = tensors.lay_out([("x", np.dtype("<i4"), (2000,)), ("y", np.dtype("<i8"), (3,))])


@pytest.mark.parametrize("lengths", [[], [100], [100, 24, 1], [0, 24], [8001, 24], [100, 25], [2**60, 24]], ids=str)
def test_lengths_that_cannot_be_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ProtocolMismatch):
        compression.read_lengths(compression.write_lengths(lengths), LAYOUT)


def test_arrays_that_overlap_stand_for_no_more_than_the_body() -> None:
    """A header of many columns that all lie on the same bytes is well-formed, and would ask for memory many times."""
    x = tensors.Placed("x", np.dtype("<i4"), (2000,), 0)
    layout = Layout((x, x, x), 8000)

    with pytest.raises(ProtocolMismatch):
        compression.read_lengths(compression.write_lengths([8000, 8000, 8000]), layout)


def buffer(nbytes: int = 8000) -> bytearray:
    """What stands for so many bytes."""
    return bytearray(compression.compress(np.zeros(nbytes, np.uint8), 4, METHODS[0]))


@pytest.mark.parametrize(
    ("at", "value"),
    [(4, 2**31 - 1), (4, 7999), (8, 2**31 - 1), (8, 0), (12, 2**31 - 1), (12, 15)],
    ids=["a bomb", "of fewer", "of one huge block", "of no block", "longer than it is", "shorter"],
)
def test_a_buffer_whose_header_lies_is_refused(at: int, value: int) -> None:
    source = buffer()
    struct.pack_into("<I", source, at, value)
    tracemalloc.start()

    with pytest.raises(ProtocolMismatch):
        compression.decompress(memoryview(source), np.zeros(8000, np.uint8))

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.parametrize("nbytes", [0, 1, 15, 16, 17])
def test_a_buffer_that_was_cut_is_refused(nbytes: int) -> None:
    with pytest.raises(ProtocolMismatch):
        compression.decompress(memoryview(buffer()[:nbytes]), np.zeros(8000, np.uint8))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(16, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_buffer_with_other_bytes_in_it_is_read_as_something_or_refused(
    method: Method, changes: list[tuple[int, int]]
) -> None:
    chunk = body_of(tensors.lay_out([("x", np.dtype("<i4"), (2000,))]), 1)
    source = bytearray(compression.compress(chunk, 4, method))
    for at, byte in changes:
        source[16 + at % (len(source) - 16)] = byte
    guarded = np.zeros(8000 + 128, np.uint8)

    with contextlib.suppress(ProtocolMismatch):
        compression.decompress(memoryview(source), guarded[64:-64])

    assert not guarded[:64].any()
    assert not guarded[-64:].any()


@pytest.mark.parametrize(
    ("said", "is_encrypted", "may"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("encrypted", True, True),
        ("encrypted", False, True),
        ("off", False, False),
        ("off", True, False),
    ],
)
def test_under_encryption_it_has_to_be_asked_for(said: Compression, is_encrypted: bool, may: bool) -> None:
    assert compression.may_be_compressed(said, is_encrypted=is_encrypted) == may


def test_a_trainer_that_asks_for_what_is_not_installed_is_told_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    compression.is_installed.cache_clear()

    for said in ("auto", "encrypted"):
        with pytest.raises(ExtraMissing, match=r"needs numcodecs.*install with: pip install .*compression"):
            compression.check(said)
    compression.check("off")
    assert not compression.may_be_compressed("auto", is_encrypted=False)

    monkeypatch.undo()
    compression.is_installed.cache_clear()
