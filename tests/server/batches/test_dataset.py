"""Datasets: how columns make up a batch, and what both kinds of data have in common."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import open_dataset, open_dataset_in_worker, structure_of
from feedline_server.declared.datasets import ColumnsConfig, IdFilesConfig
from feedline_server.tools.demo_data import write_digits
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array


def structure(columns: str, **declared: Any) -> Structure:
    return structure_of(columns.split(), ColumnsConfig.declare(path=Path("/data"), **declared))


@pytest.mark.parametrize(
    ("columns", "declared", "expected"),
    [
        ("x y", {}, ("x", "y")),
        ("X Y", {}, ("X", "Y")),
        ("x", {}, ("x",)),
        ("y", {}, ("y",)),
        ("images", {}, ("images",)),
        ("x_left x_right y", {}, ({"x_left": "x_left", "x_right": "x_right"}, "y")),
        ("x y1 y2", {}, ("x", {"y1": "y1", "y2": "y2"})),
        ("x1 x2", {}, ({"x1": "x1", "x2": "x2"},)),
        ("mask x y", {}, ("x", "y")),
        ("x y x_old", {}, ("x", "y")),
        ("image label", {"inputs": "image", "targets": "label"}, ("image", "label")),
        ("image label", {"targets": ["label"]}, ("image", "label")),
        ("age image label", {"inputs": ["image", "age"]}, ({"image": "image", "age": "age"},)),
        ("image y", {"inputs": ["image"]}, ("image", "y")),
        ("x y", {"targets": []}, ("x",)),
        ("x y", {"inputs": ["x"], "targets": ["x"]}, ("x", "x")),
        ("x y w", {"sample_weight": "w"}, ("x", "y", "w")),
        ("x y z w", {"inputs": ["z"], "targets": ["x"], "sample_weight": "w"}, ("z", "x", "w")),
    ],
)
def test_columns_make_up_a_batch_as_declared_or_by_their_names(
    columns: str, declared: dict[str, Any], expected: Structure
) -> None:
    assert structure(columns, **declared) == expected


@pytest.mark.parametrize(
    ("columns", "declared", "problem"),
    [
        (
            "image age",
            {},
            r'the columns image, age do not show which are inputs .* inputs = \["image"\] and targets = \["age"\]',
        ),
        ("x1 y1 other", {}, "do not show which are inputs"),
        ("a b label", {"targets": ["label"]}, "do not show which are inputs"),
        ("x y", {"inputs": ["image"]}, "there is no column 'image'; the columns are x, y"),
        ("x y", {"sample_weight": "w"}, "there is no column 'w'; the columns are x, y"),
        ("x w", {"sample_weight": "w"}, "sample_weight = 'w', but there are no targets"),
    ],
)
def test_columns_that_do_not_say_what_they_are_are_refused(
    columns: str, declared: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        structure(columns, **declared)


def test_a_batch_carries_only_the_columns_it_is_made_of_and_the_others_are_noted(columns_folder: Path) -> None:
    np.save(columns_folder / "mask.npy", np.zeros(12))

    dataset = open_dataset("d", ColumnsConfig.declare(path=columns_folder))

    assert [str(column) for column in dataset.columns] == ["x float32(2, 3)", "y int64()"]
    assert dataset.notes == ("column 'mask' is in no part of a batch and is not served",)


@pytest.mark.parametrize(
    ("declared", "only_writes"),
    [
        ({}, True),
        ({"on_bad_sample": "skip"}, True),
        ({"transforms": [{"name": "scale", "column": "x", "divide_by": 2, "late": True}]}, True),
        ({"nan": "error"}, False),
        ({"transforms": [{"name": "cast", "column": "x", "dtype": "float16"}]}, False),
    ],
)
def test_a_batch_is_only_written_where_nothing_is_done_to_its_samples_and_nothing_checked(
    columns_folder: Path, declared: dict[str, Any], only_writes: bool
) -> None:
    """Such batches may be assembled in memory that a trainer writes to at the same time."""
    dataset = open_dataset("d", ColumnsConfig.declare(path=columns_folder, modules=columns_folder, **declared))

    assert dataset.only_writes == only_writes


def test_a_worker_opens_what_the_front_opened(columns_folder: Path, id_files_folder: Path) -> None:
    for config in (
        ColumnsConfig.declare(path=columns_folder, views={"train": "0:9", "validation": "9:"}),
        IdFilesConfig.declare(path=id_files_folder, one_hot=True, classes=4),
    ):
        front = open_dataset("d", config)
        worker = open_dataset_in_worker("d", pickle.loads(pickle.dumps(config)))

        assert pickle.loads(pickle.dumps(config)) == config
        assert worker.columns == front.columns
        assert worker.structure == front.structure
        assert {view.name: view.selection for view in worker.views.values()} == {
            view.name: view.selection for view in front.views.values()
        }


# ---- the demo's data ------------------------------------------------------------------------------------------------


def test_the_digits_are_a_dataset_with_two_views(tmp_path: Path) -> None:
    write_digits(tmp_path / "deep" / "digits")

    dataset = open_dataset("digits", ColumnsConfig.declare(path=tmp_path / "deep" / "digits"))
    out: dict[str, Array] = {"x": np.zeros((2, 8, 8, 1), np.float32), "y": np.zeros(2, np.int64)}
    dataset.source.gather(np.array([0, 1497]), out)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 1497, "validation": 300}
    assert [str(column) for column in dataset.columns] == ["x float32(8, 8, 1)", "y int64()"]
    assert out["y"].tolist() == [1, 0]  # scikit-learn's second and first digit
    assert out["x"].max() == 1.0
    assert out["x"].min() == 0.0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["digits"]


def test_digits_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    before = (tmp_path / "digits" / "train" / "x.npy").stat()

    write_digits(tmp_path / "digits")

    assert (tmp_path / "digits" / "train" / "x.npy").stat().st_ino == before.st_ino


def test_digits_are_written_into_an_empty_folder_and_into_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")

    write_digits(tmp_path / "empty")
    with pytest.raises(InvalidRequest, match="full: the digits cannot be written there"):
        write_digits(tmp_path / "full")

    assert (tmp_path / "empty" / "validation" / "y.npy").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_without_scikit_learn_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)

    with pytest.raises(InvalidRequest, match=r"pip install '.+\[demo\]'"):
        write_digits(tmp_path / "digits")
