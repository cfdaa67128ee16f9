"""Columns: .npy files, memory-mapped, and every way in which they can be wrong."""

import mmap
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.batches.records import Records
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.sources.arrays import stamp
from feedline_server.sources.arrays.content import Sampling
from feedline_server.sources.tables.concatenated import Concatenated
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array, Column


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ColumnsConfig.declare(path=folder, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def saved(folder: Path, **columns: NDArray[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    return folder


# ---- categories -----------------------------------------------------------------------------------------------------


def test_what_numbers_stand_for_can_be_declared_and_changes_no_batch(columns_folder: Path) -> None:
    named = ColumnsConfig.declare(path=columns_folder, categories={"y": ["cats", "dogs"]})
    plain = ColumnsConfig.declare(path=columns_folder)

    assert open_dataset("d", named).sent_categories == {"y": ("cats", "dogs")}
    assert fingerprint(open_dataset("d", named), named) == fingerprint(open_dataset("d", plain), plain)


def test_categories_of_no_column_are_refused(columns_folder: Path) -> None:
    with pytest.raises(DataError, match="categories name the column 'z'; the columns are x, y"):
        opened(columns_folder, categories={"z": ["cats"]})


def test_names_that_a_description_has_no_room_for_are_not_sent_and_that_is_said(columns_folder: Path) -> None:
    dataset = opened(columns_folder, categories={"y": ["n" * 1000] * 1100})

    assert dataset.sent_categories == {}
    assert dataset.notes == (
        "the names of the 1,100 categories of 'y' take more than 1 MiB and are not sent to trainers; `feedline inspect "
        "--json` lists them",
    )


# ---- gathering ------------------------------------------------------------------------------------------------------


def test_a_gather_writes_the_samples_asked_for_in_their_order_with_repeats(columns_folder: Path) -> None:
    found = gathered(opened(columns_folder), 7, 0, 7, 11)

    assert found["y"].tolist() == [107, 100, 107, 111]
    assert found["x"].shape == (4, 2, 3)
    assert found["x"][:, 1, 2].tolist() == [7.0, 0.0, 7.0, 11.0]


def test_a_gather_of_nothing_is_nothing(columns_folder: Path) -> None:
    assert gathered(opened(columns_folder))["x"].shape == (0, 2, 3)


def test_a_gather_writes_only_the_columns_asked_for(columns_folder: Path) -> None:
    y = np.zeros(2, "<i8")

    opened(columns_folder).source.gather(np.array([3, 4]), {"y": y})

    assert y.tolist() == [103, 104]


@pytest.mark.parametrize("wrong", [-1, 12, 1 << 40])
def test_an_id_outside_the_dataset_is_refused_and_not_clipped(columns_folder: Path, wrong: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"sample {wrong} was asked for; ids are 0\.\.11"):
        gathered(opened(columns_folder), 0, wrong)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(np.asfortranarray(np.arange(24.0).reshape(4, 3, 2)), id="fortran order"),
        pytest.param(np.arange(24, dtype=">f8").reshape(4, 3, 2), id="big endian"),
        pytest.param(np.asfortranarray(np.arange(24, dtype=">f8").reshape(4, 3, 2)), id="both"),
    ],
)
def test_columns_stored_another_way_arrive_in_c_order_and_little_endian(tmp_path: Path, stored: Array) -> None:
    dataset = opened(saved(tmp_path / "d", x=stored))

    assert dataset.columns[0].dtype.str == "<f8"
    assert gathered(dataset, 2, 0)["x"].tolist() == [
        [[12.0, 13.0], [14.0, 15.0], [16.0, 17.0]],
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    ]


def test_a_column_whose_data_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    """NumPy pads headers to 64 bytes; other writers need not."""
    (tmp_path / "d").mkdir()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    assert len(start) % 8
    (tmp_path / "d" / "x.npy").write_bytes(start + np.array([1.5, 2.5, 3.5]).tobytes())

    assert gathered(opened(tmp_path / "d"), 2, 1)["x"].tolist() == [3.5, 2.5]


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_column_larger_than_memory_is_read_only_where_it_is_asked(tmp_path: Path, order: str) -> None:
    """1 TiB in a file with holes: what reads it whole, or copies it into another order as np.take would, never ends."""
    (tmp_path / "d").mkdir()
    x = open_memmap(tmp_path / "d" / "x.npy", "w+", np.float32, (1 << 28, 1 << 10), fortran_order=order == "F")
    x[1 << 27, 7] = 5
    x.flush()

    found = gathered(opened(tmp_path / "d"), 1 << 27, 3)["x"]

    assert np.argwhere(found).tolist() == [[0, 7]]
    assert found[0, 7] == 5


class BadPart:
    """A source of 3 samples of which sample 2 cannot be read."""

    samples = 3
    columns = (Column("x", np.dtype("<i8"), ()),)
    most_ahead = 0

    def announce(self, ids: NDArray[np.int64], names: Collection[str]) -> None:
        """It has no disk."""

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        if 2 in ids:
            raise BadSample("sample 2 is torn", samples=[2])
        out["x"][...] = ids

    def content(self) -> Iterator[bytes]:
        yield b""


def test_a_bad_sample_of_one_of_several_parts_is_named_as_the_dataset_counts() -> None:
    both = Concatenated({"train": BadPart(), "validation": BadPart()})

    with pytest.raises(BadSample, match="in validation, whose sample 0 is sample 3: sample 2 is torn") as caught:
        both.gather(np.array([0, 5]), {"x": np.zeros(2, np.int64)})

    assert caught.value.samples == (5,)


def test_parts_are_gathered_from_that_of_the_first_sample_on() -> None:
    """What one worker decompresses others wait for: all of them, if all began with the same part."""
    order: list[str] = []

    class Told(BadPart):
        def __init__(self, name: str) -> None:
            self.name = name

        def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
            order.append(self.name)
            out["x"][...] = ids

    parts = Concatenated({name: Told(name) for name in "abc"})
    out = {"x": np.zeros(4, np.int64)}
    parts.gather(np.array([4, 7, 0, 3]), out)

    assert "".join(order) == "bca"
    assert out["x"].tolist() == [1, 1, 0, 0]


# ---- views ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_columns_is_one_view_with_everything(columns_folder: Path) -> None:
    views = opened(columns_folder).views

    assert {name: view.samples for name, view in views.items()} == {"train": 12}


def test_sub_folders_are_views_train_first_and_ids_run_on(tmp_path: Path) -> None:
    saved(tmp_path / "d" / "another", x=np.arange(200, 202))
    saved(tmp_path / "d" / "train", x=np.arange(3))
    saved(tmp_path / "d" / "validation", x=np.arange(100, 102))
    (tmp_path / "d" / "logs").mkdir()
    saved(tmp_path / "d" / ".hidden", z=np.arange(9))

    dataset = opened(tmp_path / "d")

    assert list(dataset.views) == ["train", "another", "validation"]
    assert dataset.views["validation"].ids(np.array([1, 0])).tolist() == [6, 5]
    assert gathered(dataset, 6, 0, 3, 5, 2, 4)["x"].tolist() == [101, 0, 200, 100, 2, 201]


def test_a_gather_from_a_single_sub_folder_is_written_straight_to_the_batch(tmp_path: Path) -> None:
    saved(tmp_path / "d" / "train", x=np.arange(3))
    saved(tmp_path / "d" / "validation", x=np.arange(100, 102))

    assert gathered(opened(tmp_path / "d"), 4, 3, 4)["x"].tolist() == [101, 100, 101]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0:3", [0, 1, 2]),
        ("9:", [9, 10, 11]),
        (":2", [0, 1]),
        ("-2:", [10, 11]),
        (":-10", [0, 1]),
        (" 3 : -7 ", [3, 4]),
    ],
)
def test_a_declared_view_is_a_slice(columns_folder: Path, text: str, ids: list[int]) -> None:
    view = opened(columns_folder, views={"some": text}).views["some"]

    assert view.samples == len(ids)
    assert view.ids(np.arange(len(ids))).tolist() == ids


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0:13", "there are 12 samples; give bounds within 0..12"),
        ("-13:", "there are 12 samples; give bounds within 0..12"),
        ("12:", "of 12 samples, which is empty"),
        ("5:5", "of 12 samples, which is empty"),
        ("7:3", "of 12 samples, which is empty"),
    ],
)
def test_a_view_outside_the_dataset_or_empty_is_refused(columns_folder: Path, text: str, wanted: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"view 'some' is {text!r}") + ".*" + re.escape(wanted)):
        opened(columns_folder, views={"some": text})


