"""HDF5 files: datasets mapped where they lie or read in chunks, columns of them, and everything that is refused."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Hdf5Config
from feedline_server.host import machine
from feedline_server.sources.arrays import decompressed, hdf5, hdf5_chunks
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.arrays.decompressed import Decoded
from feedline_server.sources.arrays.hdf5 import Chunked, H5File
from feedline_server.sources.arrays.hdf5_chunks import PlainChunks
from feedline_server.sources.arrays.mapped import Plain
from feedline_server.sources.arrays.stored import Stored
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array


def opened(path: Path, **declared: Any) -> Dataset:
    return open_dataset("d", Hdf5Config.declare(path=path, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def stored(path: Path, name: str) -> Stored:
    with H5File(path) as file:
        return file.stored(name)


def rows(array: Stored, *wanted: int) -> Array:
    out = np.zeros((len(wanted), *array.header.shape[1:]), array.header.dtype.newbyteorder("<"))
    array.open(large=False).gather(np.array(wanted, np.int64), out)
    return out


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """12 samples in two datasets: x[i] is all i (float32, 2 x 3), y[i] is 100 + i (int64)."""
    path = tmp_path / "h5" / "scans.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["x"] = np.repeat(np.arange(12, dtype=np.float32), 6).reshape(12, 2, 3)
        file["y"] = np.arange(100, 112)
    return path


# ---- datasets that lie plainly --------------------------------------------------------------------------------------


@pytest.mark.parametrize("userblock", [0, 512])
def test_contiguous_datasets_are_mapped_where_they_lie(tmp_path: Path, userblock: int) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["g/x"] = np.arange(12, dtype=">f4").reshape(6, 2)

    array = stored(path, "g/x")

    assert isinstance(array, Plain)
    assert path.read_bytes()[array.header.offset :][:8] == np.array([0, 1], ">f4").tobytes()
    assert rows(array, 5, 0).tolist() == [[10, 11], [0, 1]]


def test_bools_and_half_floats_are_mapped_too(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["b"] = np.array([True, False, True])
        file["h"] = np.array([0.5, 1.5, 2.5], np.float16)

    assert isinstance(stored(path, "b"), Plain)
    assert rows(stored(path, "b"), 1, 2).tolist() == [False, True]
    assert rows(stored(path, "h"), 2).tolist() == [2.5]


def test_a_type_that_numpy_has_not_is_converted_by_h5py_and_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)  # the same four bytes mean other numbers
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((3,))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space))
        dataset[...] = [1.5, 2.5, 3.5]

    assert isinstance(stored(path, "x"), Chunked)
    assert rows(stored(path, "x"), 2, 0).tolist() == [3.5, 1.5]


def test_soft_links_inside_the_file_are_followed_and_circles_are_not(scans: Path) -> None:
    with h5py.File(scans, "a") as file:
        file["g/near"] = h5py.SoftLink("here")
        file["g/here"] = h5py.SoftLink("/x")
        file["circle"] = h5py.SoftLink("/circle")

    assert rows(stored(scans, "g/near"), 3)[0, 1, 2] == 3
    with pytest.raises(DataError, match=r"scans\.h5:circle: is a link that leads to itself \('/circle'\)"):
        stored(scans, "circle")


def test_what_links_lead_to_inside_the_file_is_served_by_their_names(scans: Path) -> None:
    """`visititems` shows neither soft links nor a second name of the same dataset."""
    with h5py.File(scans, "w") as file:
        file["train/x"] = np.arange(3.0)
        file["train/y"] = file["train/x"]
        file["other/x"] = np.arange(4.0)
        file["other/y"] = h5py.SoftLink("x")
        file["validation"] = h5py.SoftLink("/other")
        del file["other"]
        file["kept/x"] = np.arange(4.0)
        file["kept/y"] = h5py.SoftLink("./x")
        file["test"] = h5py.SoftLink("/kept")
        del file["validation"]

    dataset = opened(scans)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3, "kept": 4, "test": 4}
    assert gathered(dataset, 2, 4, 10)["y"].tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        (
            h5py.ExternalLink("other.bin", "x"),
            r"x: is a link into another file \(other\.bin\), which is never followed",
        ),
        (h5py.SoftLink("/gone"), r"x: is a link to '/gone', which is not there"),
        (h5py.SoftLink("/x"), r"x: is a link that leads to itself \('/x'\)"),
        (h5py.SoftLink("/"), "x: is a link to a group that it is in"),
    ],
)
def test_a_link_that_leads_to_no_data_here_is_refused_by_name(scans: Path, link: object, problem: str) -> None:
    """Left out without a word, `x` would make the labels the input."""
    with h5py.File(scans, "w") as file:
        file["x"] = link
        file["y"] = np.arange(6)
    with pytest.raises(DataError, match=rf"scans\.h5:{problem}; .*name the arrays that are meant: arrays ="):
        opened(scans)
    assert gathered(opened(scans, arrays={"y": "y"}), 5)["y"].tolist() == [5]

    with h5py.File(scans, "w") as file:
        file["train/y"] = np.arange(6)
        file["x"] = link
    with pytest.raises(DataError, match=rf"scans\.h5:{problem}"):
        opened(scans)


def test_a_group_that_contains_itself_is_refused_by_name(scans: Path) -> None:
    with h5py.File(scans, "a") as file:
        file["g/h/x"] = np.arange(3)
        file["g/h/up"] = file["g"]

    with pytest.raises(DataError, match=r"scans\.h5:g/h/up: is a link to a group that it is in"):
        opened(scans)


def test_datasets_whose_names_say_views_are_the_columns_of_these(scans: Path) -> None:
    with h5py.File(scans, "w") as file:
        for view, rows in (("train", 4), ("test", 2)):
            file[f"x_{view}"] = np.ones((rows, 3))
            file[f"y_{view}"] = np.arange(rows)

    dataset = opened(scans)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 4, "test": 2}
    assert gathered(dataset, 3, 5)["y"].tolist() == [3, 1]


# ---- MATLAB ---------------------------------------------------------------------------------------------------------


def matlab(path: Path, **arrays: Array) -> Path:
    """As `save -v7.3` lays arrays out: 512 bytes before HDF5, dimensions from last to first, larger ones in chunks."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            chunks = {"chunks": tuple(min(size, 4) for size in array.T.shape), "compression": 3}
            file.create_dataset(name, data=array.T, **(chunks if array.size > 12 else {}))
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file.create_group("#refs#")["a"] = np.zeros((1, 1), "u8")
    return path


