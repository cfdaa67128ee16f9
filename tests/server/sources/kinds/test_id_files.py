"""A folder of ID.npy files with a partition and labels, and every way in which they can be wrong."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import IdFilesConfig
from feedline_server.tools.inspect.findings import class_counts
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", IdFilesConfig.declare(path=folder, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def as_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


# ---- gathering ------------------------------------------------------------------------------------------------------


def test_a_gather_reads_the_files_asked_for_in_their_order_with_repeats(id_files_folder: Path) -> None:
    found = gathered(opened(id_files_folder), 4, 1, 4)

    assert found["x"].tolist() == [[[4.0] * 3] * 2, [[1.0] * 3] * 2, [[4.0] * 3] * 2]
    assert found["y"].tolist() == [1, 1, 1]
    assert gathered(opened(id_files_folder), 2, 3)["y"].tolist() == [2, 0]


def test_a_gather_writes_only_the_columns_asked_for(id_files_folder: Path) -> None:
    dataset = opened(id_files_folder)
    (id_files_folder / "data" / "id-2.npy").unlink()
    y = np.zeros(1, "<i8")

    dataset.source.gather(np.array([2]), {"y": y})

    assert y.tolist() == [2]


def test_a_gather_of_nothing_is_nothing(id_files_folder: Path) -> None:
    assert gathered(opened(id_files_folder))["x"].shape == (0, 2, 3)


def test_labels_can_be_one_hot(id_files_folder: Path) -> None:
    dataset = opened(id_files_folder, one_hot=True)

    assert [str(column) for column in dataset.columns] == ["x float32(2, 3)", "y float32(3)"]
    assert gathered(dataset, 4, 3, 2)["y"].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_one_hot_labels_are_as_long_as_the_classes_declared(id_files_folder: Path) -> None:
    assert gathered(opened(id_files_folder, one_hot=True, classes=6), 4)["y"].tolist() == [[0, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(np.asfortranarray(np.arange(6, dtype="<f4").reshape(2, 3)), id="fortran order"),
        pytest.param(np.arange(6, dtype=">f4").reshape(2, 3), id="big endian"),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_samples_stored_another_way_arrive_the_same(id_files_folder: Path, first: Array, place: int) -> None:
    np.save(id_files_folder / "data" / f"id-{place}.npy", first)

    dataset = opened(id_files_folder)

    assert dataset.columns[0].dtype.str == "<f4"
    assert gathered(dataset, place, 1)["x"].tolist() == [[[0, 1, 2], [3, 4, 5]], [[1, 1, 1], [1, 1, 1]]]


def test_samples_can_be_single_values(id_files_folder: Path) -> None:
    for k in range(5):
        np.save(id_files_folder / "data" / f"id-{k}.npy", np.float64(k + 0.5))

    assert gathered(opened(id_files_folder), 3, 0)["x"].tolist() == [3.5, 0.5]


def test_an_id_outside_the_dataset_is_refused(id_files_folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"sample -1 was asked for; ids are 0\.\.4"):
        gathered(opened(id_files_folder), -1)


# ---- several arrays a sample ----------------------------------------------------------------------------------------


def rewritten(folder: Path, write: Callable[[Path, float], object]) -> Path:
    """The same five samples, kept in another way: `write(path without suffix, value)` each."""
    for k in range(5):
        (folder / "data" / f"id-{k}.npy").unlink()
        write(folder / "data" / f"id-{k}", k)
    return folder


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_the_arrays_of_an_archive_are_columns(id_files_folder: Path, write: Callable[..., None]) -> None:
    rewritten(
        id_files_folder,
        lambda path, k: write(path.with_suffix(".npz"), x=np.full((2, 3), k, np.float32), x_age=np.int16(k)),
    )

    dataset = opened(id_files_folder)
    found = gathered(dataset, 4, 1, 4)

    assert [str(column) for column in dataset.columns] == ["x float32(2, 3)", "y int64()"]
    assert dataset.notes == ("column 'x_age' is in no part of a batch and is not served",)
    assert found["x"][:, 1, 2].tolist() == [4, 1, 4]
    assert found["x_age"].tolist() == [4, 1, 4]
    assert found["y"].tolist() == [1, 1, 1]


def test_the_only_array_of_an_archive_is_the_input_whatever_its_name(id_files_folder: Path) -> None:
    rewritten(id_files_folder, lambda path, k: np.savez(path.with_suffix(".npz"), np.full(2, k)))

    assert gathered(opened(id_files_folder), 3)["x"].tolist() == [[3, 3]]


def test_a_sample_can_have_several_files(id_files_folder: Path) -> None:
    def write(path: Path, k: float) -> None:
        np.save(f"{path}_x.npy", np.full((2, 3), k, np.float32))
        np.save(f"{path}_mask.npy", np.array([k > 1, k > 2]))

    dataset = opened(
        rewritten(id_files_folder, write),
        files={"x": "{id}_x.npy", "y": "{id}_mask.npy"},
        labels=False,
    )

    assert [str(column) for column in dataset.columns] == ["x float32(2, 3)", "y bool(2)"]
    assert gathered(dataset, 2, 0)["y"].tolist() == [[True, False], [False, False]]
    assert gathered(dataset, 2, 0)["x"][:, 0, 0].tolist() == [2, 0]


def test_arrays_can_be_chosen_and_files_lie_in_a_folder_of_each_id(id_files_folder: Path) -> None:
    def write(path: Path, k: float) -> None:
        path.mkdir()
        with h5py.File(path / "scan.h5", "w") as file:
            file["volume/t1"] = np.full((2, 3), k)
            file["names"] = ["a"]

    dataset = opened(rewritten(id_files_folder, write), files="{id}/scan.h5", arrays={"x": "/volume/t1"})

    assert gathered(dataset, 4)["x"][0, 1, 2] == 4
    assert gathered(dataset, 4)["y"].tolist() == [1]


def test_archives_may_bring_their_labels_themselves(id_files_folder: Path) -> None:
    rewritten(id_files_folder, lambda path, k: np.savez(path.with_suffix(".npz"), x=np.full(2, k), y=np.float32(k / 2)))
    (id_files_folder / "labels.json").unlink()

    assert gathered(opened(id_files_folder, labels=False), 3)["y"].tolist() == [1.5]


def test_labels_beside_arrays_of_that_name_are_refused(id_files_folder: Path) -> None:
    rewritten(id_files_folder, lambda path, k: np.savez(path.with_suffix(".npz"), x=np.full(2, k), y=k))

    with pytest.raises(DataError, match=r"have an array 'y', and there are labels too; set labels = false"):
        opened(id_files_folder)


def test_an_array_that_the_first_sample_has_not_is_refused(id_files_folder: Path) -> None:
    rewritten(id_files_folder, lambda path, k: np.savez(path.with_suffix(".npz"), eeg=k))

    with pytest.raises(DataError, match=r"id-0\.npz: has no array 'ecg'; it has eeg"):
        opened(id_files_folder, arrays={"x": "ecg"})


def test_the_file_that_is_missing_is_named_by_its_pattern(id_files_folder: Path) -> None:
    with pytest.raises(DataError, match=r"no file for 5 ids \(.*\) of the partition, wanted id-0_mask\.npy"):
        opened(id_files_folder, files={"x": "{id}.npy", "mask": "{id}_mask.npy"})


# ---- where things are -----------------------------------------------------------------------------------------------


def test_files_may_lie_beside_the_partition(id_files_folder: Path) -> None:
    for file in (id_files_folder / "data").iterdir():
        file.rename(id_files_folder / file.name)
    (id_files_folder / "data").rmdir()

    assert gathered(opened(id_files_folder), 3)["x"][0, 0, 0] == 3


def test_file_names_and_the_data_folder_can_be_declared(id_files_folder: Path, tmp_path: Path) -> None:
    (id_files_folder / "data").rename(tmp_path / "elsewhere")
    (id_files_folder / "partition.json").rename(id_files_folder / "split.json")
    (id_files_folder / "labels.json").rename(tmp_path / "classes.json")

    dataset = opened(
        id_files_folder, data=str(tmp_path / "elsewhere"), partition="split.json", labels="../classes.json"
    )

    assert gathered(dataset, 4)["y"].tolist() == [1]


def test_ids_may_lie_in_sub_folders(id_files_folder: Path) -> None:
    (id_files_folder / "data" / "late").mkdir()
    (id_files_folder / "data" / "id-4.npy").rename(id_files_folder / "data" / "late" / "id-4.npy")
    as_json(id_files_folder / "partition.json", {"train": ["id-0", "late/id-4"]})
    as_json(id_files_folder / "labels.json", {"id-0": 0, "late/id-4": 2})

    found = gathered(opened(id_files_folder), 1)

    assert (found["x"][0, 0, 0], found["y"][0]) == (4, 2)


def test_ids_may_be_numbers(id_files_folder: Path) -> None:
    np.save(id_files_folder / "data" / "17.npy", np.full((2, 3), 17, np.float32))
    as_json(id_files_folder / "partition.json", {"train": [17]})
    as_json(id_files_folder / "labels.json", {"17": 1})

    assert gathered(opened(id_files_folder), 0)["x"][0, 0, 0] == 17


# ---- views ----------------------------------------------------------------------------------------------------------


def test_views_are_the_partition_and_ids_count_in_order_of_first_appearance(id_files_folder: Path) -> None:
    dataset = opened(id_files_folder)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3, "validation": 2}
    assert dataset.views["train"].selection == range(3)
    assert dataset.views["validation"].selection == range(3, 5)
    assert dataset.notes == ()


def test_an_id_in_two_views_is_one_sample_and_noted_as_a_leak(id_files_folder: Path) -> None:
    as_json(id_files_folder / "partition.json", {"train": ["id-3", "id-1"], "validation": ["id-0", "id-3", "id-0"]})

    dataset = opened(id_files_folder)

    assert dataset.source.samples == 3
    assert dataset.views["validation"].ids(np.array([0, 1, 2])).tolist() == [2, 0, 2]
    assert gathered(dataset, 0, 1, 2)["x"][:, 0, 0].tolist() == [3, 1, 0]
    assert dataset.notes == (
        "view 'validation' holds 1 sample (id-0) more than once",
        "views 'train' and 'validation' share 1 sample (id-3): "
        "what is trained on is also measured on, unless that is meant",
        f"{id_files_folder}: left out are 2 .npy (data/id-2.npy, …)",
    )


def test_an_id_may_be_written_as_a_path_from_here(id_files_folder: Path) -> None:
    as_json(id_files_folder / "partition.json", {"train": ["./id-3", "id-1"]})
    as_json(id_files_folder / "labels.json", {"id-3": 0, "././id-1": 1})

    assert gathered(opened(id_files_folder), 0, 1)["y"].tolist() == [0, 1]

    as_json(id_files_folder / "labels.json", {"id-3": 0, "./id-3": 1, "id-1": 1})
    with pytest.raises(DataError, match=r"labels\.json: '\./id-3' and 'id-3' are the same id; leave one out"):
        opened(id_files_folder)


# ---- partitions and labels that are wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not the JSON that was wanted: Expecting value: line 1 column 1"),
        ('{"train": ["id-0"}', "is not the JSON that was wanted: Expecting ',' delimiter: line 1 column 18"),
        ("[" * 100_000, "is not the JSON that was wanted"),
        ("[]", "holds nothing; wanted JSON"),
        ("{}", "holds nothing; wanted JSON"),
        ("[1]", "holds list; wanted JSON"),
        ('{"train": "id-0"}', "view 'train' is str; wanted a list of ids"),
        ('{"train": ["id-0"], "validation": []}', "view 'validation' is empty; give it ids or remove it"),
        ('{"train": ["id-0", 1.5]}', "view 'train' holds 1.5; wanted ids, as text or whole numbers"),
        ('{"train": [true]}', "view 'train' holds true; wanted ids"),
        ('{"train": [["id-0"]]}', "view 'train' holds [\"id-0\"]; wanted ids"),
        ('{"train": ["id-0"], "train": ["id-1"]}', "'train' is there twice"),
        ('{"train": ["../labels"]}', "view 'train' has 1 id ('../labels') that name no file inside the data folder"),
        ('{"train": ["/etc/passwd"]}', "that name no file inside the data folder"),
        ('{"train": [""]}', "that name no file inside the data folder"),
    ],
)
def test_a_partition_that_is_none_is_refused(id_files_folder: Path, text: str, problem: str) -> None:
    (id_files_folder / "partition.json").write_text(text)

    with pytest.raises(DataError, match=r"partition\.json: .*" + re.escape(problem)):
        opened(id_files_folder)


def test_a_partition_that_is_no_text_is_refused(id_files_folder: Path) -> None:
    (id_files_folder / "partition.json").write_bytes(b"{\xff\xfe\xfd}")

    with pytest.raises(DataError, match=r"partition\.json: is not the JSON that was wanted"):
        opened(id_files_folder)


@pytest.mark.parametrize("missing", ["partition.json", "labels.json"])
def test_a_missing_list_is_named(id_files_folder: Path, missing: str) -> None:
    (id_files_folder / missing).unlink()

    with pytest.raises(DataError, match=re.escape(f"{missing}: cannot be read (No such file")):
        opened(id_files_folder)


def test_ids_without_a_file_are_counted_and_the_first_few_named(id_files_folder: Path) -> None:
    as_json(id_files_folder / "partition.json", {"train": ["id-0", *(f"gone-{k}" for k in range(7))]})
    as_json(id_files_folder / "labels.json", {"id-0": 0} | {f"gone-{k}": 0 for k in range(7)})

    with pytest.raises(
        DataError,
        match=r"data: no file for 7 ids \('gone-0', 'gone-1', 'gone-2', 'gone-3', 'gone-4', …\) of the partition, "
        r"wanted gone-0\.npy",
    ):
        opened(id_files_folder)


def test_a_missing_data_folder_is_named(id_files_folder: Path) -> None:
    with pytest.raises(DataError, match=r"nothere: cannot be read \(No such file"):
        opened(id_files_folder, data="nothere")


def test_ids_without_a_label_are_counted_and_named(id_files_folder: Path) -> None:
    as_json(id_files_folder / "labels.json", {"id-0": 0, "id-2": 1, "id-3": 1})

    with pytest.raises(DataError, match=r"labels\.json: no label for 2 ids \('id-1', 'id-4'\) of the partition"):
        opened(id_files_folder)


@pytest.mark.parametrize("label", [-1, 1.5, 2.0, "1", None, True, [1], 1 << 64])
def test_a_label_that_is_no_class_is_refused(id_files_folder: Path, label: object) -> None:
    as_json(id_files_folder / "labels.json", {"id-0": 0, "id-1": label, "id-2": 1, "id-3": 1, "id-4": 1})

    with pytest.raises(
        DataError,
        match=re.escape(
            f"the labels of 1 id ('id-1': {json.dumps(label)}) are no classes; wanted whole numbers from 0"
        ),
    ):
        opened(id_files_folder)


def test_a_label_beyond_the_classes_declared_is_refused(id_files_folder: Path) -> None:
    with pytest.raises(DataError, match=r"\('id-2': 2\) are no classes; wanted whole numbers 0\.\.1 \(classes = 2\)"):
        opened(id_files_folder, classes=2)


def test_a_label_given_twice_is_refused(id_files_folder: Path) -> None:
    """JSON lets the last one win: the sample would silently have another class."""
    (id_files_folder / "labels.json").write_text('{"id-0": 1, "id-1": 0, "id-0": 2}')

    with pytest.raises(DataError, match=r"labels\.json: .*'id-0' is there twice"):
        opened(id_files_folder)


def test_labels_of_ids_that_are_not_in_the_partition_are_left_alone(id_files_folder: Path) -> None:
    as_json(id_files_folder / "labels.json", {f"id-{k}": k % 3 for k in range(5)} | {"other": "cat"})

    assert opened(id_files_folder).source.samples == 5


# ---- links out of the folder ----------------------------------------------------------------------------------------


def test_an_id_that_leads_out_of_the_folder_by_a_link_is_refused_unless_that_is_meant(
    id_files_folder: Path, tmp_path: Path
) -> None:
    """A list may come from anybody; what it names must be what the operator declared."""
    (tmp_path / "secret").mkdir()
    np.save(tmp_path / "secret" / "s.npy", np.zeros((2, 3), np.float32))
    (id_files_folder / "data" / "file.npy").symlink_to(tmp_path / "secret" / "s.npy")
    (id_files_folder / "data" / "folder").symlink_to(tmp_path / "secret")

    for name, link in (("file", "file.npy"), ("folder/s", "folder")):
        as_json(id_files_folder / "partition.json", {"train": ["id-0", name]})
        as_json(id_files_folder / "labels.json", {"id-0": 0, name: 1})
        with pytest.raises(DataError, match=rf"data/{link}: is a link out of .*data, to .*; set follow_links = true"):
            opened(id_files_folder)
        assert gathered(opened(id_files_folder, follow_links=True), 1)["y"].tolist() == [1]


def test_links_that_nobody_names_or_that_stay_inside_are_left_alone(id_files_folder: Path) -> None:
    (id_files_folder / "data" / "unused.npy").symlink_to("/etc/hostname")
    (id_files_folder / "data" / "id-4.npy").unlink()
    (id_files_folder / "data" / "id-4.npy").symlink_to("id-3.npy")

    assert gathered(opened(id_files_folder), 4)["x"][0, 0, 0] == 3


def test_the_folder_itself_may_be_a_link(id_files_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(id_files_folder)

    assert gathered(opened(tmp_path / "link"), 4)["x"][0, 0, 0] == 4


# ---- samples that are wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((3, 2), np.float32), "holds float32(3, 2), sample 0 ("),
        (np.zeros((2, 3), np.float64), "holds float64(2, 3), sample 0 ("),
        (np.zeros((2, 3), np.int32), "holds int32(2, 3), sample 0 ("),
        (np.zeros((2, 3, 1), np.float32), "holds float32(2, 3, 1), sample 0 ("),
    ],
)
def test_a_sample_unlike_the_first_is_bad_and_both_are_named(id_files_folder: Path, array: Array, problem: str) -> None:
    np.save(id_files_folder / "data" / "id-3.npy", array)
    dataset = opened(id_files_folder)

    with pytest.raises(BadSample) as caught:
        gathered(dataset, 1, 3)

    assert re.search(r"sample 3 \(.*id-3\.npy\) " + re.escape(problem) + r".*id-0\.npy\)", str(caught.value))
    assert caught.value.samples == (3,)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "is empty (0 bytes)"),
        (lambda whole: whole[:-1], "is cut short, 23 bytes of data where float32(2, 3) has 24"),
        (lambda whole: whole[:50], "its header is damaged"),
        (lambda whole: b"hello" + whole, "is not an .npy file"),
    ],
)
def test_a_damaged_sample_is_bad_and_named(id_files_folder: Path, damage: Any, problem: str) -> None:
    file = id_files_folder / "data" / "id-3.npy"
    file.write_bytes(damage(file.read_bytes()))
    dataset = opened(id_files_folder)

    with pytest.raises(BadSample, match=re.escape(f"sample 3 ({file}): {file}: {problem}")) as caught:
        gathered(dataset, 0, 3)

    assert caught.value.samples == (3,)


def test_a_sample_of_objects_is_bad_and_never_unpickled(id_files_folder: Path) -> None:
    np.save(id_files_folder / "data" / "id-3.npy", np.array([{}], dtype=object), allow_pickle=True)
    dataset = opened(id_files_folder)

    with pytest.raises(BadSample, match="holds Python objects, which are never unpickled"):
        gathered(dataset, 3)


def test_a_sample_whose_file_is_gone_is_no_bad_sample_that_may_be_left_out(id_files_folder: Path) -> None:
    dataset = opened(id_files_folder, on_bad_sample="skip")
    (id_files_folder / "data" / "id-3.npy").unlink()

    with pytest.raises(DataError, match=r"sample 3 \(.*id-3\.npy\): changed while served \(it is gone\)") as caught:
        gathered(dataset, 0, 3)

    assert not isinstance(caught.value, BadSample)
    assert caught.value.samples == (3,)
    assert caught.value.elsewhere


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, r"a named pipe \(FIFO\)"),
        (bound, "a socket"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
    ],
)
def test_what_is_no_file_among_the_samples_is_named_when_the_dataset_is_opened(
    id_files_folder: Path, make: Callable[[Path], None], what: str
) -> None:
    file = id_files_folder / "data" / "id-3.npy"
    file.unlink()
    make(file)

    with pytest.raises(
        DataError, match=rf"id-3\.npy: is {what}; wanted the file of a sample, put a regular file there"
    ):
        opened(id_files_folder, follow_links=True)


def test_a_bad_sample_leaves_no_file_open(id_files_folder: Path) -> None:
    (id_files_folder / "data" / "id-3.npy").write_bytes(b"")
    dataset = opened(id_files_folder)
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        with pytest.raises(BadSample):
            gathered(dataset, 0, 3)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((2, 0)), r"id-0\.npy: holds no values, its shape is \(2, 0\)"),
        (np.array(["a"]), r"id-0\.npy: dtype <U1 cannot be served"),
    ],
)
def test_a_first_sample_that_cannot_be_served_is_refused_at_once(
    id_files_folder: Path, array: Array, problem: str
) -> None:
    np.save(id_files_folder / "data" / "id-0.npy", array)

    with pytest.raises(DataError, match=problem):
        opened(id_files_folder)


def written_to(file: Path) -> None:
    """In place, with other bytes and the old times."""
    status = file.stat()
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(file: Path) -> None:
    """By another file with the same bytes and times."""
    shutil.copy2(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def touched(file: Path) -> None:
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def linked(file: Path) -> None:
    """As a backup by hard links does; the same with its mode."""
    os.link(file, file.with_suffix(".link"))
    file.chmod(0o600)


@pytest.mark.parametrize("was_read", [True, False])
@pytest.mark.parametrize(
    ("change", "how"),
    [
        (
            written_to,
            r"(its content is another|its status changed and it was never read before; .*trust = \"size\+m.*)",
        ),
        (replaced, "another file took its place"),
        (lambda file: os.truncate(file, 100), r"it was \d+ bytes and is 100"),
    ],
)
def test_a_file_that_is_another_one_is_an_error_although_its_times_are_kept_and_it_was_never_read(
    id_files_folder: Path, change: Callable[[Path], None], how: str, was_read: bool
) -> None:
    dataset = opened(id_files_folder)
    if was_read:
        gathered(dataset, 3)
    change(id_files_folder / "data" / "id-3.npy")

    with pytest.raises(DataError, match=rf"sample 3 \(.*id-3\.npy\): changed while served \({how}\); run `f") as caught:
        gathered(dataset, 2, 3)

    assert not isinstance(caught.value, BadSample)
    assert caught.value.samples == (3,)
    assert caught.value.elsewhere


@pytest.mark.parametrize("change", [touched, linked])
@pytest.mark.parametrize("name", ["{}.npy", "{}.npz"])
def test_new_times_of_a_file_with_the_content_that_was_read_are_no_change(
    id_files_folder: Path, change: Callable[[Path], None], name: str
) -> None:
    rewritten(id_files_folder, lambda path, k: (np.save if name == "{}.npy" else np.savez)(path, np.full((2, 3), k)))
    dataset = opened(id_files_folder, files="{id}" + name[2:])
    file = id_files_folder / "data" / name.format("id-3")
    before = gathered(dataset, 3)["x"].tolist()
    change(file)

    assert gathered(dataset, 3)["x"].tolist() == before
    written_to(file)
    with pytest.raises(DataError, match="its content is another"):
        gathered(dataset, 3)


@pytest.mark.parametrize(("change", "is_trusted"), [(linked, True), (replaced, True), (touched, False)])
def test_who_trusts_size_and_modification_time_is_served_what_has_them(
    id_files_folder: Path, change: Callable[[Path], None], is_trusted: bool
) -> None:
    dataset = opened(id_files_folder, trust="size+mtime")
    change(id_files_folder / "data" / "id-3.npy")

    with nullcontext() if is_trusted else pytest.raises(DataError, match="it was written to, or touched and never"):
        assert gathered(dataset, 3)["x"][0, 0, 0] == 3


def test_the_dataset_is_the_same_whatever_it_trusts(id_files_folder: Path) -> None:
    plain, trusting = (IdFilesConfig.declare(path=id_files_folder, **more) for more in ({}, {"trust": "size+mtime"}))

    assert fingerprint(open_dataset("d", plain), plain) == fingerprint(open_dataset("d", trusting), trusting)


def test_a_file_that_is_written_to_while_it_is_read_is_an_error(
    id_files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(id_files_folder)
    read = os.readv

    def meanwhile(fd: int, buffers: Any) -> int:
        got = read(fd, buffers)
        written_to(id_files_folder / "data" / "id-3.npy")
        return got

    monkeypatch.setattr(os, "readv", meanwhile)

    with pytest.raises(DataError, match=r"id-3\.npy\): changed while served \(it was written to while it was read\)"):
        gathered(dataset, 3)


def test_a_folder_that_was_renamed_is_served_from_where_it_is(id_files_folder: Path) -> None:
    dataset = opened(id_files_folder)
    new = id_files_folder / "new"
    shutil.copytree(id_files_folder / "data", new)
    np.save(new / "id-3.npy", np.full((2, 3), 7, np.float32))
    (id_files_folder / "data").rename(id_files_folder / "old")
    new.rename(id_files_folder / "data")

    assert gathered(dataset, 3)["x"][0, 0, 0] == 3


def test_a_damaged_archive_is_bad_and_named(id_files_folder: Path) -> None:
    rewritten(id_files_folder, lambda path, k: np.savez(path.with_suffix(".npz"), x=np.full(200, k)))
    file = id_files_folder / "data" / "id-3.npz"
    whole = bytearray(file.read_bytes())
    whole[1000] ^= 1
    file.write_bytes(whole)
    dataset = opened(id_files_folder)

    with pytest.raises(BadSample, match=re.escape(f"sample 3 ({file}): {file}:x: is damaged (Bad CRC-32")) as caught:
        gathered(dataset, 0, 3)

    assert caught.value.samples == (3,)


def test_how_many_samples_a_class_has_is_known(id_files_folder: Path) -> None:
    counts = {"train": {"0": 1, "1": 1, "2": 1}, "validation": {"0": 1, "1": 1}}
    assert class_counts(opened(id_files_folder)) == counts
    assert class_counts(opened(id_files_folder, one_hot=True), one_hot=True) == counts
    assert class_counts(opened(id_files_folder, labels=False, targets=[])) == {}


def test_a_worker_opens_the_same_dataset_without_looking_for_every_file(id_files_folder: Path) -> None:
    (id_files_folder / "data" / "id-4.npy").unlink()

    dataset = open_dataset_in_worker("d", IdFilesConfig.declare(path=id_files_folder))

    assert gathered(dataset, 3)["x"][0, 0, 0] == 3
    with pytest.raises(BadSample, match="sample 4"):
        gathered(dataset, 4)
