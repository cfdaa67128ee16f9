"""Arrays that are mapped: what is asked of the kernel, and how much of it counts as the process' own memory."""

import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import open_memmap

from feedline_server.sources.arrays import mapped
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.mapped import Plain, ask_for, is_large, runs_of
from feedline_server.sources.arrays.resident import Resident, mapped_nbytes
from feedline_server.sources.arrays.stamp import Stamp
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array


def plain(path: Path) -> Plain:
    with open_file(path) as file:
        found = file.stored("x")
    assert isinstance(found, Plain)
    return found


@pytest.fixture(autouse=True)
def _no_array_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that large data need not be large here."""
    monkeypatch.setattr(mapped, "SMALL", 0)


def mapping_of(nbytes: int) -> mmap.mmap:
    return mmap.mmap(-1, nbytes)


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(np.arange(24, dtype="<i4").reshape(4, 3, 2), id="plain"),
        pytest.param(np.arange(24, dtype=">i4").reshape(4, 3, 2), id="big endian"),
        pytest.param(np.asfortranarray(np.arange(24, dtype="<i4").reshape(4, 3, 2)), id="fortran order"),
    ],
)
def test_rows_come_in_the_order_asked_with_repeats_however_they_are_stored(
    tmp_path: Path, stored: Array, large: bool
) -> None:
    np.save(tmp_path / "x.npy", stored)
    out = np.zeros((3, 3, 2), "<i4")

    plain(tmp_path / "x.npy").open(large=large).gather(np.array([3, 1, 3]), out)

    assert out.tolist() == [
        [[18, 19], [20, 21], [22, 23]],
        [[6, 7], [8, 9], [10, 11]],
        [[18, 19], [20, 21], [22, 23]],
    ]


@pytest.mark.parametrize("large", [False, True])
def test_no_rows_are_no_rows(tmp_path: Path, large: bool) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))

    plain(tmp_path / "x.npy").open(large=large).gather(np.zeros(0, np.int64), np.zeros((0, 2)))


def test_a_file_that_changed_between_being_found_and_being_opened_is_refused(tmp_path: Path) -> None:
    """A subject's file is found when the loader starts and mapped when it is first read from, perhaps days later."""
    np.save(tmp_path / "x.npy", np.arange(3))
    found = plain(tmp_path / "x.npy")
    np.save(tmp_path / "new.npy", np.arange(3))
    (tmp_path / "new.npy").replace(tmp_path / "x.npy")

    with pytest.raises(DataError, match=r"x\.npy: changed while served \(another file took its place\)"):
        found.open(large=False)


@pytest.mark.parametrize(
    ("nbytes", "large"), [(1 << 20, False), (512 << 20, False), ((512 << 20) + 1, True), (24 << 30, True)]
)
def test_data_is_large_when_half_the_memory_does_not_hold_it(nbytes: int, large: bool) -> None:
    assert is_large(nbytes, memory_nbytes=1 << 30) is large


class Kernel(mmap.mmap):
    """A mapping that writes down what is asked of the kernel."""

    asked: list[tuple[int, int]]

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        assert option == mmap.MADV_WILLNEED
        self.asked.append((start, length))


@pytest.mark.parametrize(
    ("rows", "runs"),
    [
        ([], []),
        ([7], [(7, 0, 1)]),
        ([0, 1, 2], [(0, 0, 3)]),
        ([2, 1], [(2, 0, 1), (1, 1, 1)]),
        ([4, 4, 5, 9], [(4, 0, 1), (4, 1, 2), (9, 3, 1)]),
    ],
)
def test_rows_that_follow_each_other_are_a_run(rows: list[int], runs: list[tuple[int, int, int]]) -> None:
    assert runs_of(np.array(rows, np.int64)) == runs


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([], []),
        ([0], [(0, 100 + 3000)]),
        ([2], [(4096, 6100 - 4096 + 3000)]),
        ([0, 1, 2], [(0, 100 + 9000)]),
        ([2, 1], [(4096, 2004 + 3000), (0, 3100 + 3000)]),
    ],
)
def test_the_kernel_is_asked_for_whole_pages_of_every_run(rows: list[int], asked: list[tuple[int, int]]) -> None:
    mapping = Kernel(-1, 1 << 16)
    mapping.asked = []

    ask_for(mapping, 100, 3000, runs_of(np.array(rows, np.int64)))

    assert mapping.asked == asked


def test_the_kernel_is_asked_for_no_more_at_once_than_it_reads() -> None:
    """It cuts a request to what the device reads ahead, by default 128 KiB, and drops the rest without a word."""
    mapping = Kernel(-1, 1 << 20)
    mapping.asked = []

    ask_for(mapping, 100, 3000, runs_of(np.arange(100)))

    assert mapping.asked == [(0, 131072), (131072, 131072), (262144, 100 + 300_000 - 262144)]