def test_arrays_of_matlab_have_the_shape_that_matlab_shows(tmp_path: Path) -> None:
    x, y = np.arange(30.0).reshape(10, 3), np.arange(10.0).reshape(10, 1)
    path = matlab(tmp_path / "data.mat", x=x, y=y)

    dataset = opened(path)

    assert [str(column) for column in dataset.source.columns] == ["x float64(3)", "y float64(1)"]
    batch = gathered(dataset, 9, 0, 5, 9)
    assert batch["x"].tolist() == x[[9, 0, 5, 9]].tolist()
    assert batch["y"].tolist() == [[9], [0], [5], [9]]
    assert dataset.notes == (
        f"{path}: was written by MATLAB; a sample is a row of the first dimension, as MATLAB shows it",
    )


def test_samples_in_the_last_dimension_of_matlab_are_told_by_their_number(tmp_path: Path) -> None:
    images, labels = np.arange(48.0).reshape(2, 3, 8), np.arange(8.0).reshape(1, 8)
    path = matlab(tmp_path / "data.mat", x=images, y=labels)

    dataset = opened(path)

    batch = gathered(dataset, 7, 2)
    assert batch["x"].tolist() == images.T[[7, 2]].tolist()
    assert batch["y"].tolist() == [[7], [2]]
    assert "with the samples in the last dimension" in dataset.notes[0]