def test_a_view_of_ids_in_a_file_keeps_their_order_and_the_file_is_no_column(columns_folder: Path) -> None:
    np.save(columns_folder / "chosen.npy", np.array([5, 1, 9], np.int32))

    dataset = opened(columns_folder, views={"some": "chosen.npy"})

    assert [column.name for column in dataset.columns] == ["x", "y"]
    assert dataset.views["some"].ids(np.array([2, 0, 1, 0])).tolist() == [9, 5, 1, 5]


@pytest.mark.parametrize(
    ("ids", "selection"),
    [([3, 4, 5], range(3, 6)), ([3, 5, 4, 6], [3, 5, 4, 6]), ([3, 3, 5], [3, 3, 5]), ([7], range(7, 8))],
)
def test_ids_that_follow_each_other_are_kept_as_a_range_and_no_others(
    columns_folder: Path, ids: list[int], selection: object
) -> None:
    np.save(columns_folder / "chosen.npy", np.array(ids))

    found = opened(columns_folder, views={"some": "chosen.npy"}).views["some"].selection

    assert (found if isinstance(found, range) else found.tolist()) == selection


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (np.array([0, 12]), "names sample 12, but ids are 0..11"),
        (np.array([-1]), "names sample -1, but ids are 0..11"),
        (np.array([], np.int64), "has no sample ids in it"),
        (np.array([0.0]), "found float64(1); view 'some' wants one row of whole numbers"),
        (np.array([[1]]), "found int64(1, 1); view 'some' wants one row of whole numbers"),
        (np.array([1 << 63], np.uint64), "names sample 9223372036854775808"),
    ],
)
def test_a_file_of_ids_that_are_none_is_refused(columns_folder: Path, ids: Array, problem: str) -> None:
    np.save(columns_folder / "chosen.npy", ids)

    with pytest.raises(DataError, match=re.escape("chosen.npy: ") + ".*" + re.escape(problem)):
        opened(columns_folder, views={"some": "chosen.npy"})


