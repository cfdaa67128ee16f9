"""Big files, one or a few a subject: rows and windows over them, views by subject, files that do not fit together."""

import mmap
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.lib.format import open_memmap

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import SubjectsConfig
from feedline_server.host import machine
from feedline_server.sources.arrays import mapped
from feedline_server.sources.arrays.resident import Resident
from feedline_server.sources.kinds import subjects
from feedline_server.sources.kinds.subjects import Windows
from feedline_server.sources.selection import Ranges, join
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array

ROWS = {"s01": 5, "s02": 7, "s03": 4}


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", SubjectsConfig.declare(path=folder, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def recording(subject: str) -> dict[str, Array]:
    """`x`: each 2 x 2 matrix is all 100·subject + row; `y`: the same number, negative."""
    values = int(subject[1:]) * 100 + np.arange(ROWS[subject])
    return {"x": np.repeat(values.astype(np.float32), 4).reshape(-1, 2, 2), "y": -values}


def as_pairs(folder: Path) -> None:
    for subject in ROWS:
        for name, array in recording(subject).items():
            np.save(folder / f"{subject}_{name}.npy", array)


def as_npz(folder: Path) -> None:
    for subject in ROWS:
        np.savez(folder / f"{subject}.npz", **recording(subject))


def as_compressed(folder: Path) -> None:
    for subject in ROWS:
        np.savez_compressed(folder / f"{subject}.npz", **recording(subject))


def as_hdf5(folder: Path) -> None:
    for subject in ROWS:
        with h5py.File(folder / f"{subject}.h5", "w") as file:
            for name, array in recording(subject).items():
                file[name] = array


def as_chunked(folder: Path) -> None:
    for subject in ROWS:
        with h5py.File(folder / f"{subject}.h5", "w") as file:
            for name, array in recording(subject).items():
                file.create_dataset(name, data=array, chunks=(3, *array.shape[1:]), compression="gzip")


