"""Files that are not served are counted and named by kind, whatever the kind of dataset."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedline_server.batches.dataset import open_dataset
from feedline_server.declared.datasets import KINDS
from feedline_server.sources.files.left_out import by_kind, left_out


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_what_is_there_and_not_served_is_counted_by_kind_the_most_first(tmp_path: Path) -> None:
    touched(tmp_path, "x.npy", "cat/1.AVIF", "cat/2.avif", "a.csv", "deep/er/part-00001", "deep/er/part.00002")

    assert list(left_out(tmp_path, ["x.npy", tmp_path / "a.csv"])) == [
        f"{tmp_path}: left out are 2 .avif (cat/1.AVIF, …), 2 without a suffix (deep/er/part-00001, …); images are "
        "read as PNG, JPEG, BMP and WebP: convert the others, or serve them with a function of your own (kind = python)"
    ]


def test_what_lies_beside_data_and_is_none_is_not_named(tmp_path: Path) -> None:
    touched(tmp_path, "README.md", "LICENSE", "loader.toml", "my_classes.py", "__pycache__/my.npy", "_SUCCESS")
    touched(tmp_path, ".x.npy.crc", ".git/x.npy", "lost+found/x.npy", "Thumbs.db", "readme.txt")
    touched(tmp_path, "kind.codes.json", "bad-samples.json")

    assert list(left_out(tmp_path, [])) == []


def test_many_kinds_are_listed_shortly() -> None:
    assert by_kind([f"a.{letter}" for letter in "bcdefghijk"]).endswith(", 1 .i (a.i), … (10 in all)")


@pytest.mark.parametrize("kind", ["columns", "hdf5", "arrow", "sequences", "subjects"])
def test_every_kind_says_what_it_leaves_out(tmp_path: Path, kind: str) -> None:
    """`--read` said of such folders that all was well."""
    match kind:
        case "columns":
            np.save(tmp_path / "x.npy", np.ones(3))
        case "hdf5":
            with h5py.File(tmp_path / "data.h5", "w") as file:
                file["x"] = np.ones(3)
        case "arrow":
            pq.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")
        case "sequences":
            np.save(tmp_path / "x.npy", np.ones(3))
            np.save(tmp_path / "lengths.npy", np.array([2, 1]))
        case "subjects":
            np.savez(tmp_path / "s1.npz", x=np.ones(3))
    others = ["validation/fold0/x.npy", "validation/2024/a.parquet", "notes.csv"]
    touched(tmp_path, *others)

    dataset = open_dataset("d", KINDS[kind].declare(path=tmp_path))

    assert dataset.notes == (
        f"{tmp_path}: left out are 1 .csv (notes.csv), 1 .parquet (validation/2024/a.parquet), "
        "1 .npy (validation/fold0/x.npy)",
    )


def test_what_a_declaration_names_is_not_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 1), np.int64))
    (tmp_path / "lists").mkdir()
    np.save(tmp_path / "lists" / "first.npy", np.array([0]))
    np.save(tmp_path / "lists" / "table.npy", np.ones((4, 2), np.float32))

    dataset = open_dataset(
        "d",
        KINDS["columns"].declare(
            path=tmp_path,
            views={"train": "lists/first.npy"},
            transforms=[{"name": "embed", "column": "x", "table": "lists/table.npy"}],
        ),
    )

    assert dataset.notes == ()


def test_what_another_dataset_is_or_names_is_not_left_out(tmp_path: Path) -> None:
    for name in ("x.npy", "lists/first.npy", "other/a.npy", "third/b.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.zeros(1, np.int64))
    config = KINDS["columns"].declare(path=tmp_path)
    others = [
        KINDS["columns"].declare(path=tmp_path, views={"train": "lists/first.npy"}),
        KINDS["columns"].declare(path=tmp_path / "other"),
    ]

    dataset = open_dataset("d", config, [config, *others])

    assert dataset.notes == (f"{tmp_path}: left out are 1 .npy (third/b.npy)",)
