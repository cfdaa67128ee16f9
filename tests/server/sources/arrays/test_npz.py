"""Archives of arrays: members that lie plainly are mapped where they are, others are decompressed; and damaged ones."""

import io
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.sources.arrays import npz
from feedline_server.sources.arrays.content import COLUMN
from feedline_server.sources.arrays.decompressed import Decoded
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.npz import Deflated, NpzFile
from feedline_server.sources.arrays.stored import Stored, costs
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array


def stored(path: Path, name: str) -> Stored:
    with NpzFile(path) as file:
        return file.stored(name)


def rows(array: Stored, *wanted: int) -> Array:
    out = np.zeros((len(wanted), *array.header.shape[1:]), array.header.dtype.newbyteorder("<"))
    array.open(large=False).gather(np.array(wanted), out)
    return out


def npy_bytes(array: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """`x`: row i is all i (float32, 2 x 3); `y`: 100 + i; six of them."""
    path = tmp_path / "s01.npz"
    np.savez(path, x=np.repeat(np.arange(6, dtype=np.float32), 6).reshape(6, 2, 3), y=np.arange(100, 106))
    return path


# ---- members --------------------------------------------------------------------------------------------------------


def test_members_are_mapped_where_they_lie(archive: Path) -> None:
    array = stored(archive, "x")

    assert isinstance(array, Plain)
    assert rows(array, 5, 0, 5)[:, 1, 2].tolist() == [5, 0, 5]
    assert archive.read_bytes()[array.header.offset :][: array.header.nbytes] == np.load(archive)["x"].tobytes()


@pytest.mark.parametrize("shift", range(8))
def test_a_member_may_begin_anywhere_in_the_file(tmp_path: Path, shift: int) -> None:
    """An archive aligns nothing: a name one letter longer moves all that follows."""
    path = tmp_path / "a.npz"
    np.savez(path, **{"a" * (shift + 1): np.zeros(1, np.int8), "x": np.arange(12.0).reshape(6, 2)})

    assert rows(stored(path, "x"), 4, 1).tolist() == [[8, 9], [2, 3]]


def test_a_directory_is_found_below_a_comment(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = b"recorded on a Tuesday"

    assert rows(stored(archive, "y"), 5).tolist() == [105]


def test_an_archive_behind_other_bytes_is_read_where_it_is(archive: Path) -> None:
    archive.write_bytes(b"#!/bin/sh\n" + archive.read_bytes())

    assert rows(stored(archive, "y"), 5, 1).tolist() == [105, 101]


def test_members_in_fortran_order_and_big_endian_arrive_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.asfortranarray(np.arange(12, dtype=">i4").reshape(6, 2)))

    assert rows(stored(path, "x"), 4, 1).tolist() == [[8, 9], [2, 3]]


def test_what_is_no_array_in_an_archive_is_left_alone(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("README.txt", "hello")

    with NpzFile(archive) as opened:
        assert opened.names == ("x", "y")


def test_a_member_is_read_whole_with_its_checksum(archive: Path) -> None:
    with NpzFile(archive) as file:
        assert file.read("y", lambda header: None).tolist() == [100, 101, 102, 103, 104, 105]


def test_a_name_that_looks_like_a_path_is_only_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../etc/x.npy", npy_bytes(np.arange(3)))

    assert rows(stored(path, "../../etc/x"), 2).tolist() == [2]
    assert [found.name for found in tmp_path.iterdir()] == ["a.npz"]


# ---- compressed members ---------------------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    path = tmp_path / "c.npz"
    np.savez_compressed(path, x=np.arange(3000.0).reshape(1000, 3), y=np.arange(1000))
    return path


def test_compressed_members_give_the_same_rows(compressed: Path) -> None:
    array = stored(compressed, "x")

    assert isinstance(array, Deflated)
    assert rows(array, 999, 0).tolist() == [[2997, 2998, 2999], [0, 1, 2]]


def test_a_compressed_member_is_decompressed_where_it_stays(tmp_path: Path) -> None:
    """Step by step: twice its bytes would be there for a moment, and are as dear to touch as to decompress."""
    noise = np.random.default_rng(0).integers(0, 1 << 30, 20 * npz.STEP_NBYTES // 8 + 7)
    np.savez_compressed(tmp_path / "n.npz", x=noise)

    with NpzFile(tmp_path / "n.npz") as file:
        tracemalloc.start()
        try:
            found = file.read("x", lambda header: None)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert np.array_equal(found, noise)
    assert noise.nbytes <= most < 1.5 * noise.nbytes


def test_a_compressed_member_is_decompressed_once_while_it_fits(
    compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "DECODED", Decoded(limit=30_000))
    reads: list[str] = []
    read = NpzFile.read
    monkeypatch.setattr(NpzFile, "read", lambda file, name, accept: (reads.append(name), read(file, name, accept))[1])
    x, y = (stored(compressed, name).open(large=False) for name in ("x", "y"))

    for name in "xxxyyx":  # x takes 24,000 bytes, y 8,000: both do not fit
        array, out = (x, np.zeros((1, 3))) if name == "x" else (y, np.zeros(1, np.int64))
        array.gather(np.array([7]), out)

    assert reads == ["x", "y", "x"]
    assert npz.DECODED.nbytes == 24_000


def test_a_compressed_member_too_large_to_keep_is_refused_with_a_remedy(
    compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "DECODED", Decoded(limit=20_000))

    with pytest.raises(DataError, match=r"c\.npz:x: is compressed and takes 0 MiB .*numpy\.savez, without _compressed"):
        stored(compressed, "x")


def test_the_operator_is_told_what_compressed_members_cost(compressed: Path, archive: Path) -> None:
    arrays = [stored(compressed, "x"), stored(compressed, "y"), stored(archive, "x")]

    (told,) = costs(arrays)

    assert told.startswith(
        f"{compressed}:x and 1 more are (0 MiB) compressed: all of an array is decompressed to read any row of it"
    )
    assert "`feedline convert` writes columns" in told


# ---- identity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_archive_written_again_has_the_same_content_and_one_with_other_values_another(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives hold the time at which they were written."""

    def content(x: Array) -> list[bytes]:
        write(tmp_path / "a.npz", x=x)
        return list(stored(tmp_path / "a.npz", "x").content(COLUMN))

    first = content(np.arange(5))
    monkeypatch.setattr("time.localtime", lambda *_: (1999, 1, 1, 1, 1, 1, 0, 1, 0))

    assert content(np.arange(5)) == first
    assert content(np.arange(1, 6)) != first
    assert content(np.arange(5.0)) != first


# ---- archives that are wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "is empty (0 bytes); wanted an .npz file"),
        (lambda whole: b"hello, world" * 10, "is cut short or no .npz file (File is not a zip file)"),
        (lambda whole: whole[:-30], "is cut short or no .npz file (File is not a zip file)"),
    ],
)
def test_a_damaged_archive_is_refused_when_it_is_opened(archive: Path, damage: Any, problem: str) -> None:
    archive.write_bytes(damage(archive.read_bytes()))

    with pytest.raises(DataError, match=re.escape(str(archive)) + ".*" + re.escape(problem)):
        stored(archive, "y")


def test_a_member_that_is_not_where_the_directory_says_is_refused(archive: Path) -> None:
    whole = bytearray(archive.read_bytes())
    whole[0:4] = b"XXXX"
    archive.write_bytes(whole)

    with pytest.raises(DataError, match=r"member 'x\.npy' is not where the directory says"):
        stored(archive, "x")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_found_when_a_member_is_read_whole(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    write(path, x=np.arange(1000))
    whole = bytearray(path.read_bytes())
    whole[-300] ^= 1  # in the member's last bytes, before the directory
    path.write_bytes(whole)

    with NpzFile(path) as file, pytest.raises(DataError, match=r"a\.npz:x: is damaged"):
        file.read("x", lambda header: None)


def test_a_compressed_member_that_is_damaged_is_a_bad_sample(compressed: Path) -> None:
    start = stored(compressed, "x").header.offset
    whole = bytearray(compressed.read_bytes())
    whole[start + 500 : start + 600] = bytes(100)
    compressed.write_bytes(whole)
    array = stored(compressed, "x")

    with pytest.raises(BadSample, match=r"c\.npz:x: is damaged") as caught:
        rows(array, 7, 8)

    assert caught.value.samples == (7, 8)


def test_an_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}], dtype=object))

    with pytest.raises(DataError, match=r"a\.npz:x: holds Python objects, which are never unpickled"):
        stored(tmp_path / "a.npz", "x")


