"""Files in a folder a class: found as Keras finds them, with views and labels; and all that can be wrong with them."""

import re
import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ClassFoldersConfig
from feedline_server.tools.inspect.findings import class_counts
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ClassFoldersConfig.declare(path=folder, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def every(dataset: Dataset) -> list[tuple[int, int]]:
    """(value, class) of all samples."""
    found = gathered(dataset, *range(dataset.source.samples))
    return list(zip(found["x"][:, 0, 0].astype(int).tolist(), found["y"].tolist(), strict=True))


def saved(folder: Path, *names: str) -> Path:
    """Files of (steps, features) = (3, 2), float32; all values of a file are the number in its name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        value = np.full((3, 2), int(re.findall(r"\d+", path.stem)[-1]), np.float32)
        if path.suffix == ".npy":
            np.save(path, value)
        elif path.suffix == ".npz":
            np.savez(path, value)
        else:
            with h5py.File(path, "w") as file:
                file["gesture"] = value
    return folder


@pytest.fixture
def gestures(tmp_path: Path) -> Path:
    """Two classes: `push` with 10, 11 and 12, `wave` with 20 and 21."""
    return saved(tmp_path / "gestures", "wave/20.npy", "wave/21.npy", "push/10.npy", "push/12.npy", "push/11.npy")


# ---- samples and classes --------------------------------------------------------------------------------------------


def test_classes_and_their_files_are_sorted_by_name(gestures: Path) -> None:
    dataset = opened(gestures)

    assert [str(column) for column in dataset.columns] == ["x float32(3, 2)", "y int64()"]
    assert every(dataset) == [(10, 0), (11, 0), (12, 0), (20, 1), (21, 1)]
    assert dataset.categories == {"y": ("push", "wave")}
    assert class_counts(dataset) == {"train": {"push": 3, "wave": 2}}
    assert {name: view.selection for name, view in dataset.views.items()} == {"train": range(5)}


def test_labels_can_be_one_hot(gestures: Path) -> None:
    dataset = opened(gestures, one_hot=True)

    assert str(dataset.columns[1]) == "y float32(2)"
    assert gathered(dataset, 4, 0)["y"].tolist() == [[0, 1], [1, 0]]


def test_classes_can_be_named_in_an_order_of_their_own_and_others_left_out(gestures: Path) -> None:
    saved(gestures, "idle/30.npy")

    assert every(opened(gestures, classes=["wave", "push"])) == [(20, 0), (21, 0), (10, 1), (11, 1), (12, 1)]


@pytest.mark.parametrize("suffix", ["npz", "h5", "hdf5", "H5"])
def test_files_may_be_archives_or_hdf5_whose_only_array_is_the_sample(tmp_path: Path, suffix: str) -> None:
    assert every(opened(saved(tmp_path, f"a/1.{suffix}", f"b/2.{suffix}", "b/3.npy"))) == [(1, 0), (2, 1), (3, 1)]


def test_of_several_arrays_in_a_file_some_can_be_chosen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "1.h5", "w") as file:
            file["pose/joints"] = np.full((3, 2), ord(name), np.float32)
            file["pose/names"] = ["left", "right"]
            file["score"] = 0.5

    dataset = opened(tmp_path, arrays={"x": "pose/joints", "score": "score"}, inputs=["x"])

    assert every(dataset) == [(97, 0), (98, 1)]
    assert gathered(dataset, 1)["score"].tolist() == [0.5]


def test_files_of_sub_folders_belong_to_their_class_and_hidden_and_other_files_to_none(gestures: Path) -> None:
    saved(gestures, "push/late/05.npy", "push/.trash/1.npy", "push/._9.npy", ".cache/1.npy", "lost+found/1.npy")
    (gestures / "push" / "notes.txt").write_text("hello")
    (gestures / "readme.npy").write_bytes(b"no sample")

    assert every(opened(gestures)) == [(10, 0), (11, 0), (12, 0), (5, 0), (20, 1), (21, 1)]


def test_arrays_and_images_are_not_mixed_unless_one_of_them_is_meant(gestures: Path) -> None:
    (gestures / "push" / "10.png").write_bytes(png(7))

    with pytest.raises(DataError, match=r"has arrays \(push/10\.npy\) and images \(push/10\.png\); say of = "):
        opened(gestures)
    assert every(opened(gestures, of="arrays")) == [(10, 0), (11, 0), (12, 0), (20, 1), (21, 1)]
    assert gathered(opened(gestures, of="images"), 0)["x"].tolist() == [[[[7, 7, 7]]]]


def test_what_is_said_of_images_is_refused_for_arrays_and_the_other_way_round(gestures: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "pictures" / "a" / "1.png").write_bytes(png(7))

    with pytest.raises(DataError, match=r"the files are arrays \(push/10\.npy\); size = … is for images"):
        opened(gestures, size=[2, 2])
    with pytest.raises(DataError, match=r"the files are images \(a/1\.png\); arrays = … is for files of arrays"):
        opened(tmp_path / "pictures", arrays={"x": "x"})


def test_images_that_are_not_decoded_here_are_left_out_and_noted(gestures: Path) -> None:
    (gestures / "push" / "13.tif").write_bytes(b"II*\0")

    dataset = opened(gestures)

    assert every(dataset) == [(10, 0), (11, 0), (12, 0), (20, 1), (21, 1)]
    assert dataset.notes == (
        f"{gestures}: left out are 1 .tif (push/13.tif); images are read as PNG, JPEG, BMP and WebP: convert the "
        "others, or serve them with a function of your own (kind = python)",
    )


def test_folders_that_are_named_by_numbers_are_numbered_as_keras_does_with_a_remark(tmp_path: Path) -> None:
    saved(tmp_path, "0/1.npy", "1/2.npy", "2/3.npy", "10/4.npy")

    found, declared = opened(tmp_path), opened(tmp_path, classes=["0", "1", "2", "10"])

    assert every(found) == [(1, 0), (2, 1), (4, 2), (3, 3)]
    assert found.notes == (
        f"{tmp_path}: classes are numbered as the names of their folders are sorted, as in Keras: 10/ is class 2, "
        '2/ is class 3; to number them in the order of numbers, declare classes = ["0", "1", "2", "10"]',
    )
    assert every(declared) == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert declared.notes == ()


def test_a_class_without_files_keeps_its_number_and_is_noted(gestures: Path) -> None:
    (gestures / "none").mkdir()

    dataset = opened(gestures)

    assert class_counts(dataset) == {"train": {"none": 0, "push": 3, "wave": 2}}
    assert every(dataset)[0] == (10, 1)
    assert dataset.notes == (f"view 'train' has no files of 1 of 3 classes in {gestures}: none",)


def png(gray: int, size: tuple[int, int] = (1, 1)) -> bytes:
    """A picture of one colour, of (width, height)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height = size
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes([0, *[gray] * width]) * height))
        + chunk(b"IEND", b"")
    )