def test_arrays_of_matlab_that_agree_in_no_dimension_are_refused(tmp_path: Path) -> None:
    path = matlab(tmp_path / "data.mat", x=np.zeros((2, 3, 8)), y=np.zeros((8, 1)))

    with pytest.raises(DataError, match="columns of different length"):
        opened(path)


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [({"MATLAB_class": np.bytes_("char")}, "holds strings"), ({"MATLAB_empty": np.uint8(1)}, "holds nothing")],
)
def test_what_matlab_stores_otherwise_is_refused(tmp_path: Path, attribute: dict[str, Any], problem: str) -> None:
    path = matlab(tmp_path / "data.mat", x=np.zeros((3, 1)))
    with h5py.File(path, "a") as file:
        file["x"].attrs.update(attribute)

    with pytest.raises(DataError, match=rf"data\.mat:x: {problem}"):
        opened(path)


def test_a_file_of_matlab_before_7_3_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "data.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200))

    with pytest.raises(
        DataError, match=r"data\.mat: is of MATLAB's older format; save it with '-v7\.3', which is HDF5"
    ):
        opened(tmp_path / "data.mat")


# ---- datasets in chunks ---------------------------------------------------------------------------------------------


@pytest.fixture
def chunked(tmp_path: Path) -> Path:
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(300.0).reshape(100, 3), chunks=(10, 2), compression="gzip")
    return path


def test_chunked_datasets_give_the_same_rows(chunked: Path) -> None:
    array = stored(chunked, "x")

    assert isinstance(array, Chunked)
    assert rows(array, 99, 0, 41, 99, 40).tolist() == [
        [297, 298, 299],
        [0, 1, 2],
        [123, 124, 125],
        [297, 298, 299],
        [120, 121, 122],
    ]
    assert rows(array).shape == (0, 3)


def test_every_chunk_is_read_once_for_all_rows_of_it(chunked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = stored(chunked, "x").open(large=False)
    reads: list[tuple[int, int]] = []
    read = hdf5.ChunkedRows._read
    monkeypatch.setattr(
        hdf5.ChunkedRows, "_read", lambda self, start, stop: (reads.append((start, stop)), read(self, start, stop))[1]
    )

    array.gather(np.array([47, 3, 41, 99, 44]), np.zeros((5, 3)))

    assert reads == [(0, 10), (40, 50), (90, 100)]

    array.gather(np.array([49, 99, 91, 20]), np.zeros((4, 3)))
    assert reads[3:] == [(20, 30)]


def test_of_chunks_that_are_not_compressed_only_the_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("x", data=np.arange(300.0).reshape(100, 3), chunks=(10, 3))
    array = stored(tmp_path / "c.h5", "x").open(large=False)
    reads: list[tuple[int, int]] = []
    read = hdf5.ChunkedRows._read
    monkeypatch.setattr(
        hdf5.ChunkedRows, "_read", lambda self, start, stop: (reads.append((start, stop)), read(self, start, stop))[1]
    )

    array.gather(np.array([47, 3, 41, 99, 44]), np.zeros((5, 3)))

    assert reads == [(3, 4), (41, 48), (99, 100)]


def plain_chunks(path: Path, **created: Any) -> Path:
    """100 rows of 4 KiB, row i all i, in chunks of 12 rows; the last has four."""
    with h5py.File(path, "w", **created) as file:
        file.create_dataset(
            "x", data=np.repeat(np.arange(100, dtype=">i4"), 1024).reshape(100, 1024), chunks=(12, 1024)
        )
    return path


def test_rows_of_a_page_or_more_are_read_where_they_lie_in_plain_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = stored(plain_chunks(tmp_path / "c.h5"), "x")
    monkeypatch.setattr(hdf5.ChunkedRows, "_read", lambda *_: pytest.fail("read by h5py"))

    found = rows(array, 99, 0, *range(10, 26), 0, 96)

    assert found[:, 0].tolist() == [99, 0, *range(10, 26), 0, 96]
    assert (found == found[:, :1]).all()


def test_chunks_that_do_not_lie_plainly_are_read_by_h5py(tmp_path: Path) -> None:
    """Behind a user's block, as parts of rows, compressed or summed: where HDF5 says, or nobody, is left to h5py."""
    values = np.repeat(np.arange(100, dtype="<i4"), 2048).reshape(100, 2048)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("parts", data=values, chunks=(12, 1024))
        file.create_dataset("summed", data=values, chunks=(12, 2048), fletcher32=True)
        file.create_dataset("plain", data=values, chunks=(12, 2048))
    plain_chunks(tmp_path / "user.h5", userblock_size=512)

    for path, name, kind in [
        ("c.h5", "parts", hdf5.ChunkedRows),
        ("c.h5", "summed", hdf5.ChunkedRows),
        ("c.h5", "plain", PlainChunks),
        ("user.h5", "x", hdf5.ChunkedRows),
    ]:
        array = stored(tmp_path / path, name)
        assert type(array.open(large=False)) is kind
        assert rows(array, 99, 13, 12)[:, -1].tolist() == [99, 13, 12]


def test_a_file_whose_plain_chunks_were_cut_off_is_an_error(tmp_path: Path) -> None:
    path = plain_chunks(tmp_path / "c.h5")
    array = stored(path, "x").open(large=True)
    out = np.zeros((2, 1024), "<i4")
    array.gather(np.array([3, 99]), out)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 60_000)

    array.announce(np.array([3, 99]))
    with pytest.raises(DataError, match=r"c\.h5"):
        array.gather(np.array([3, 99]), out)