def test_a_file_of_ids_that_is_missing_is_named(columns_folder: Path) -> None:
    with pytest.raises(DataError, match=r"nothere\.npy: cannot be read \(No such file"):
        opened(columns_folder, views={"some": "nothere.npy"})


def test_views_that_share_samples_are_noted_as_a_leak(columns_folder: Path) -> None:
    np.save(columns_folder / "chosen.npy", np.array([11, 3, 3]))

    notes = opened(columns_folder, views={"train": "0:10", "validation": "8:", "test": "chosen.npy"}).notes

    assert [note.partition(":")[0] for note in notes] == [
        "view 'test' holds 1 sample (3) more than once",
        "views 'train' and 'validation' share 2 samples (8, 9)",
        "views 'train' and 'test' share 1 sample (3)",
        "views 'validation' and 'test' share 1 sample (11)",
    ]


def test_a_place_outside_a_view_is_refused_although_the_dataset_has_such_a_sample(columns_folder: Path) -> None:
    view = opened(columns_folder, views={"train": "0:10"}).views["train"]

    with pytest.raises(InvalidRequest, match=r"view 'train' has places 0\.\.9; 0\.\.10 were asked for"):
        view.ids(np.array([0, 10]))


# ---- folders that are wrong -----------------------------------------------------------------------------------------


def test_columns_of_different_length_are_refused_naming_both(columns_folder: Path) -> None:
    np.save(columns_folder / "y.npy", np.arange(11))

    with pytest.raises(DataError, match=r"x\.npy has 12 samples and y\.npy has 11"):
        opened(columns_folder)


