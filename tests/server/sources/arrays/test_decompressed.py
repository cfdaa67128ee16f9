"""Decoded pieces: decoded once for all that share, used again if they were overwritten, never wrong."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from feedline_server.memory.shared_cache import SharedCache, new_memory
from feedline_server.sources.arrays import decompressed
from feedline_server.sources.arrays.decompressed import Arrays, Decoded, Piece, key_of
from feedline_wire.errors import BadSample


class Pieces:
    """Pieces of one array each, whose values are the number of the piece; counts what is decoded and used."""

    def __init__(self) -> None:
        self.decoded: list[int] = []
        self.used: list[float] = []

    def __getitem__(self, number: int) -> Piece:
        def decode() -> Arrays:
            self.decoded.append(number)
            return {"=x": np.full((4, 3), number, np.float32).T, "?x": np.array([True, False, True])}

        return Piece(key_of("a", number), 60, decode, self.use)

    def use(self, arrays: Arrays) -> None:
        assert arrays["?x"].tolist() == [True, False, True]
        assert arrays["=x"].shape == (3, 4)
        self.used.append(float(arrays["=x"][2, 3]))


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Decoded]]:
    """Makes a process' cache, of all that share the same memory; five pieces have room in it."""
    monkeypatch.setattr(decompressed, "HEAD_NBYTES", 256)
    fd = new_memory(5 * 256)

    def sharing() -> Decoded:
        made = Decoded(limit=1 << 20)
        made.share(SharedCache(fd))
        return made

    yield sharing
    os.close(fd)


def test_what_one_has_decoded_all_use(shared: Callable[[], Decoded]) -> None:
    one, other, pieces = shared(), shared(), Pieces()

    one.use([pieces[1], pieces[2]])
    other.use([pieces[2], pieces[3], pieces[1]])

    assert pieces.decoded == [1, 2, 3]
    assert pieces.used == [1, 2, 2, 3, 1]
    assert one.nbytes == 0


def test_what_was_seen_is_not_looked_up_again_and_decoded_again_when_it_has_gone(shared: Callable[[], Decoded]) -> None:
    one, other, pieces = shared(), shared(), Pieces()
    one.use([pieces[1]])
    one.use([pieces[1]])  # from now on it knows the place

    other.use([pieces[number] for number in range(2, 12)])
    one.use([pieces[1], pieces[11]])

    assert pieces.decoded == [*range(1, 12), 1]
    assert pieces.used[-2:] == [1, 11]


def test_the_oldest_is_decoded_again(shared: Callable[[], Decoded]) -> None:
    one, pieces = shared(), Pieces()

    for number in range(1, 12):
        one.use([pieces[number]])
    one.use([pieces[11], pieces[1]])

    assert pieces.decoded == [*range(1, 12), 1]


def test_what_is_overwritten_while_it_is_used_is_used_again(shared: Callable[[], Decoded]) -> None:
    one, other, pieces = shared(), shared(), Pieces()
    one.use([pieces[1]])
    seen: list[float] = []

    def slow(arrays: Arrays) -> None:
        if not seen:
            other.use([pieces[number] for number in range(2, 12)])
        seen.append(float(arrays["=x"][0, 0]))

    one.use([Piece(key_of("a", 1), 60, pieces[1].decode, slow)])

    assert len(seen) == 2
    assert seen[1] == 1


def test_an_error_about_what_was_overwritten_is_none(shared: Callable[[], Decoded]) -> None:
    """A null of another group must be no bad sample of this one."""
    one, other, pieces = shared(), shared(), Pieces()
    one.use([pieces[1]])
    tried: list[int] = []

    def refusing(arrays: Arrays) -> None:
        if not tried:
            tried.append(1)
            other.use([pieces[number] for number in range(2, 12)])
            raise BadSample("null", samples=[1])

    one.use([Piece(key_of("a", 1), 60, pieces[1].decode, refusing)])

    with pytest.raises(BadSample):
        one.use([Piece(key_of("a", 11), 60, pieces[11].decode, lambda arrays: (_ for _ in ()).throw(BadSample("x")))])


def test_what_cannot_be_decoded_is_tried_again_by_the_next(shared: Callable[[], Decoded]) -> None:
    one, other, pieces = shared(), shared(), Pieces()

    def broken() -> Arrays:
        raise BadSample("damaged", samples=[3])

    with pytest.raises(BadSample):
        one.use([Piece(key_of("a", 1), 60, broken, pieces.use)])
    other.use([pieces[1]])

    assert pieces.decoded == [1]


def test_what_has_no_room_is_used_all_the_same(shared: Callable[[], Decoded]) -> None:
    one, pieces = shared(), Pieces()

    one.use([Piece(key_of("a", 1), 1 << 20, pieces[1].decode, pieces.use)])
    one.use([Piece(key_of("a", 1), 0, pieces[1].decode, pieces.use)])  # larger than was said

    assert pieces.used == [1, 1]


def test_keys_that_are_alike_for_half_of_their_bytes_are_two(shared: Callable[[], Decoded]) -> None:
    one, pieces = shared(), Pieces()

    one.use([Piece(b"12345678" + b"a" * 8, 60, pieces[1].decode, pieces.use)])
    one.use([Piece(b"12345678" + b"b" * 8, 60, pieces[2].decode, pieces.use)])

    assert pieces.used == [1, 2]