def test_a_file_of_plain_chunks_that_was_removed_is_served_from_where_it_is(tmp_path: Path) -> None:
    path = plain_chunks(tmp_path / "c.h5")
    dataset = opened(path)
    fingerprint(dataset, Hdf5Config.declare(path=path))
    path.unlink()

    assert gathered(dataset, 3, 99)["x"][:, 5].tolist() == [3, 99]


def test_of_plain_chunks_of_large_data_the_wanted_rows_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain_chunks(tmp_path / "c.h5")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(hdf5_chunks, "ask_file_for", lambda _fd, offset, nbytes: asked.append((offset, nbytes)))
    with h5py.File(path) as file:
        begins = [file["x"].id.get_chunk_info_by_coord((row, 0)).byte_offset for row in (0, 12)]

    stored(path, "x").open(large=False).announce(np.array([3]))
    stored(path, "x").open(large=True).announce(np.array([3, 10, 11, 12]))

    assert asked == [(begins[0] + 3 * 4096, 4096), (begins[0] + 10 * 4096, 2 * 4096), (begins[1], 4096)]


def test_large_chunks_are_read_in_parts(chunked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "READ_AT_ONCE", 4 * 24)  # four rows
    array = stored(chunked, "x").open(large=False)

    out = np.zeros((3, 3))
    array.gather(np.array([9, 0, 5]), out)

    assert out[:, 0].tolist() == [27, 0, 15]


def test_a_small_dataset_inside_the_files_own_header_is_read(tmp_path: Path) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3,))
        h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, created))[...] = [1, 2, 3]

    assert rows(stored(tmp_path / "a.h5", "x"), 2, 0).tolist() == [3, 1]


def test_the_operator_is_told_what_large_chunks_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "DECODED", Decoded(limit=10_000))
    monkeypatch.setattr(decompressed, "HEAD_NBYTES", 0)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((100, 30)), chunks=(25, 30), compression="gzip")
        file.create_dataset("y", data=np.zeros((100, 30)), chunks=(1, 30), compression="gzip")

    (note,) = opened(tmp_path / "a.h5", inputs="x", targets="y").notes

    assert note == (
        f"{tmp_path}/a.h5:x is (0 MiB) in compressed chunks of 25 rows, 0.0 MB each, all of which is decoded to have "
        'one row, and the workers keep 0 MiB decoded: order="blocks:25x1" decodes each once an epoch; '
        "`feedline convert` writes columns that are read where they lie, in any order"
    )


def test_a_damaged_chunk_is_a_bad_sample(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=np.arange(100.0), chunks=(10,), compression="gzip", fletcher32=True)
        place = dataset.id.get_chunk_info_by_coord((30,)).byte_offset
    whole = bytearray(path.read_bytes())
    whole[place + 5] ^= 255
    path.write_bytes(whole)

    with pytest.raises(BadSample, match=r"c\.h5:x: rows 30\.\.39 cannot be read") as caught:
        gathered(opened(path), 7, 33, 35)

    assert caught.value.samples == tuple(range(30, 40))