def test_sub_folders_with_different_columns_are_refused_naming_both(tmp_path: Path) -> None:
    saved(tmp_path / "d" / "train", x=np.zeros((2, 3), np.float32))
    saved(tmp_path / "d" / "validation", x=np.zeros((2, 4), np.float32))

    with pytest.raises(DataError, match=r"train/ has x float32\(3\), but validation/ has x float32\(4\)"):
        opened(tmp_path / "d")


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ({"push/000": 3, "push/001": 3, "wave/000": 3, "wave/001": 3}, "class_folders"),
        ({"push/000": 3, "wave/001": 3}, "class_folders"),
        ({"words": 9, "tags": 9, "lengths": 2}, "sequences"),
        ({"words": 9, "offsets": 3}, "sequences"),
        ({"s01_x": 5, "s01_y": 5, "s02_x": 6, "s02_y": 6}, "subjects"),
        ({"s01_x": 5, "s01_y": 5, "s02_x": 5, "s02_y": 5}, "subjects"),
    ],
)
def test_files_that_make_no_columns_are_told_with_the_kind_that_their_names_may_mean(
    tmp_path: Path, lengths: dict[str, int], kind: str
) -> None:
    for name, length in lengths.items():
        saved((tmp_path / name).parent, **{Path(name).name: np.zeros(length)})

    with pytest.raises(DataError, match=f'declare kind = "{kind}"$'):
        opened(tmp_path)


def test_columns_that_are_nothing_else_are_told_without_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wanted one row a sample in each$"):
        opened(saved(tmp_path, x=np.zeros(4), y=np.zeros(5)))


def test_the_same_columns_here_and_in_a_sub_folder_are_refused(columns_folder: Path) -> None:
    saved(columns_folder / "train", x=np.arange(3))

    with pytest.raises(DataError, match=r"the columns x\.npy, y\.npy are here and also in train/"):
        opened(columns_folder)


def test_a_folder_without_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no \.npy file here or one folder down"):
        opened(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothere: there is no such file or folder; correct"):
        opened(tmp_path / "nothere")


def test_a_column_may_not_take_the_name_of_the_sample_ids(columns_folder: Path) -> None:
    np.save(columns_folder / "__ids__.npy", np.arange(12))

    with pytest.raises(DataError, match="__ids__ is the column of sample ids that every batch has"):
        opened(columns_folder)


# ---- files that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (np.array(5.0), "holds a single value; wanted an array with a row for every sample"),
        (np.zeros((0, 3)), "has no samples, its shape is (0, 3)"),
        (np.zeros((3, 0)), "its samples hold no values, its shape is (3, 0)"),
        (np.array(["a", "b"]), "dtype <U1 cannot be served; convert the data to one of: bool, complex128"),
        (np.zeros(3, [("a", "i4")]), "cannot be served"),
        (np.zeros(3, "M8[s]"), "cannot be served"),
    ],
)
def test_an_array_that_cannot_be_served_is_refused(tmp_path: Path, column: Array, problem: str) -> None:
    folder = saved(tmp_path / "d", x=column)

    with pytest.raises(DataError, match=r"x\.npy: .*" + re.escape(problem)):
        opened(folder)