def test_strings_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array(["a", "b"]))

    with pytest.raises(DataError, match=r"a\.npz:x: dtype <U1 cannot be served"):
        stored(tmp_path / "a.npz", "x")


def test_an_array_that_is_not_there_is_refused_with_what_is(archive: Path) -> None:
    with pytest.raises(DataError, match=r"s01\.npz: has no array 'z'; it has x, y"):
        stored(archive, "z")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("x.npy", npy_bytes(np.arange(3)))

    with pytest.raises(DataError, match=r"has two members named 'x\.npy'"):
        stored(archive, "y")


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    whole = bytearray(archive.read_bytes())
    directory = whole.index(b"PK\x01\x02")
    whole[directory + 8] |= 1  # the flags of the first entry
    archive.write_bytes(whole)

    with pytest.raises(DataError, match=r"member 'x\.npy' is encrypted"):
        stored(archive, "x")


def test_a_header_that_claims_more_than_the_member_has_is_refused(tmp_path: Path) -> None:
    whole = npy_bytes(np.arange(3)).replace(b"(3,)", b"(9,)")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", whole)
        file.writestr("y.npy", npy_bytes(np.arange(1000)))  # so that the file would be long enough

    with pytest.raises(DataError, match=r"a\.npz:x: is cut short, 24 bytes of data where int64\(9\) has 72"):
        stored(tmp_path / "a.npz", "x")


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.npz: cannot be read \(No such file or directory\); wanted an \.npz file"):
        stored(tmp_path / "a.npz", "x")