NAMES = (
    "b/10",
    "b/2",
    "b/1",
    "b/sub/3",
    "b/sub/deep/30",
    "b/a/4",
    "b/B/5",
    "a/6",
    "Z/7",
    "Z/70",
    "a/8",
    "a/60",
    "c d/9",
)


@pytest.mark.keras
def test_samples_and_classes_are_those_of_keras(tmp_path: Path) -> None:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    for gray, name in enumerate(NAMES):
        path = tmp_path / "png" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(gray))
    saved(tmp_path / "npy", *(f"{name}.npy" for name in NAMES))

    dataset = opened(tmp_path / "npy")
    grays = gathered(opened(tmp_path / "png"), *range(len(NAMES)))["x"][:, 0, 0, 0].tolist()

    theirs = ImageDataGenerator().flow_from_directory(str(tmp_path / "png"))
    numbers = [int(re.findall(r"\d+", name)[-1]) for name in theirs.filenames]
    assert every(dataset) == list(zip(numbers, theirs.classes.tolist(), strict=True))
    assert [f"{NAMES[gray]}.png" for gray in grays] == theirs.filenames
    assert list(dataset.categories["y"]) == list(theirs.class_indices)


# ---- views ----------------------------------------------------------------------------------------------------------


def test_views_can_be_folders_of_class_folders(tmp_path: Path) -> None:
    saved(tmp_path, "train/push/1.npy", "train/wave/2.npy", "held out/wave/3.npy", "held out/nod/4.npy")

    dataset = opened(tmp_path, views={"train": "train", "validation": "held out"})

    assert every(dataset) == [(1, 1), (2, 2), (4, 0), (3, 2)]
    assert {name: view.selection for name, view in dataset.views.items()} == {
        "train": range(2),
        "validation": range(2, 4),
    }
    assert class_counts(dataset) == {
        "train": {"nod": 0, "push": 1, "wave": 1},
        "validation": {"nod": 1, "push": 0, "wave": 1},
    }
    assert dataset.notes == (
        f"view 'train' has no files of 1 of 3 classes in {tmp_path}/train: nod",
        f"view 'validation' has no files of 1 of 3 classes in {tmp_path}/held out: push",
    )