# ---- columns --------------------------------------------------------------------------------------------------------


def test_the_datasets_of_a_file_are_columns(scans: Path) -> None:
    dataset = opened(scans)

    assert [str(column) for column in dataset.columns] == ["x float32(2, 3)", "y int64()"]
    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 12}
    assert gathered(dataset, 7, 0)["y"].tolist() == [107, 100]
    assert gathered(dataset, 7, 0)["x"][:, 1, 2].tolist() == [7, 0]


def test_the_only_file_of_a_folder_is_meant_by_the_folder(scans: Path) -> None:
    assert gathered(opened(scans.parent), 3)["y"].tolist() == [103]


def test_a_folder_of_several_files_wants_one_named(scans: Path) -> None:
    (scans.parent / "other.h5").write_bytes(scans.read_bytes())

    with pytest.raises(DataError, match=r"h5: found other\.h5, scans\.h5; wanted one HDF5 file, set path to"):
        opened(scans.parent)


def test_groups_are_views_train_first_and_ids_run_on(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group, first in (("another", 50), ("train", 0), ("validation", 100)):
            file[f"{group}/x"] = np.arange(first, first + 3)

    dataset = opened(tmp_path / "a.h5")

    assert list(dataset.views) == ["train", "another", "validation"]
    assert gathered(dataset, 8, 0, 3)["x"].tolist() == [102, 0, 50]


def test_views_and_datasets_can_be_declared(scans: Path) -> None:
    with h5py.File(scans, "a") as file:
        file["meta/names"] = ["a", "b"]
        file["signals/eeg"] = np.arange(12.0)

    np.save(scans.parent / "some.npy", [7, 1])

    dataset = opened(
        scans, arrays={"x": "/signals/eeg", "y": "y"}, views={"train": "0:8", "validation": "8:", "some": "some.npy"}
    )

    assert gathered(dataset, 5)["x"].tolist() == [5]
    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 8, "validation": 4, "some": 2}
    assert dataset.notes[0].startswith("views 'train' and 'some' share 2 samples (1, 7)")


def test_datasets_at_the_top_and_in_groups_want_to_be_chosen(scans: Path) -> None:
    with h5py.File(scans, "a") as file:
        file["g/z"] = np.arange(12.0)

    with pytest.raises(DataError, match=r"scans\.h5: has the datasets g/z, x, y; .* such as arrays = "):
        opened(scans)


def test_columns_of_different_length_are_refused_naming_both(scans: Path) -> None:
    with h5py.File(scans, "a") as file:
        del file["y"]
        file["y"] = np.arange(11)

    with pytest.raises(DataError, match=r"scans\.h5:x has 12 samples and scans\.h5:y has 11"):
        opened(scans)


def test_a_file_written_to_while_served_is_an_error(scans: Path) -> None:
    dataset = opened(scans)
    with h5py.File(scans, "a") as file:
        file["z"] = np.arange(12)

    with pytest.raises(DataError, match=r"scans\.h5: changed while served"):
        gathered(dataset, 0)


# ---- what is refused ------------------------------------------------------------------------------------------------