LAYOUTS = [as_pairs, as_npz, as_compressed, as_hdf5, as_chunked]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three subjects of 5, 7 and 4 rows, as pairs of .npy files."""
    (tmp_path / "study").mkdir()
    as_pairs(tmp_path / "study")
    return tmp_path / "study"


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", LAYOUTS)
def test_all_subjects_are_one_dataset_however_they_are_stored(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)

    dataset = opened(tmp_path)
    found = gathered(dataset, 15, 0, 5, 11, 12, 4)

    assert [str(column) for column in dataset.columns] == ["x float32(2, 2)", "y int64()"]
    assert dataset.source.samples == 16
    assert found["y"].tolist() == [-303, -100, -200, -206, -300, -104]
    assert found["x"][:, 1, 1].tolist() == [303, 100, 200, 206, 300, 104]


def test_files_can_be_named_in_other_ways_and_lie_in_folders(tmp_path: Path) -> None:
    for subject in ROWS:
        (tmp_path / subject).mkdir()
        np.save(tmp_path / subject / f"{subject}-eeg.npy", recording(subject)["x"])
        with h5py.File(tmp_path / subject / "stages.h5", "w") as file:
            file["labels/coarse"] = recording(subject)["y"] // 100
            file["labels/fine"] = recording(subject)["y"]

    dataset = opened(
        tmp_path,
        files={"x": "{subject}/{subject}-eeg.npy", "y": "{subject}/stages.h5"},
        arrays={"y": "/labels/fine"},
    )

    assert gathered(dataset, 15, 0)["y"].tolist() == [-303, -100]


def test_a_file_of_labels_is_no_subject_although_its_name_would_do(tmp_path: Path) -> None:
    for subject in ROWS:
        np.save(tmp_path / f"{subject}.npy", recording(subject)["x"])
        np.save(tmp_path / f"{subject}_labels.npy", recording(subject)["y"])

    dataset = opened(tmp_path, files={"x": "{subject}.npy", "y": "{subject}_labels.npy"})

    assert gathered(dataset, 15, 5)["y"].tolist() == [-303, -200]


def test_an_only_array_in_each_file_is_the_input(tmp_path: Path) -> None:
    for subject in ROWS:
        np.savez(tmp_path / f"{subject}.npz", eeg=recording(subject)["x"])

    assert [str(column) for column in opened(tmp_path).columns] == ["x float32(2, 2)"]


def test_files_are_opened_when_they_are_read_from_and_so_many_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def descriptors() -> int:
        return len([link for link in Path("/proc/self/fd").iterdir() if str(link.resolve()).startswith(str(folder))])

    monkeypatch.setattr(subjects, "OPEN_AT_ONCE", 4)
    dataset = opened(folder)
    counts = [descriptors()]
    for sample in (0, 5, 12, 0, 5, 12):
        gathered(dataset, sample)
        counts.append(descriptors())

    assert counts == [0, 4, 8, 8, 8, 8, 8]  # two of each array


@pytest.mark.parametrize("write", LAYOUTS)
def test_several_threads_may_read_at_once_although_few_files_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(subjects, "OPEN_AT_ONCE", 1)
    monkeypatch.setattr(subjects, "is_large", lambda nbytes: True)
    monkeypatch.setattr(mapped, "SMALL", 0)
    write(tmp_path)
    dataset = opened(tmp_path)
    expected = np.concatenate([recording(subject)["y"] for subject in ROWS])

    def read(seed: int) -> bool:
        ids = np.random.default_rng(seed).integers(0, 16, 8)
        found = gathered(dataset, *ids)
        return (found["y"] == expected[ids]).all() and (found["x"][:, 1, 1] == -expected[ids]).all()

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(200)))


def test_an_hdf5_file_that_is_not_read_from_any_more_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "OPEN_AT_ONCE", 2)
    as_chunked(tmp_path)
    dataset = opened(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))

    for sample in (0, 5, 12, 0):
        gathered(dataset, sample)

    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1  # x and y of one file


# ---- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "length", "stride", "expected"),
    [
        (5, 3, 1, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (5, 3, 2, [[0, 1, 2], [2, 3, 4]]),
        (6, 3, 2, [[0, 1, 2], [2, 3, 4]]),
        (7, 3, 3, [[0, 1, 2], [3, 4, 5]]),
        (7, 2, 5, [[0, 1], [5, 6]]),
        (3, 3, 9, [[0, 1, 2]]),
        (3, 1, 1, [[0], [1], [2]]),
        (2, 3, 1, []),
    ],
)
def test_windows_are_runs_of_rows_and_none_is_filled_up(
    rows: int, length: int, stride: int, expected: list[list[int]]
) -> None:
    windows = Windows(rows, length, stride)
    every = np.arange(len(windows))

    assert windows.steps(every).reshape(-1, length).tolist() == expected
    assert windows.ends(every).tolist() == [window[-1] for window in expected]


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_window_has_the_label_of_its_end_and_never_crosses_a_subject(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)

    dataset = opened(tmp_path, window=3, stride=2)
    found = gathered(dataset, *range(6))

    assert [str(column) for column in dataset.columns] == ["x float32(3, 2, 2)", "y int64()"]
    assert dataset.source.samples == 6  # 2 of s01, 3 of s02, 1 of s03
    assert found["x"][:, :, 1, 1].tolist() == [
        [100, 101, 102],
        [102, 103, 104],
        [200, 201, 202],
        [202, 203, 204],
        [204, 205, 206],
        [300, 301, 302],
    ]
    assert found["y"].tolist() == [-102, -104, -202, -204, -206, -302]


def test_windows_begin_at_every_row_when_no_stride_is_said(folder: Path) -> None:
    assert opened(folder, window=3).source.samples == 3 + 5 + 2


@pytest.mark.parametrize(
    ("declared", "lengths"),
    [
        ({}, {"eeg": 3, "y": None, "y2": None}),
        ({"inputs": ["eeg", "y"], "targets": "y2"}, {"eeg": 3, "y": 3, "y2": None}),
        ({"inputs": ["eeg"], "targets": ["y"], "sample_weight": "y2"}, {"eeg": 3, "y": None, "y2": None}),
        ({"targets": ["eeg"]}, {"eeg": None, "y": 3, "y2": 3}),
    ],
)
def test_inputs_are_windows_and_targets_their_ends(
    tmp_path: Path, declared: dict[str, Any], lengths: dict[str, int | None]
) -> None:
    np.savez(tmp_path / "s.npz", eeg=np.zeros(9), y=np.zeros(9), y2=np.zeros(9))
    declared = {"inputs": ["eeg"]} | declared if "targets" not in declared else declared

    source = subjects.opened(SubjectsConfig.declare(path=tmp_path, window=3, **declared)).source

    assert {column.name: (*column.shape, None)[0] for column in source.columns} == lengths


def test_a_subject_shorter_than_a_window_has_no_samples_and_is_noted(folder: Path) -> None:
    dataset = opened(folder, window=5)

    assert dataset.source.samples == 1 + 3
    assert gathered(dataset, 0, 3)["y"].tolist() == [-104, -206]
    assert dataset.notes == ("1 subject (s03) has less than the 5 rows of a window, so no samples",)


def test_a_view_of_which_no_subject_fills_a_window_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"view 'some' has no samples: no subject in it has the 5 rows of a window"):
        opened(folder, window=5, views={"some": ["s03"]})


def test_a_stride_without_a_window_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"study: stride = 5 without a window; say how many rows make up one"):
        opened(folder, stride=5)


def test_windows_without_an_input_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", y1=np.zeros(9), y2=np.zeros(9))

    with pytest.raises(DataError, match=r"no column is an input, so nothing has windows; say inputs = "):
        opened(tmp_path, window=3)


# ---- views ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (["s01"], [0, 1, 2, 3, 4]),
        ("s03", [12, 13, 14, 15]),
        (["s03", "s01"], [0, 1, 2, 3, 4, 12, 13, 14, 15]),
        (["s0[12]"], list(range(12))),
        (["*"], list(range(16))),
        (["!s02"], [0, 1, 2, 3, 4, 12, 13, 14, 15]),
        (["s0?", "!s01", "!s02"], [12, 13, 14, 15]),
    ],
)
def test_a_view_is_of_subjects_by_name_or_pattern_or_all_but_some(
    folder: Path, patterns: list[str] | str, ids: list[int]
) -> None:
    view = opened(folder, views={"some": patterns}).views["some"]

    assert view.samples == len(ids)
    assert view.ids(np.arange(len(ids))).tolist() == ids


def test_without_views_everything_is_one(folder: Path) -> None:
    assert {name: view.selection for name, view in opened(folder).views.items()} == {"train": range(16)}


def test_a_view_costs_nothing_however_many_samples_it_has(folder: Path) -> None:
    views = opened(folder, views={"train": ["!s02"], "validation": ["s02"]}).views

    assert views["train"].selection == Ranges((range(5), range(12, 16)))
    assert views["validation"].selection == range(5, 12)
    assert views["train"].ids(np.array([8, 4, 5, 0])).tolist() == [15, 4, 12, 0]
    with pytest.raises(InvalidRequest, match=r"view 'train' has places 0\.\.8; 9\.\.9 were asked for"):
        views["train"].ids(np.array([9]))


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([range(2), range(2, 5)], range(5)),
        ([range(2), range(3, 5)], Ranges((range(2), range(3, 5)))),
        ([range(3, 5), range(2)], Ranges((range(3, 5), range(2)))),
        ([range(2, 2), range(3, 5)], range(3, 5)),
        ([], Ranges(())),
    ],
)
def test_ranges_that_follow_each_other_are_one(parts: list[range], joined: object) -> None:
    assert join(parts) == joined


def test_views_that_share_subjects_and_subjects_in_none_are_noted(folder: Path) -> None:
    assert opened(folder, views={"train": ["s01", "s02"], "validation": ["s02"]}).notes == (
        "views 'train' and 'validation' share 1 subject (s02): "
        "what is trained on is also measured on, unless that is meant",
        "1 subject (s03) in no view",
    )


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        (["s04"], "view 'some' wants 's04', but the subjects are s01, s02, s03; did you mean s03?"),
        (["s01", "t*"], "view 'some' wants 't*', but the subjects are s01, s02, s03"),
        (["!s1"], "view 'some' wants 's1', but the subjects are s01, s02, s03; did you mean s01?"),
        (["s01", "!s0*"], "view 'some' takes out every subject"),
    ],
)
def test_a_view_of_subjects_that_are_not_there_is_refused_with_the_nearest(
    folder: Path, patterns: list[str], problem: str
) -> None:
    with pytest.raises(DataError, match=re.escape(f"{folder}: {problem}")):
        opened(folder, views={"some": patterns})


# ---- what does not fit together -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((7, 2, 3), np.float32), "s02_x.npy holds float32(7, 2, 3), "),
        (np.zeros((7, 2, 2), np.float64), "s02_x.npy holds float64(7, 2, 2), "),
        (np.zeros((7, 4), np.float32), "s02_x.npy holds float32(7, 4), "),
    ],
)
def test_a_subject_unlike_the_first_is_refused_and_both_are_named(folder: Path, array: Array, problem: str) -> None:
    np.save(folder / "s02_x.npy", array)

    with pytest.raises(DataError, match=re.escape(problem) + r".*s01_x\.npy holds float32\(5, 2, 2\); give all"):
        opened(folder)


def test_a_subject_with_another_byte_order_fits(folder: Path) -> None:
    np.save(folder / "s02_x.npy", recording("s02")["x"].astype(">f4"))

    assert gathered(opened(folder), 6, 0)["x"][:, 1, 1].tolist() == [201, 100]


def test_a_subject_with_more_labels_than_samples_is_refused_naming_both(folder: Path) -> None:
    np.save(folder / "s02_y.npy", np.arange(8))

    with pytest.raises(DataError, match=r"s02_x\.npy has 7 samples and s02_y\.npy has 8; wanted one row a sample"):
        opened(folder)


def test_a_subject_without_labels_is_refused_with_the_file_that_is_missing(folder: Path) -> None:
    (folder / "s02_y.npy").unlink()

    with pytest.raises(DataError, match=r"study: subject 's02' has no file s02_y\.npy; add it"):
        opened(folder)


def test_subjects_with_other_arrays_are_refused_naming_them(tmp_path: Path) -> None:
    as_npz(tmp_path)
    np.savez(tmp_path / "s02.npz", x=np.zeros((7, 2, 2), np.float32), labels=np.arange(7))

    with pytest.raises(DataError, match=r"subject 's02' has the arrays labels, x, the first one has x, y; give all"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "s02_x.npy: is empty (0 bytes)"),
        (lambda whole: whole[:-1], "s02_x.npy: is cut short, 111 bytes of data where float32(7, 2, 2) has 112"),
        (lambda whole: whole[:50], "s02_x.npy: its header is damaged"),
    ],
)
def test_a_damaged_file_is_refused_when_the_loader_starts(folder: Path, damage: Any, problem: str) -> None:
    (folder / "s02_x.npy").write_bytes(damage((folder / "s02_x.npy").read_bytes()))

    with pytest.raises(DataError, match=re.escape(problem)):
        opened(folder)


def test_an_array_without_rows_is_refused(folder: Path) -> None:
    np.save(folder / "s02_x.npy", np.zeros((0, 2, 2), np.float32))

    with pytest.raises(DataError, match=r"s02_x\.npy: has no samples, its shape is \(0, 2, 2\)"):
        opened(folder)


def test_a_damaged_row_is_named_as_the_dataset_counts(tmp_path: Path) -> None:
    as_compressed(tmp_path)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("x", data=np.arange(20.0), chunks=(2,), fletcher32=True)
        place = file["x"].id.get_chunk_info_by_coord((6,)).byte_offset
    for name in ("a", "b"):
        whole = bytearray((tmp_path / "t.h5").read_bytes())
        whole[place] ^= 255 if name == "b" else 0
        (tmp_path / f"{name}.h5").write_bytes(whole)
    dataset = opened(tmp_path, files="{subject}.h5", views={"train": ["a", "b"]}, window=4, stride=2)

    with pytest.raises(
        BadSample, match=r"in b, whose sample 0 is sample 9: .*b\.h5:x: rows 6\.\.7 cannot be"
    ) as caught:
        gathered(dataset, 9, 11, 12, 13)  # of b: rows 0..3, 4..7, 6..9, 8..11

    assert caught.value.samples == (11, 12)


def test_a_file_that_changes_while_served_is_an_error(folder: Path) -> None:
    dataset = opened(folder)
    gathered(dataset, 6)
    np.save(folder / "s02_x.npy", recording("s02")["x"] + 1)

    with pytest.raises(DataError, match=r"s02_x\.npy: changed while served"):
        gathered(dataset, 6)
    assert gathered(dataset, 0)["y"].tolist() == [-100]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([], "found no SUBJECT.npz, SUBJECT.h5 or SUBJECT_x.npy; say how files are named"),
        (["data.npy"], "found no SUBJECT.npz, SUBJECT.h5 or SUBJECT_x.npy; say how files are named"),
    ],
)
def test_a_folder_without_subjects_is_refused(tmp_path: Path, files: list[str], problem: str) -> None:
    for file in files:
        np.save(tmp_path / file, np.zeros(3))

    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: {problem}")):
        opened(tmp_path)


def test_an_array_for_a_column_that_no_file_is_for_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"arrays names the column 'z', but files has x, y; name one of these"):
        opened(folder, files={"x": "{subject}_x.npy", "y": "{subject}_y.npy"}, arrays={"z": "z"})


def test_a_pattern_that_no_file_has_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"study: found no file like \{subject\}\.npz; wanted one for each subject"):
        opened(folder, files="{subject}.npz")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothere: there is no such file or folder"):
        opened(tmp_path / "nothere")


# ---- identity -------------------------------------------------------------------------------------------------------


def identity(folder: Path, **declared: Any) -> bytes:
    config = SubjectsConfig.declare(path=folder, **declared)
    return fingerprint(open_dataset("d", config), config)


def test_windows_strides_and_views_are_part_of_a_datasets_identity(folder: Path) -> None:
    found = {
        identity(folder),
        identity(folder, window=2),
        identity(folder, window=2, stride=2),
        identity(folder, views={"train": ["s01"]}),
        identity(folder, views={"train": ["s02"]}),
        identity(folder, views={"train": ["!s02"]}),
    }

    assert len(found) == 6


def test_other_values_are_another_dataset_and_other_names_are_not(folder: Path) -> None:
    before = identity(folder)
    for subject in ROWS:
        for name in ("x", "y"):
            (folder / f"{subject}_{name}.npy").rename(folder / f"proband-{subject}_{name}.npy")
    renamed = identity(folder)
    np.save(folder / "proband-s02_y.npy", np.arange(7))

    assert renamed == before
    assert identity(folder) != before


# ---- size -----------------------------------------------------------------------------------------------------------

SUBJECTS, SUBJECT_ROWS, SHAPE = 13, 118_000, (64, 64)  # 13 x 1.93 GB = 25.1 GB


def test_24_gigabytes_are_served_in_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In files with holes: what reads them whole, or keeps what it has read, needs more memory than there is."""
    for subject in range(SUBJECTS):
        x = open_memmap(tmp_path / f"s{subject:02}_x.npy", "w+", np.float32, (SUBJECT_ROWS, *SHAPE))
        x[-1, 0, 0] = subject
        x.flush()
        np.save(tmp_path / f"s{subject:02}_y.npy", np.arange(SUBJECT_ROWS))
    limit = 32 << 20
    monkeypatch.setattr(machine, "memory_nbytes", lambda: 16 << 30)  # so that it is so on any machine
    monkeypatch.setattr("feedline_server.sources.arrays.mapped.RESIDENT", Resident(limit))

    def resident_nbytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident_nbytes()
    dataset = opened(tmp_path, views={"train": ["!s12"], "validation": ["s12"]})
    identity(tmp_path)
    after_opening = resident_nbytes() - before
    ids = np.random.default_rng(0).integers(0, dataset.source.samples, (320, 64))
    out = {"x": np.zeros((64, *SHAPE), np.float32), "y": np.zeros(64, np.int64)}
    most = 0
    for batch in ids:  # 320 MiB of rows
        dataset.source.gather(batch, out)
        assert out["y"].tolist() == (batch % SUBJECT_ROWS).tolist()
        most = max(most, resident_nbytes() - before)
    dataset.source.gather(np.arange(1, 14) * SUBJECT_ROWS - 1, {"x": out["x"][:13]})

    assert dataset.source.samples == SUBJECTS * SUBJECT_ROWS
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 24e9
    assert out["x"][:13, 0, 0].tolist() == list(range(SUBJECTS))
    assert after_opening < limit
    assert most < 3 * limit