class Bomb:
    """Unpickling one fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_explode, ())


def _explode() -> None:
    raise AssertionError("an object array was unpickled")


def test_an_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.array([Bomb(), Bomb()], dtype=object), allow_pickle=True)

    with pytest.raises(DataError, match=r"x\.npy: holds Python objects, which are never unpickled; save numbers"):
        opened(tmp_path / "d")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "is empty (0 bytes); wanted an .npy file"),
        (lambda whole: whole[:4], "is not an .npy file (it begins with b'\\x93NUM')"),
        (lambda whole: b"hello, world", "is not an .npy file (it begins with b'hello, w')"),
        (lambda whole: b"PK\x03\x04" + whole, "is not an .npy file (an .npz archive; save each array with numpy.save)"),
        (lambda whole: whole[:7], "is .npy version (1,); wanted 1.0 or 2.0"),
        (lambda whole: whole[:6] + b"\x09" + whole[7:], "is .npy version (9, 0); wanted 1.0 or 2.0"),
        (lambda whole: whole[:40], "its header is damaged (EOF: reading array header"),
        (lambda whole: whole.replace(b"'shape'", b"'shave'"), "its header is damaged (Header does not contain"),
        (lambda whole: whole.replace(b"(12,", b"(12 "), "its header is damaged"),
        (lambda whole: whole.replace(b"(12,)", b"(-1,)"), "its header is damaged (shape (-1,))"),
        (lambda whole: whole.replace(b"<i8", b"<q9"), "its header is damaged"),
        (lambda whole: whole[:10] + b"\xff" * 40 + whole[50:], "its header is damaged"),
        (lambda whole: whole[:-1], "is cut short, 95 bytes of data where int64(12) has 96"),
        (lambda whole: whole[:128], "is cut short, 0 bytes of data where int64(12) has 96"),
    ],
)
def test_a_damaged_file_is_refused_when_it_is_opened(columns_folder: Path, damage: Any, problem: str) -> None:
    file = columns_folder / "y.npy"
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(DataError, match=re.escape(f"{file}: {problem}")):
        opened(columns_folder)


def test_a_header_that_claims_more_than_memory_is_refused_by_the_files_size(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999, 9999999999999), }\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "d" / "x.npy").write_bytes(start + bytes(64))

    with pytest.raises(DataError, match=r"is cut short, 64 bytes of data where .* has 799999999999840000000000008"):
        opened(tmp_path / "d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(columns_folder: Path) -> None:
    (columns_folder / "y.npy").chmod(0)

    with pytest.raises(DataError, match=r"y\.npy: cannot be read \(Permission denied\)"):
        opened(columns_folder)


# ---- files that change while served ---------------------------------------------------------------------------------


def overwritten(file: Path, *, at: int = -1) -> None:
    """In place, and the old times are set again."""
    status = file.stat()
    whole = bytearray(file.read_bytes())
    whole[at] ^= 1
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def touched(file: Path) -> None:
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def linked(file: Path) -> None:
    """As a backup by hard links does; the same with its mode."""
    os.link(file, file.parent.parent / "backup")
    file.chmod(0o600)


def replaced(file: Path) -> None:
    other = file.parent.parent / "other"
    np.save(other.with_suffix(".npy"), np.load(file) + 1)
    other.with_suffix(".npy").replace(file)


def test_a_file_cut_while_served_is_an_error_and_not_a_dead_process(columns_folder: Path) -> None:
    dataset = opened(columns_folder)
    os.truncate(columns_folder / "y.npy", 130)

    with pytest.raises(DataError, match=r"y\.npy: changed while served \(it was 224 bytes and is 130\); run `f"):
        gathered(dataset, 0)


def test_a_file_written_to_while_served_is_an_error_although_its_times_are_set_back(columns_folder: Path) -> None:
    dataset = opened(columns_folder)
    overwritten(columns_folder / "y.npy")

    with pytest.raises(DataError, match=r"y\.npy: changed while served \(its content is another\)"):
        gathered(dataset, 0)


@pytest.mark.parametrize("change", [touched, linked])
def test_new_times_of_a_file_with_the_same_content_are_no_change(
    columns_folder: Path, change: Callable[[Path], None]
) -> None:
    dataset = opened(columns_folder)
    before = gathered(dataset, 0)
    change(columns_folder / "y.npy")

    assert gathered(dataset, 0)["y"].tolist() == before["y"].tolist()


@pytest.mark.parametrize("change", [replaced, Path.unlink])
def test_a_file_that_another_one_takes_the_place_of_is_served_on(
    columns_folder: Path, change: Callable[[Path], None]
) -> None:
    dataset = opened(columns_folder)
    before = gathered(dataset, 0)
    change(columns_folder / "y.npy")

    assert gathered(dataset, 0)["y"].tolist() == before["y"].tolist()


def test_of_a_file_that_is_not_read_whole_a_touch_is_an_error_and_a_hard_link_is_none(
    columns_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "one_of", lambda files: Sampling(whole=100, blocks=2, block_bytes=8))
    dataset = opened(columns_folder)
    linked(columns_folder / "y.npy")

    gathered(dataset, 0)
    touched(columns_folder / "y.npy")
    with pytest.raises(
        DataError, match=r"y\.npy: changed while served \(it was written to, or touched and never read w"
    ):
        gathered(dataset, 0)


def test_a_process_that_opens_what_another_remembered_names_the_file_that_changed(columns_folder: Path) -> None:
    """Also where the bytes that a fingerprint is made of are the same."""
    config = ColumnsConfig.declare(path=columns_folder)
    records = Records({"d": open_dataset("d", config)})
    memory = memoryview(mmap.mmap(records.fd, 0))
    records.close()

    assert gathered(open_dataset_in_worker("d", config, records=memory), 0)["y"].shape[0] == 1
    replaced(columns_folder / "y.npy")
    with pytest.raises(DataError, match=r"y\.npy: changed while served \(another file took its place\)") as caught:
        open_dataset_in_worker("d", config, records=memory)
    assert caught.value.elsewhere
    (columns_folder / "z.npy").write_bytes((columns_folder / "x.npy").read_bytes())
    with pytest.raises(DataError, match="the dataset's files changed: they are others, or of another number"):
        open_dataset_in_worker("d", config, records=memory)


# ---- names that say views, and what is input and target ---


def test_files_whose_names_say_views_are_the_columns_of_these(tmp_path: Path) -> None:
    """With equal lengths, `x_test` would be a second input to train on."""
    x, y = np.arange(6.0), np.arange(6)
    saved(tmp_path, x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])

    dataset = opened(tmp_path)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 4, "test": 2}
    assert dataset.structure == ("x", "y")
    assert gathered(dataset, 0, 5)["y"].tolist() == [0, 5]


def test_names_may_begin_with_the_view(tmp_path: Path) -> None:
    saved(tmp_path, **{"train-images": np.ones(3), "train-labels": np.ones(3), "val_images": np.ones(2)})
    saved(tmp_path, val_labels=np.ones(2))

    dataset = opened(tmp_path)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3, "validation": 2}
    assert dataset.structure == ("images", "labels")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["x_train", "y_train", "x_test"], "train/ has x float64\\(\\), y float64\\(\\), but test/ has x float64"),
        (["x_train", "y_train", "x_test", "y_test", "ids"], "say views, and ids says none; move it away"),
        (["x_train", "train_x", "x_test"], "train_x and x_train are both 'x' of the view 'train'; rename one"),
    ],
)
def test_views_that_are_not_alike_are_refused(tmp_path: Path, names: list[str], problem: str) -> None:
    saved(tmp_path, **{name: np.ones(3) for name in names})

    with pytest.raises(DataError, match=problem):
        opened(tmp_path)


def test_columns_of_one_view_keep_their_names_and_so_do_those_that_are_declared(tmp_path: Path) -> None:
    saved(tmp_path, x_train=np.ones(3), y_train=np.ones(3))

    assert opened(tmp_path).structure == ("x_train", "y_train")

    saved(tmp_path, x_test=np.ones(3))
    assert opened(tmp_path, inputs=["x_train", "x_test"], targets="y_train").views["train"].samples == 3


@pytest.mark.parametrize(
    ("names", "structure"),
    [
        (["images", "labels"], ("images", "labels")),
        (["Features", "target"], ("Features", "target")),
        (["x", "label"], ("x", "label")),
        (["image", "y"], ("image", "y")),
    ],
)
def test_names_that_plainly_say_so_are_inputs_and_targets(
    tmp_path: Path, names: list[str], structure: tuple[str, str]
) -> None:
    saved(tmp_path, **{name: np.ones(3) for name in names})

    assert opened(tmp_path).structure == structure


def test_columns_are_told_by_any_spelling_of_the_suffix_and_without_one_by_their_bytes(tmp_path: Path) -> None:
    saved(tmp_path, x=np.arange(3), y=np.arange(3), z=np.arange(3))
    (tmp_path / "y.npy").rename(tmp_path / "y.NPY")
    (tmp_path / "z.npy").rename(tmp_path / "z")

    assert [column.name for column in opened(tmp_path).source.columns] == ["x", "y", "z"]

    saved(tmp_path, y=np.arange(3))
    with pytest.raises(DataError, match=r"y\.NPY and y\.npy are both the column 'y'; rename one"):
        opened(tmp_path)