@pytest.mark.parametrize("dtype", ["<i4", ">i4"])
def test_of_large_data_whole_pages_are_read_and_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    np.save(tmp_path / "x.npy", np.repeat(np.arange(40, dtype=dtype), 512).reshape(40, 512))  # 2 KiB a row
    reads: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr("os.preadv", lambda fd, views, at: (reads.append(len(views[0])), preadv(fd, views, at))[1])
    rows = plain(tmp_path / "x.npy").open(large=True)
    out = np.zeros((5, 512), "<i4")

    rows.gather(np.array([39, 7, 9, 11, 13]), out)
    scattered, values = list(reads), out[:, 511].tolist()
    rows.gather(np.array([20, 21, 22, 5, 6]), out)

    assert (scattered, values) == ([], [39, 7, 9, 11, 13])
    assert (reads, out[:, 511].tolist()) == ([3 * 2048, 2 * 2048], [20, 21, 22, 5, 6])


def test_a_read_that_comes_in_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives at most 2 GiB at once, and a signal may end it earlier."""
    np.save(tmp_path / "x.npy", np.arange(4096).reshape(4, 1024))
    preadv = os.preadv
    monkeypatch.setattr("os.preadv", lambda fd, views, at: preadv(fd, [views[0][:1000]], at))
    out = np.zeros((2, 1024), np.int64)

    plain(tmp_path / "x.npy").open(large=True).gather(np.array([3, 1]), out)

    assert out.tolist() == [list(range(3072, 4096)), list(range(1024, 2048))]


def test_a_row_that_the_disk_cannot_read_is_a_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1024)))

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.preadv", fails)

    with pytest.raises(BadSample, match=r"x\.npy: rows 2\.\.3 cannot be read \(Input/output error\)") as caught:
        plain(tmp_path / "x.npy").open(large=True).gather(np.array([2, 3, 0]), np.zeros((3, 1024)))

    assert caught.value.samples == (2, 3)


def test_a_file_cut_in_the_middle_of_a_gather_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1024)))
    rows = plain(tmp_path / "x.npy").open(large=True)
    monkeypatch.setattr(Stamp, "check", lambda stamp, fd: os.truncate(stamp.path, 4000))

    with pytest.raises(DataError, match=r"x\.npy: changed while served \(it was cut\)"):
        rows.gather(np.array([1]), np.zeros((1, 1024)))


def test_nothing_stays_open_of_an_array_that_nobody_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1024)))
    before = len(list(Path("/proc/self/fd").iterdir()))

    rows = plain(tmp_path / "x.npy").open(large=True)
    rows.gather(np.array([1]), np.zeros((1, 1024)))
    del rows

    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- memory ---------------------------------------------------------------------------------------------------------


def resident_nbytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * mmap.PAGESIZE


def test_what_was_read_of_a_file_is_let_go_of_when_it_is_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_memmap(tmp_path / "x.npy", "w+", np.uint8, (1 << 20, 1 << 10)).flush()  # rows smaller than a page
    limit = 16 << 20
    monkeypatch.setattr("feedline_server.sources.arrays.mapped.RESIDENT", Resident(limit))
    rows = plain(tmp_path / "x.npy").open(large=True)
    out = np.zeros((64, 1 << 10), np.uint8)
    ids = np.random.default_rng(0).permutation(1 << 20)
    rows.gather(ids[:64], out)
    before = resident_nbytes()

    most = 0
    for first in range(64, 64 * 400, 64):  # in 25,000 pages, or 100 MB
        rows.gather(ids[first : first + 64], out)
        most = max(most, resident_nbytes() - before)

    assert most < 2 * limit


class Letting(mmap.mmap):
    """A mapping that counts how often it is let go of."""

    count = 0

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        assert (option, start, length) == (mmap.MADV_DONTNEED, 0, 0)
        self.count += 1


def test_files_that_fit_the_limit_together_are_never_let_go_of_and_nothing_is_measured() -> None:
    def measure() -> int:
        raise AssertionError("measured")

    resident = Resident(1 << 20, measure)
    labels, weights = Letting(-1, 1 << 19), Letting(-1, 1 << 19)

    for _ in range(1000):
        resident.touched(labels, 512, 64)
        resident.touched(weights, 512, 64)

    assert labels.count == weights.count == 0


def test_it_is_measured_only_when_the_worst_is_more_than_the_limit_and_libraries_do_not_count() -> None:
    """100 MiB of libraries: what is mapped beside them grows to 30, then to 50 of 40 allowed, then again to 20."""
    measured = [mib << 20 for mib in (30, 150, 100, 120)]
    asked: list[int] = []

    def measure() -> int:
        asked.append(measured[len(asked)])
        return asked[-1]

    resident = Resident(40 << 20, measure)
    x = Letting(-1, 1 << 30)
    seen = []
    for places in (20, 1, 4, 1, 19, 2):  # of 2 MiB each at worst
        resident.touched(x, 0, places)
        seen.append((len(asked), x.count))

    assert seen == [(0, 0), (1, 0), (1, 0), (1, 0), (3, 1), (3, 1)]


def test_a_mapping_that_is_gone_is_not_kept_by_being_counted() -> None:
    resident = Resident(1 << 30)
    mapping = mapping_of(1 << 20)
    resident.touched(mapping, 1 << 20, places=1)
    gone = weakref.ref(mapping)

    del mapping

    assert gone() is None


def test_what_is_mapped_is_the_kernels_own_number(tmp_path: Path) -> None:
    before = mapped_nbytes()
    np.save(tmp_path / "x.npy", np.ones((64, 1 << 20), np.uint8))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")

    assert int(x.sum()) == 64 << 20
    assert mapped_nbytes() - before >= 64 << 20