def pictures(folder: Path, *names: str, size: tuple[int, int] = (2, 2)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(7, size))
    return folder


@pytest.mark.parametrize("held_out", ["dev", "validation", "Test"])
def test_sub_folders_with_class_folders_that_are_called_as_views_are_views_and_never_classes(
    tmp_path: Path, held_out: str
) -> None:
    pictures(tmp_path, "train/cat/0.png", "train/dog/0.png", "train/dog/1.png", f"{held_out}/cat/9.png")
    pictures(tmp_path, f"{held_out}/dog/9.png")

    dataset = opened(tmp_path)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3, held_out: 2}
    assert dataset.categories == {"y": ("cat", "dog")}
    assert gathered(dataset, 0, 1, 2, 3, 4)["y"].tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (
            ["train/cat/0.png", "val/cat/0.png", "fox/0.png"],
            "train/, val/ hold class folders, as views do, and fox/ is no view's name; say which are views, "
            'views = {"train" = "train", "val" = "val"}, or which are classes, classes = ["fox", "train", "val"]',
        ),
        (["train/cat/0.png", "test/0.png"], "test/ is called as a view and has no class folders; say which are views"),
        (["train/0.png", "val/1.png"], "train/, val/ is called as a view and has no class folders"),
    ],
)
def test_what_could_be_views_or_classes_is_refused_with_the_lines_of_both(
    tmp_path: Path, names: list[str], problem: str
) -> None:
    pictures(tmp_path, *names)

    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: {problem}")):
        opened(tmp_path)


def test_a_class_may_be_called_as_a_view_is(tmp_path: Path) -> None:
    """A railway's pictures."""
    pictures(tmp_path, "bus/0.png", "train/0.png")

    assert opened(tmp_path).categories == {"y": ("bus", "train")}


def test_images_are_told_by_other_suffixes_and_without_one_by_their_bytes(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/0.png", "cat/1.PNG", "cat/2.jfif", "cat/3.jpe", "dog/n0144_1", "dog/5.0001", "dog/6.webp")
    for name in ("dog/text", "dog/7.avif", "dog/8.heic", "dog/9.jp2", "dog/10.avif"):
        (tmp_path / name).write_bytes(b"something else")

    dataset = opened(tmp_path)

    assert gathered(dataset, *range(7))["y"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.notes[0].startswith(
        f"{tmp_path}: left out are 2 .avif (dog/10.avif, …), 1 .heic (dog/8.heic), 1 .jp2 (dog/9.jp2), "
        "1 without a suffix (dog/text); images are read as PNG"
    )


def test_images_of_different_size_are_found_at_the_start_with_the_line_to_write(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/0.png", "dog/0.png")
    pictures(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png", size=(4, 3))

    with pytest.raises(
        DataError, match=r"images are of 2 sizes: 2 x 2 \(.*cat/0\.png\), 4 x 3 \(.*\); resize all, size ="
    ):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"size = \[4, 3\] \(--size 4x3\), or make them alike"):
        opened(tmp_path)
    assert opened(tmp_path, on_bad_sample="skip").notes[0].endswith("that are not as the first are bad samples")
    assert opened(tmp_path, size=[4, 3]).notes == ()


# ---- what is wrong --------------------------------------------------------------------------------------------------


def test_a_class_that_is_not_there_is_refused_with_those_that_are(gestures: Path) -> None:
    with pytest.raises(DataError, match=r"gestures: has no folder for the class 'wafe'; it has push, wave"):
        opened(gestures, classes=["push", "wafe"])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "has no sub-folders; wanted one for each class"),
        (["1.npy"], "has no sub-folders; wanted one for each class"),
        (
            ["a/1.txt", "b/2.txt"],
            "left out are 2 .txt (a/1.txt, …). Wanted .bmp, .h5, .jpg, .npy, .npz, .png, .webp files in a folder for "
            "each class (a, b)",
        ),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path: Path, names: Iterable[str], problem: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: {problem}")):
        opened(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothere: there is no such file or folder"):
        opened(tmp_path / "nothere")


def test_a_sample_unlike_the_first_is_bad_and_both_are_named(gestures: Path) -> None:
    np.save(gestures / "wave" / "20.npy", np.zeros((4, 2), np.float32))

    with pytest.raises(BadSample) as caught:
        gathered(opened(gestures), 0, 3)

    assert re.search(
        r"sample 3 \(.*wave/20\.npy\) holds float32\(4, 2\), sample 0 \(.*push/10\.npy\) holds float32\(3, 2\); give",
        str(caught.value),
    )
    assert caught.value.samples == (3,)


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5"])
@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-20], lambda whole: b"no" + whole[2:]])
def test_a_damaged_sample_is_bad_and_named(tmp_path: Path, suffix: str, damage: Any) -> None:
    saved(tmp_path, f"a/1.{suffix}", f"b/2.{suffix}")
    file = tmp_path / "b" / f"2.{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    dataset = opened(tmp_path)

    with pytest.raises(BadSample, match=re.escape(f"sample 1 ({file}): {file}")) as caught:
        gathered(dataset, 0, 1)

    assert caught.value.samples == (1,)


