"""A dataset's identity: equal for copies, different for anything that a trainer would notice."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.format import open_memmap

from feedline_server.batches import fingerprint as module
from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ColumnsConfig, DatasetConfig, IdFilesConfig
from feedline_server.declared.transforms import CropTransform, RandomCropTransform
from feedline_server.order.positions import ORDER_VERSIONS
from feedline_server.transforms import randomness


def of(config: DatasetConfig, name: str = "d") -> bytes:
    return fingerprint(open_dataset(name, config), config)


def columns(folder: Path, **declared: Any) -> bytes:
    return of(ColumnsConfig.declare(path=folder, **declared))


def id_files(folder: Path, **declared: Any) -> bytes:
    return of(IdFilesConfig.declare(path=folder, **declared))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("kind", ["columns", "id_files"])
def test_copies_in_other_folders_with_other_times_and_names_are_the_same_dataset(
    kind: str, columns_folder: Path, id_files_folder: Path, tmp_path: Path
) -> None:
    folder, config = (columns_folder, ColumnsConfig) if kind == "columns" else (id_files_folder, IdFilesConfig)
    shutil.copytree(folder, tmp_path / "another host" / "copy", copy_function=shutil.copyfile)

    original, copy = (of(config(path=folder), "a"), of(config(path=tmp_path / "another host" / "copy"), "b"))

    assert len(original) == 16
    assert copy == original


def test_it_is_the_same_in_another_process(columns_folder: Path) -> None:
    """A hash that is salted for each process, as Python's own is, would make every replica a stranger."""
    import subprocess
    import sys

    program = (
        "import sys; from pathlib import Path; from feedline_server.declared.datasets import ColumnsConfig as C;"
        "from feedline_server.batches.dataset import open_dataset;"
        "from feedline_server.batches.fingerprint import fingerprint;"
        "c = C.declare(path=Path(sys.argv[1])); print(fingerprint(open_dataset('d', c), c).hex())"
    )
    out = subprocess.run([sys.executable, "-c", program, columns_folder], capture_output=True, check=True, text=True)

    assert out.stdout.strip() == columns(columns_folder).hex()


