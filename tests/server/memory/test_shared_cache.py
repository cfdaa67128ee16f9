"""The cache that workers share: one writes, others read or wait; what is overwritten is noticed; no death locks it."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest

from feedline_server.memory import shared_cache
from feedline_server.memory.shared_cache import Entry, SharedCache, new_memory

CAPACITY = 1024


def key(number: int) -> np.uint64:
    return np.uint64(number)


@pytest.fixture
def fd() -> Iterator[int]:
    fd = new_memory(CAPACITY)
    yield fd
    os.close(fd)


@pytest.fixture
def cache(fd: int) -> SharedCache:
    return SharedCache(fd)


def put(cache: SharedCache, number: int, nbytes: int = 256) -> Entry:
    entry = cache.find(key(number), nbytes)
    assert entry is not None
    assert entry.is_own
    entry.memory[:] = number
    cache.publish(entry, nbytes, 1)
    return entry


def found(cache: SharedCache, number: int) -> int | None:
    """The value of an entry that is ready."""
    entry = cache.find(key(number), 64)
    if entry is None or not entry.is_ready:
        if entry is not None and entry.is_own:
            cache.abandon(entry)
        return None
    assert entry.head == bytes([number])
    return int(entry.memory[-1])


def test_what_is_written_is_found_by_every_mapping_of_the_memory(fd: int, cache: SharedCache) -> None:
    put(cache, 7)

    assert found(SharedCache(fd), 7) == 7
    assert found(SharedCache(fd), 8) is None


def test_the_oldest_make_room(cache: SharedCache) -> None:
    entries = [put(cache, number) for number in range(1, 6)]

    assert [found(cache, number) for number in range(2, 6)] == [2, 3, 4, 5]
    assert [cache.is_there(entry) for entry in entries] == [False, True, True, True, True]


def test_entries_of_any_size_never_overlap(cache: SharedCache) -> None:
    random = np.random.default_rng(3)
    kept: dict[int, Entry] = {}

    for number in range(1, 200):
        kept[number] = put(cache, number, int(random.integers(1, 500)))
        kept = {old: entry for old, entry in kept.items() if cache.is_there(entry)}

        assert number in kept
        assert all((entry.memory[: entry.memory.size] == old).all() for old, entry in kept.items())


def test_what_is_larger_than_all_has_no_room(cache: SharedCache) -> None:
    assert cache.find(key(1), CAPACITY + 1) is None
    assert put(cache, 1, CAPACITY).memory.size == CAPACITY


def test_what_was_reserved_too_much_is_for_the_next(cache: SharedCache) -> None:
    for number in range(1, 5):
        entry = cache.find(key(number), 512)
        assert entry is not None
        entry.memory[:] = number
        cache.publish(entry, 128, 1)

    assert [found(cache, number) for number in range(1, 5)] == [1, 2, 3, 4]


def test_what_is_abandoned_is_written_by_the_next_who_wants_it(cache: SharedCache) -> None:
    entry = cache.find(key(1), 64)
    assert entry is not None
    cache.abandon(entry)

    put(cache, 1)

    assert found(cache, 1) == 1


def test_more_entries_than_slots_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "SLOTS", 4)
    monkeypatch.setattr(shared_cache, "HEAD_NBYTES", 8 * (4 * len(shared_cache.FIELDS) + shared_cache.ALIGNED))
    fd = new_memory(CAPACITY)
    cache = SharedCache(fd)

    for number in range(1, 8):
        put(cache, number, 64)

    assert [found(cache, number) for number in range(4, 8)] == [4, 5, 6, 7]
    os.close(fd)


WRITER = """
    import sys
    import numpy as np
    from feedline_server.memory.shared_cache import SharedCache
    cache = SharedCache(int(sys.argv[1]))
    entry = cache.find(np.uint64(1), 256)
    print(entry.is_own, flush=True)
    sys.stdin.readline()
    entry.memory[:] = 1
    cache.publish(entry, 256, 1)
    print("written", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(fd: int) -> Iterator[subprocess.Popen[str]]:
    """Another process, which is in the middle of writing the entry 1."""
    writing = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
    )
    with writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "True\n"
        yield writing
        writing.kill()


def test_what_another_process_writes_is_waited_for(cache: SharedCache, writer: subprocess.Popen[str]) -> None:
    entry = cache.find(key(1), 256)
    assert entry is not None
    assert (entry.is_own, entry.is_ready) == (False, False)

    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()
    cache.wait(entry)

    assert found(cache, 1) == 1


def test_what_another_process_is_writing_is_not_overwritten(cache: SharedCache, writer: subprocess.Popen[str]) -> None:
    put(cache, 2, 512)

    assert cache.find(key(3), 512) is None  # its place is that of 1

    writer.send_signal(signal.SIGKILL)
    writer.wait()
    put(cache, 3, 512)
    assert found(cache, 3) == 3


def test_what_a_process_did_not_finish_is_written_by_another(cache: SharedCache, writer: subprocess.Popen[str]) -> None:
    entry = cache.find(key(1), 256)
    assert entry is not None
    writer.send_signal(signal.SIGKILL)
    cache.wait(entry)

    put(cache, 1)

    assert found(cache, 1) == 1
