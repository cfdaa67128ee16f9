"""A share of `train` is the view `validation`: the same of every kind, and whatever samples are beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import KINDS
from feedline_server.settings.settings import load_settings
from feedline_server.sources.validation import Identities, Split
from feedline_wire.errors import DataError, InvalidRequest

ROWS = 60


def columns(folder: Path, rows: int = ROWS) -> None:
    np.save(folder / "x.npy", np.arange(rows, dtype=np.float32))
    np.save(folder / "y.npy", np.arange(rows) % 3)


def id_files(folder: Path, names: Callable[[int], str] = "id-{}".format) -> None:
    ids = [names(number) for number in range(ROWS)]
    for name in ids:
        np.save(folder / f"{name}.npy", np.zeros(2, np.float32))
    (folder / "partition.json").write_text(json.dumps({"train": ids[:50], "test": ids[50:]}))
    (folder / "labels.json").write_text(json.dumps(dict.fromkeys(ids, 1)))


def class_folders(folder: Path) -> None:
    for number in range(ROWS):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        np.save(folder / "ab"[number % 2] / f"{number}.npy", np.zeros(2, np.float32))


def images(folder: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes()
    for number in range(ROWS):
        (folder / f"{number}.png").write_bytes(picture)
    entries = [{"image_id": f"{number}.png", "c": number % 2} for number in (*range(ROWS), 7, 7)]
    (folder / "manifest.json").write_text(json.dumps(entries))


def subjects(folder: Path) -> None:
    for number in range(ROWS):
        np.savez(folder / f"s{number}.npz", x=np.zeros((5, 2), np.float32), y=np.zeros(5, np.int64))


def sequences(folder: Path) -> None:
    np.save(folder / "lengths.npy", np.full(ROWS, 2))
    np.save(folder / "x.npy", np.zeros(2 * ROWS, np.float32))


def hdf5(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"], file["y"] = np.zeros((ROWS, 2)), np.zeros(ROWS)


def arrow(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": np.arange(float(ROWS)), "y": np.arange(ROWS)}), folder / "data.parquet")


def python(folder: Path) -> None:
    (folder / "split_by_loader.py").write_text(
        f"class Made:\n    def __len__(self):\n        return {ROWS}\n\n"
        "    def __getitem__(self, i):\n        return float(i), i % 3\n"
    )


WRITTEN: dict[str, Callable[[Path], None]] = {
    "columns": columns,
    "id_files": id_files,
    "class_folders": class_folders,
    "images": images,
    "subjects": subjects,
    "sequences": sequences,
    "hdf5": hdf5,
    "arrow": arrow,
    "python": python,
}


def opened(kind: str, folder: Path, **declared: Any) -> Dataset:
    more = {"object": "split_by_loader:Made"} if kind == "python" else {}
    dataset = open_dataset("d", KINDS[kind].declare(path=folder, **more, **declared))
    dataset.close()
    return dataset


def views(dataset: Dataset) -> dict[str, list[int]]:
    return {name: view.ids(np.arange(view.samples)).tolist() for name, view in dataset.views.items()}


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_kind_has_a_validation_view_of_samples_that_train_has_not(kind: str, tmp_path: Path) -> None:
    WRITTEN[kind](tmp_path)
    before = views(opened(kind, tmp_path))

    after = views(opened(kind, tmp_path, validation_split=0.3))

    assert list(after) == ["train", "validation", *(view for view in before if view != "train")]
    assert 0.1 < len(after["validation"]) / len(before["train"]) < 0.5
    assert not set(after["train"]) & set(after["validation"])
    assert sorted(after["train"] + after["validation"]) == sorted(before["train"])
    assert {view: ids for view, ids in after.items() if view not in {"train", "validation"}} == {
        view: ids for view, ids in before.items() if view != "train"
    }


def test_there_is_a_dataset_of_every_kind() -> None:
    assert WRITTEN.keys() == KINDS.keys()


# ---- which samples ----


def test_a_row_is_held_out_whatever_rows_are_added_behind_it(tmp_path: Path) -> None:
    columns(tmp_path, 10_000)
    few = views(opened("columns", tmp_path, validation_split=0.2))
    columns(tmp_path, 12_000)
    many = views(opened("columns", tmp_path, validation_split=0.2))

    assert few["validation"][:12] == [0, 2, 6, 19, 23, 24, 30, 34, 38, 40, 45, 56]
    assert 0.19 < len(few["validation"]) / 10_000 < 0.21  # 2.5 times the standard deviation
    assert [row for row in many["validation"] if row < 10_000] == few["validation"]
    assert [row for row in many["train"] if row < 10_000] == few["train"]


def test_a_larger_share_takes_more_and_gives_none_back(tmp_path: Path) -> None:
    columns(tmp_path, 1000)

    held = [set(views(opened("columns", tmp_path, validation_split=share))["validation"]) for share in (0.1, 0.2, 0.5)]

    assert held[0] < held[1] < held[2]


def test_another_seed_draws_others_for_the_same_share(tmp_path: Path) -> None:
    columns(tmp_path, 1000)

    one, other = (
        set(views(opened("columns", tmp_path, validation_split=0.5, validation_seed=seed))["validation"])
        for seed in (0, 1)
    )

    assert 200 < len(one & other) < 300  # of 250


def test_a_file_is_held_out_by_its_name_wherever_it_is_listed(tmp_path: Path) -> None:
    class_folders(tmp_path)
    before = opened("class_folders", tmp_path, validation_split=0.3)
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.glob("*/*.npy"), key=str)]
    held = [names[sample] for sample in views(before)["validation"]]
    (tmp_path / "aa").mkdir()
    np.save(tmp_path / "aa" / "0.npy", np.zeros(2, np.float32))
    np.save(tmp_path / "a" / "1.npy", np.zeros(2, np.float32))
    more = sorted([*names, "aa/0.npy", "a/1.npy"])

    after = opened("class_folders", tmp_path, validation_split=0.3)

    assert [more[sample] for sample in views(after)["validation"] if more[sample] in names] == held


def test_the_share_in_each_class_is_right_within_chance() -> None:
    names = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(5000)]

    found = Split(0.2, 0).applied({"train": range(10_000)}, Identities(names), Path("d"))

    held = np.bincount(np.arange(10_000)[found["validation"]] // 5000)
    assert abs(held / 5000 - 0.2).max() < 0.017  # three times the standard deviation


def test_an_image_that_is_listed_several_times_is_on_one_side(tmp_path: Path) -> None:
    images(tmp_path)

    found = views(opened("images", tmp_path, validation_split=0.3))

    assert {found["train"].count(7), found["validation"].count(7)} == {0, 3}


def test_a_subject_is_held_out_whole(tmp_path: Path) -> None:
    subjects(tmp_path)

    dataset = opened("subjects", tmp_path, validation_split=0.3, views={"train": "!s3", "test": "s3"})

    found = views(dataset)
    counts = {
        len(set(ids) & set(range(5 * subject, 5 * subject + 5))) for ids in found.values() for subject in range(60)
    }
    assert counts == {0, 5}
    assert len(found["test"]) == 5


def test_a_worker_has_the_same_views(tmp_path: Path) -> None:
    columns(tmp_path)
    filters = [{"column": "y", "is": [0, 1]}]
    for declared in ({}, {"filters": filters}):
        config = KINDS["columns"].declare(path=tmp_path, validation_split=0.3, **declared)
        dataset = open_dataset("d", config)
        kept = {view.name: view.selection for view in dataset.views.values()} if declared else None

        worker = open_dataset_in_worker("d", config, kept)

        assert views(worker) == views(dataset)
        assert fingerprint(worker, config) == fingerprint(dataset, config)


def test_the_split_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    columns(tmp_path)
    ways: list[dict[str, Any]] = [
        {},
        {"validation_split": 0.3},
        {"validation_split": 0.4},
        {"validation_split": 0.3, "validation_seed": 1},
    ]
    configs = [KINDS["columns"].declare(path=tmp_path, **way) for way in ways]

    assert len({fingerprint(open_dataset("d", config), config) for config in configs}) == 4


# ---- what cannot be split ----


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (
            {"views": {"train": ":50", "validation": "50:"}},
            "validation_split = 0.2 takes its samples out of 'train', and there is a view 'validation' already (the "
            "views are train, validation); leave validation_split out, or declare other views",
        ),
        ({"views": {"all": ":"}}, "there is no view 'train' (the views are all)"),
        ({"views": {"train": "1:2"}}, "leaves the view 'validation' of 1 samples without any; give it another share"),
    ],
)
def test_a_split_that_is_none_is_refused_with_what_to_change(
    tmp_path: Path, declared: dict[str, Any], problem: str
) -> None:
    columns(tmp_path)

    with pytest.raises(DataError) as error:
        opened("columns", tmp_path, validation_split=0.2, **declared)

    assert problem in str(error.value)


def test_ready_batches_are_split_by_the_code_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "split_by_loader.py").write_text(
        "import numpy as np\n\n\nclass Made:\n    def __len__(self):\n        return 4\n\n"
        "    def __getitem__(self, i):\n        return np.zeros((2, 3)), np.zeros(2)\n\n"
        "    def on_epoch_end(self):\n        pass\n"
    )

    with pytest.raises(DataError, match="validation_split is of samples that have a number, and this code makes ready"):
        opened("python", tmp_path, validation_split=0.2)


def test_a_stream_of_samples_is_not_split_for_both_views_would_be_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "split_by_loader.py").write_text(
        "import numpy as np\n\n\ndef Made():\n    while True:\n        yield np.zeros(3), 0\n"
    )

    with pytest.raises(DataError, match=r"this code yields .* the same samples in either; part them in the code"):
        opened("python", tmp_path, validation_split=0.2, batched=False, steps_per_epoch=8)


# ---- how it is said ----


def test_the_key_does_not_say_which_kind_a_folder_is(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    columns(tmp_path / "c")
    (tmp_path / "loader.toml").write_text('[datasets.c]\npath = "c"\nvalidation_split = 0.2\n')

    settings = load_settings(tmp_path, {})

    assert settings.datasets["c"].kind == "columns"


def test_the_command_line_says_it_of_a_folder(tmp_path: Path) -> None:
    columns(tmp_path)

    ((_, config),) = load_settings(tmp_path, {"validation_split": 0.2}).datasets.items()

    assert (config.kind, config.validation_split) == ("columns", 0.2)
    with pytest.raises(InvalidRequest, match=r"validation_split: found 20\.0; wanted more than 0 and less than 1"):
        load_settings(tmp_path, {"validation_split": 20.0})


def columns_by_view(folder: Path) -> None:
    for view in ("train", "val"):
        (folder / view).mkdir()
        columns(folder / view)


def class_folders_by_view(folder: Path) -> None:
    for view in ("train", "val"):
        (folder / view).mkdir()
        class_folders(folder / view)


def ids_by_view(folder: Path) -> None:
    id_files(folder)
    lists = json.loads((folder / "partition.json").read_text())
    (folder / "partition.json").write_text(json.dumps({"train": lists["train"], "val": lists["test"]}))


@pytest.mark.parametrize(
    ("kind", "write"),
    [("columns", columns_by_view), ("class_folders", class_folders_by_view), ("id_files", ids_by_view)],
)
def test_val_is_the_view_validation_of_every_kind(kind: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    """Of columns `x_val.npy` was; of class folders it stayed `val`, and a split was taken out of `train` beside it."""
    write(tmp_path)

    dataset = open_dataset("d", KINDS[kind].declare(path=tmp_path))

    assert list(dataset.views) == ["train", "validation"]
    assert f"{tmp_path}: 'val' is served as the view 'validation'" in dataset.notes
    assert list(open_dataset_in_worker("d", KINDS[kind].declare(path=tmp_path)).views) == ["train", "validation"]
    with pytest.raises(DataError, match="there is a view 'validation' already"):
        open_dataset("d", KINDS[kind].declare(path=tmp_path, validation_split=0.2))


def test_a_view_that_is_declared_as_val_stays_val(tmp_path: Path) -> None:
    class_folders_by_view(tmp_path)

    declared = KINDS["class_folders"].declare(path=tmp_path, views={"train": "train", "val": "val"})

    assert list(open_dataset("d", declared).views) == ["train", "val"]