def test_a_sample_with_other_arrays_is_bad_and_named(tmp_path: Path) -> None:
    for name, arrays in (("a", {"x": 1.0, "z": 2.0}), ("b", {"x": 1.0, "w": 2.0})):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "1.npz", **arrays)

    with pytest.raises(BadSample, match=r"sample 1 \(.*b/1\.npz\) holds nothing in 'z', sample 0 .* holds float64\(\)"):
        gathered(opened(tmp_path, inputs=["x", "z"]), 1)


def test_an_array_called_as_the_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "1.npz", x=1.0, y=2.0)

    with pytest.raises(DataError, match=r"have an array 'y', and there are labels too; .*choose the arrays"):
        opened(tmp_path)


def test_a_file_that_changes_while_served_is_an_error(gestures: Path) -> None:
    dataset = opened(gestures)
    gathered(dataset, 3)
    file = gestures / "wave" / "20.npy"
    np.save(file, np.zeros((3, 2), np.float32))

    with pytest.raises(DataError, match=r"sample 3 \(.*20\.npy\): changed while served \(its content is another\)"):
        gathered(dataset, 3)


# ---- links ----------------------------------------------------------------------------------------------------------


def test_files_and_folders_that_are_links_out_of_the_folder_are_refused_unless_that_is_meant(
    gestures: Path, tmp_path: Path
) -> None:
    saved(tmp_path / "elsewhere", "30.npy", "deep/31.npy")
    links = {
        "wave/link.npy": tmp_path / "elsewhere" / "30.npy",
        "zoom": tmp_path / "elsewhere",
        "push/deep": tmp_path / "elsewhere" / "deep",
    }

    for link, target in links.items():
        (gestures / link).symlink_to(target)
        with pytest.raises(DataError, match=re.escape(f"{gestures}/{link}: is a link out of {gestures}, to {target}")):
            opened(gestures)
        assert opened(gestures, follow_links=True).source.samples > 5
        (gestures / link).unlink()


def test_links_that_stay_inside_are_samples_like_others(gestures: Path) -> None:
    (gestures / "wave" / "link.npy").symlink_to("../push/10.npy")

    assert every(opened(gestures))[-1] == (10, 1)


def test_links_that_run_in_a_circle_are_refused(gestures: Path) -> None:
    (gestures / "wave" / "again").symlink_to(gestures / "wave")

    with pytest.raises(DataError, match=r"wave/again: is a link to a folder that it is in; remove it"):
        opened(gestures)


# ---- identity -------------------------------------------------------------------------------------------------------


def identity(folder: Path, **declared: Any) -> bytes:
    config = ClassFoldersConfig.declare(path=folder, **declared)
    return fingerprint(open_dataset("d", config), config)


def test_other_classes_names_values_and_splits_are_another_dataset(gestures: Path) -> None:
    found = [
        identity(gestures),
        identity(gestures, one_hot=True),
        identity(gestures, classes=["wave", "push"]),
        identity(gestures, validation_split=0.5),
    ]
    (gestures / "wave" / "20.npy").rename(gestures / "wave" / "19.npy")
    found.append(identity(gestures))
    np.save(gestures / "wave" / "19.npy", np.zeros((3, 2), np.float32))
    found.append(identity(gestures))

    assert len(set(found)) == 6


def test_a_copy_elsewhere_is_the_same_dataset(gestures: Path, tmp_path: Path) -> None:
    shutil.copytree(gestures, tmp_path / "copy", copy_function=shutil.copyfile)

    assert identity(tmp_path / "copy") == identity(gestures)