def test_spelling_out_what_is_found_anyway_changes_nothing(columns_folder: Path) -> None:
    assert columns(columns_folder, inputs="x", targets=["y"], views={"train": "0:12"}) == columns(columns_folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: flip(folder / "x.npy", -1), id="last byte of x"),
        pytest.param(lambda folder: flip(folder / "y.npy", 128), id="a label"),
        pytest.param(lambda folder: np.save(folder / "x.npy", np.zeros((12, 3, 2), np.float32)), id="shape"),
        pytest.param(lambda folder: np.save(folder / "y.npy", np.arange(100, 112, dtype=np.int32)), id="dtype"),
        pytest.param(lambda folder: (folder / "x.npy").rename(folder / "x2.npy"), id="name of a column"),
        pytest.param(lambda folder: np.save(folder / "z.npy", np.zeros(12)), id="another column"),
    ],
)
def test_other_columns_are_another_dataset(columns_folder: Path, change: Callable[[Path], object]) -> None:
    before = columns(columns_folder)

    change(columns_folder)

    assert columns(columns_folder) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"targets": []}),
        ({}, {"inputs": "y", "targets": "x"}),
        ({}, {"views": {"train": "0:11"}}),
        ({}, {"views": {"all": ":"}}),
        ({"views": {"a": "0:6", "b": "6:"}}, {"views": {"a": "6:", "b": "0:6"}}),
        ({"views": {"a": "0:6"}}, {"views": {"a": "0:6", "b": "6:"}}),
    ],
)
def test_another_declaration_is_another_dataset(
    columns_folder: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert columns(columns_folder, **one) != columns(columns_folder, **other)


def test_other_ids_in_a_view_are_another_dataset(columns_folder: Path) -> None:
    found = set()
    for ids in ([0, 2, 4], [0, 4, 2], [0, 2, 5]):
        np.save(columns_folder / "chosen.npy", np.array(ids))
        found.add(columns(columns_folder, views={"train": "chosen.npy"}))

    assert len(found) == 3


def test_the_same_samples_in_other_parts_are_another_dataset(tmp_path: Path) -> None:
    found = set()
    for cut in (3, 4):
        for view, rows in (("train", np.arange(cut)), ("validation", np.arange(cut, 8))):
            (tmp_path / str(cut) / view).mkdir(parents=True)
            np.save(tmp_path / str(cut) / view / "x.npy", rows)
        found.add(columns(tmp_path / str(cut)))

    assert len(found) == 2


def test_another_form_of_the_hash_is_another_dataset(columns_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = columns(columns_folder)

    monkeypatch.setattr(module, "FORM", 999)

    assert columns(columns_folder) != before


CROPPED = {"transforms": [{"name": "random_crop", "column": "x", "size": [1, 1]}]}


@pytest.mark.parametrize(
    ("raise_it", "declared", "is_another"),
    [
        pytest.param((ColumnsConfig, "version", 2), {}, True, id="of its kind"),
        pytest.param((IdFilesConfig, "version", 2), {}, False, id="of another kind"),
        pytest.param((CropTransform, "version", 2), {}, False, id="of a transform that it has not"),
        pytest.param((RandomCropTransform, "version", 2), CROPPED, True, id="of its transform"),
        pytest.param((randomness, "VERSION", 2), CROPPED, True, id="of random numbers that it draws"),
        pytest.param((randomness, "VERSION", 2), {"on_bad_sample": "substitute"}, True, id="of substitutes"),
        pytest.param((randomness, "VERSION", 2), {}, False, id="of random numbers that it does not draw"),
        pytest.param((module, "ORDER_VERSIONS", {**ORDER_VERSIONS, "blocks": 2}), {}, True, id="of its orders"),
        pytest.param((module, "ORDER_VERSIONS", {**ORDER_VERSIONS, "buckets": 2}), {}, False, id="of another order"),
    ],
)
def test_another_version_of_what_a_key_means_is_another_dataset_where_it_is_used(
    columns_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    raise_it: tuple[Any, str, Any],
    declared: dict[str, Any],
    *,
    is_another: bool,
) -> None:
    before = columns(columns_folder, **declared)

    monkeypatch.setattr(*raise_it)

    assert (columns(columns_folder, **declared) != before) == is_another


def test_a_key_at_its_default_is_not_hashed(columns_folder: Path, id_files_folder: Path) -> None:
    """So a later release may add keys: whoever does not set them has the fingerprint of before."""
    crop = {"name": "random_crop", "column": "x", "size": [1, 1]}

    assert columns(columns_folder, nan="allow", on_bad_sample="error", filters=()) == columns(columns_folder)
    assert columns(columns_folder, transforms=[{**crop, "padding": 0}]) == columns(columns_folder, transforms=[crop])
    assert id_files(id_files_folder, one_hot=False) == id_files(id_files_folder)
    assert id_files(id_files_folder, one_hot=True) != id_files(id_files_folder)


def test_of_a_large_column_the_size_and_both_ends_are_looked_at_and_little_is_read(tmp_path: Path) -> None:
    """1 TiB in a file with holes: a fingerprint that read it all would never end."""
    (tmp_path / "d").mkdir()
    open_memmap(tmp_path / "d" / "x.npy", "w+", np.uint8, (1 << 20, 1 << 20)).flush()
    found = [columns(tmp_path / "d")]

    flip(tmp_path / "d" / "x.npy", 128)
    found.append(columns(tmp_path / "d"))
    flip(tmp_path / "d" / "x.npy", -1)
    found.append(columns(tmp_path / "d"))
    os.truncate(tmp_path / "d" / "x.npy", (tmp_path / "d" / "x.npy").stat().st_size + 1)
    found.append(columns(tmp_path / "d"))

    assert len(set(found)) == 4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": {"id-0": 0, "id-1": 1, "id-2": 2, "id-3": 0, "id-4": 2}}, id="a label"),
        pytest.param({"partition": {"train": ["id-0", "id-2", "id-1"], "validation": ["id-3", "id-4"]}}, id="order"),
        pytest.param({"partition": {"train": ["id-0", "id-1"], "validation": ["id-2", "id-3", "id-4"]}}, id="views"),
        pytest.param({"partition": {"train": ["id-0", "id-1", "id-2"], "validation": ["id-3"]}}, id="an id less"),
    ],
)
def test_other_ids_or_labels_are_another_dataset(id_files_folder: Path, change: dict[str, object]) -> None:
    before = id_files(id_files_folder)

    for name, value in change.items():
        (id_files_folder / f"{name}.json").write_text(json.dumps(value))

    assert id_files(id_files_folder) != before


def test_an_id_of_another_name_is_another_dataset_although_its_bytes_are_the_same(id_files_folder: Path) -> None:
    before = id_files(id_files_folder)

    (id_files_folder / "data" / "id-4.npy").rename(id_files_folder / "data" / "id-5.npy")
    for name in ("partition.json", "labels.json"):
        (id_files_folder / name).write_text((id_files_folder / name).read_text().replace("id-4", "id-5"))

    assert id_files(id_files_folder) != before


def test_a_byte_of_a_sample_file_is_another_dataset(id_files_folder: Path) -> None:
    before = id_files(id_files_folder)

    flip(id_files_folder / "data" / "id-4.npy", -1)

    assert id_files(id_files_folder) != before


def test_one_hot_labels_are_another_dataset(id_files_folder: Path) -> None:
    found = {
        id_files(id_files_folder),
        id_files(id_files_folder, one_hot=True),
        id_files(id_files_folder, one_hot=True, classes=6),
    }

    assert len(found) == 3


def test_classes_that_are_spelled_out_change_nothing(id_files_folder: Path) -> None:
    assert id_files(id_files_folder, one_hot=True, classes=3) == id_files(id_files_folder, one_hot=True)


def test_of_many_files_only_some_are_opened(tmp_path: Path) -> None:
    ids = [f"s{k}" for k in range(1000)]
    for name in ids:
        np.save(tmp_path / f"{name}.npy", np.zeros(2))
    (tmp_path / "partition.json").write_text(json.dumps({"train": ids}))
    (tmp_path / "labels.json").write_text(json.dumps(dict.fromkeys(ids, 0)))
    dataset = open_dataset("d", config := IdFilesConfig.declare(path=tmp_path))
    before = fingerprint(dataset, config)

    for name in ids[1:500]:
        if ids.index(name) not in {k * 999 // 63 for k in range(64)}:
            (tmp_path / f"{name}.npy").unlink()

    assert fingerprint(dataset, config) == before
