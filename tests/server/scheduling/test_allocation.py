"""Who gets memory of the arena: its books, one step at a time."""

import threading
from collections.abc import Iterator

import pytest

from feedline_server.memory.arena import GRAIN, Arena, Slot
from feedline_server.scheduling.allocation import Allocator
from feedline_server.scheduling.cache import BatchCache
from feedline_server.scheduling.stream import Stream, Want
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

NOW = 100.0
LAYOUT = Layout((), 10)


def a_key(offset: int) -> Key:
    return Key("numbers", b"f", "train", "sequential", 0, 0, offset, 1)


class Books:
    """An allocator of four grains, and streams."""

    def __init__(self) -> None:
        self.arena = Arena(4 * GRAIN)
        self.cache = BatchCache(2 * GRAIN)
        self.allocator = Allocator(self.arena, self.cache)
        self.one, self.two = (Stream(peer, threading.Condition()) for peer in ("one", "two"))

    def want(self, stream: Stream, grains: int) -> Want:
        """A key that is the stream's next."""
        stream.waiting.append(Want(1, a_key(0), grains * GRAIN, 0.0))
        return stream.waiting[-1]

    def allocate(self, stream: Stream, want: Want) -> Slot | None:
        return self.allocator.allocate(stream, want, [self.one, self.two], NOW, in_place=False)


@pytest.fixture
def books() -> Iterator[Books]:
    books = Books()
    yield books
    books.arena.close()


def test_memory_is_short_from_the_first_key_that_has_none_until_it_has_some(books: Books) -> None:
    held = books.allocate(books.one, books.want(books.one, 3))
    assert held is not None
    assert not books.allocator.is_short

    want = books.want(books.two, 2)
    assert books.allocate(books.two, want) is None
    assert books.allocator.is_short
    assert "reserved=Slot(start=8192, nbytes=8192, memory=0)" in repr(books.allocator)

    books.allocator.release(books.one, held)
    assert books.allocate(books.two, want) == Slot(0, 2 * GRAIN)
    assert not books.allocator.is_short


def test_what_a_stream_holds_is_counted_also_where_it_shares(books: Books) -> None:
    slot = books.allocate(books.one, books.want(books.one, 2))
    assert slot is not None
    books.allocator.share(books.two, slot)
    assert (books.one.held_nbytes, books.two.held_nbytes) == (2 * GRAIN, 2 * GRAIN)

    books.allocator.release(books.one, slot)
    assert (books.one.held_nbytes, books.arena.allocated_nbytes) == (0, 2 * GRAIN)

    books.allocator.release(books.two, slot)
    assert (books.two.held_nbytes, books.arena.allocated_nbytes) == (0, 0)


def test_a_slot_that_is_kept_counts_for_no_stream_and_its_next_reader_frees_it_again(books: Books) -> None:
    for key in (a_key(0), a_key(0), a_key(1)):
        books.cache.note_request(key)  # so keys of this family are shared
    slot = books.allocate(books.one, books.want(books.one, 1))
    assert slot is not None
    books.cache.put(a_key(1), slot, LAYOUT)

    books.allocator.release(books.one, slot)
    assert (books.allocator.kept_nbytes, books.one.held_nbytes, books.arena.allocated_nbytes) == (GRAIN, 0, GRAIN)

    found = books.allocator.find(a_key(1))
    assert found is not None
    books.allocator.share(books.two, found.slot)
    books.cache.note_request(a_key(1))
    assert books.allocator.kept_nbytes == 0

    books.allocator.release(books.two, slot)
    assert (books.allocator.kept_nbytes, books.arena.allocated_nbytes) == (0, 0)
    assert books.allocator.find(a_key(1)) is None