def outside(tmp_path: Path) -> Path:
    """A file that nobody declared."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(12)
    return path


def test_a_link_into_another_file_is_never_followed(scans: Path, tmp_path: Path) -> None:
    secret = outside(tmp_path)
    with h5py.File(scans, "a") as file:
        file["z"] = h5py.ExternalLink(str(secret), "/x")
        file["g/through"] = h5py.SoftLink("/door/x")
        file["door"] = h5py.ExternalLink(str(secret), "/")

    with pytest.raises(DataError, match=r"scans\.h5:door: is a link into another file"):
        opened(scans)
    for name in ("z", "g/through", "door/x"):
        with pytest.raises(DataError, match=rf"scans\.h5:{name}: is a link into another file \({secret}\)"):
            opened(scans, arrays={"x": name})


def test_data_in_other_files_is_never_read(scans: Path, tmp_path: Path) -> None:
    secret = outside(tmp_path)
    with h5py.File(scans, "a") as file:
        file.create_dataset("raw", shape=(12,), dtype="u1", external=[(str(secret), 0, 12)])
        layout = h5py.VirtualLayout(shape=(12,), dtype="i8")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=(12,))
        file.create_virtual_dataset("virtual", layout)

    with pytest.raises(DataError, match=r"scans\.h5:raw: lies in other files \(external storage\)"):
        opened(scans, arrays={"x": "raw"})
    with pytest.raises(DataError, match=r"scans\.h5:virtual: lies in other files \(a virtual dataset\)"):
        opened(scans, arrays={"x": "virtual"})


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (
            lambda file: file.create_dataset("x", shape=(5, 2), dtype="f4"),
            "was never written and would be read as zeros",
        ),
        (
            lambda file: file.create_dataset("x", shape=(50,), dtype="f4", chunks=(10,)).__setitem__(3, 1),
            "4 of its 5 chunks were never written and would be read as zeros",
        ),
        (
            lambda file: file.create_dataset("x", data=["a", "bc"]),
            'holds strings, which are not served; codes = ["x"] makes',
        ),
        (lambda file: file.create_dataset("x", data=np.array([b"a", b"bc"])), "holds strings"),
        (lambda file: file.create_dataset("x", data=np.zeros(3, [("a", "i4")])), "cannot be served"),
        (
            lambda file: file.create_dataset("x", (2,), dtype=h5py.vlen_dtype(np.int32)).__setitem__(0, [1, 2]),
            "dtype object cannot be served",
        ),
        (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "holds nothing"),
        (lambda file: file.create_dataset("x", data=5.0), "holds a single value"),
        (lambda file: file.create_dataset("x", shape=(0, 3), dtype="f4"), "has no samples, its shape is (0, 3)"),
        (lambda file: file.create_dataset("x", shape=(3, 0), dtype="f4"), "its samples hold no values"),
    ],
)
def test_a_dataset_that_cannot_be_served_is_refused(
    tmp_path: Path, write: Callable[[h5py.File], object], problem: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)

    with pytest.raises(DataError, match=r"a\.h5:x: .*" + re.escape(problem)):
        opened(tmp_path / "a.h5")


def test_a_dataset_that_is_not_there_is_refused_with_what_is(scans: Path) -> None:
    with pytest.raises(DataError, match=r"scans\.h5: has no dataset 'z'; it has x, y"):
        opened(scans, arrays={"x": "z"})


def test_a_file_without_datasets_is_refused(tmp_path: Path) -> None:
    h5py.File(tmp_path / "a.h5", "w").close()

    with pytest.raises(DataError, match=r"a\.h5: has no datasets in it"):
        opened(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "is empty (0 bytes); wanted an HDF5 file"),
        (lambda whole: b"hello, world" * 100, "is cut short or no HDF5 file"),
        (lambda whole: whole[:-50], "is cut short or no HDF5 file"),
        (lambda whole: whole[:600], "is cut short or no HDF5 file"),
    ],
)
def test_a_damaged_file_is_refused_when_it_is_opened(scans: Path, damage: Any, problem: str) -> None:
    scans.write_bytes(damage(scans.read_bytes()))

    with pytest.raises(DataError, match=re.escape(f"{scans}: {problem}")):
        opened(scans)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.h5: there is no such file or folder"):
        opened(tmp_path / "a.h5")


def test_a_file_that_another_process_writes_is_refused_until_it_is_finished(scans: Path) -> None:
    writing = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", writing, scans], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"

        with pytest.raises(DataError, match=r"scans\.h5: is being written by another process; serve it when it is fin"):
            opened(scans)

        writer.communicate("")
    assert gathered(opened(scans), 3)["y"].tolist() == [103]


def test_a_file_that_is_written_in_swmr_mode_is_said_to_be(scans: Path) -> None:
    """Its writer holds no lock, and without closing it leaves the flag behind."""
    writer = (
        "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); f['x'] = [1, 2]; f.swmr_mode = True; "
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", writer, str(scans)], check=True)

    with pytest.raises(DataError, match=r"scans\.h5: is being written in SWMR mode, .* h5clear -s "):
        opened(scans)


def test_a_filter_that_is_not_installed_is_refused_by_its_name(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(scans, "w") as file:
        file.create_dataset("x", data=np.zeros(12), chunks=(3,), compression="lzf")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)

    with pytest.raises(DataError, match=r"scans\.h5:x: is compressed with lzf, which h5py cannot read here; write it"):
        opened(scans)


def test_without_h5py_the_extra_is_named(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)

    with pytest.raises(InvalidRequest, match=r"scans\.h5: reading HDF5 needs h5py: pip install '.+\[h5\]'"):
        opened(scans)


# ---- identity -------------------------------------------------------------------------------------------------------


def identity(path: Path) -> bytes:
    config = Hdf5Config.declare(path=path)
    return fingerprint(open_dataset("d", config), config)


@pytest.mark.parametrize("options", [{}, {"chunks": (10,)}, {"chunks": (10,), "compression": "gzip"}])
def test_other_values_are_another_dataset_and_the_same_written_again_are_not(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    found = []
    for number, last in enumerate((99, 99, 98)):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.array([*range(99), last]), **options)
            file.attrs["note"] = number  # not data
        found.append(identity(path))

    assert found[0] == found[1] != found[2]


def test_of_large_chunked_datasets_only_some_chunks_are_looked_at(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 64), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=noise, chunks=(10, 64), compression="gzip")
    array = stored(tmp_path / "a.h5", "x")

    parts = list(array.content(Sampling(whole=1000, blocks=4, block_bytes=16)))

    assert [len(part) for part in parts[-4:]] == [16, 16, 16, 16]
    assert len(set(parts)) == len(parts) == 6


# ---- text -----------------------------------------------------------------------------------------------------------


def texts_of(path: Path, **parts: list[str]) -> Path:
    """A group a view, with x and a label of text each; one of fixed length, one of any."""
    with h5py.File(path, "w") as file:
        for view, texts in parts.items():
            file[f"{view}/x"] = np.arange(float(len(texts)))
            file[f"{view}/label"] = np.array(texts, "S8") if view == "train" else texts
            file[f"{view}/note"] = ["…"] * len(texts)
    return path


def test_text_is_numbered_over_all_groups_or_as_declared(tmp_path: Path) -> None:
    path = texts_of(tmp_path / "d.h5", train=["dog", "cat", " dog"], validation=["cow", "cat"])

    found = opened(path, codes=["label"], drop="note", targets="label")
    declared = opened(path, codes={"label": ["cow", "dog", "cat"]}, drop="note", targets="label")

    assert found.categories == {"label": ("cat", "cow", "dog")}
    assert gathered(found, 0, 1, 2, 3, 4)["label"].tolist() == [2, 0, 2, 1, 0]
    assert gathered(declared, 0, 1, 2, 3, 4)["label"].tolist() == [1, 2, 1, 0, 2]


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({}, r"train/label: holds strings, which are not served; codes = \[\"label\"\] makes numbers of them"),
        ({"codes": ["x"], "drop": "note"}, r"train/x: holds float64 of shape \(2,\); codes makes numbers of one text"),
        ({"codes": {"label": ["dog"]}, "drop": "note"}, "train/label: row 1 has 'cat', which is none of dog; correct"),
        ({"codes": ["z"]}, "codes names the column 'z'; the columns are label, note, x"),
        ({"drop": "z"}, "drop names the column 'z'"),
    ],
)
def test_text_that_is_not_coded_as_it_should_be_is_refused(
    tmp_path: Path, declared: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        opened(texts_of(tmp_path / "d.h5", train=["dog", "cat"]), **declared)


def test_a_row_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train/label: row 1 has no text; correct it"):
        opened(texts_of(tmp_path / "d.h5", train=["dog", ""]), codes=["label"], drop="note", targets="label")
