"""Images that a manifest lists: classes, views and files, and everything that a list can say wrongly."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ImagesConfig
from feedline_server.settings.settings import load_settings
from feedline_server.tools.inspect.findings import class_counts
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.tensors import views as views_of

LISTED = [("a.png", 2), ("b.png", 0), ("c.png", 2), ("d.png", 1), ("e.png", 0)]


def listing(entries: Any, image: str = "image_id", label: str = "disease_class") -> str:
    return json.dumps([{image: name, label: number} for name, number in entries])


@pytest.fixture
def leaves(tmp_path: Path) -> Path:
    """`manifest.json` and `images/`: a.png to e.png, of 2 x 2 pixels of the grey 10, 20, …, 50."""
    folder = tmp_path / "leaves"
    (folder / "images").mkdir(parents=True)
    for number, (name, _) in enumerate(LISTED, 1):
        (folder / "images" / name).write_bytes(gray(10 * number))
    (folder / "manifest.json").write_text(listing(LISTED))
    return folder


def csv_of(labels: list[str]) -> str:
    """A manifest of a.png, b.png and so on."""
    return "image_id,c\n" + "".join(f"{name},{label}\n" for (name, _), label in zip(LISTED, labels, strict=False))


def gray(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((2, 2), value, np.uint8))[1].tobytes())


def opened(folder: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ImagesConfig.declare(path=folder, **declared))


def every(dataset: Dataset, *ids: int) -> list[tuple[int, int]]:
    """(grey, class) of these samples, or of all."""
    wanted = np.array(ids or range(dataset.source.samples), np.int64)
    out = {c.name: np.full((len(wanted), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(wanted, out)
    return list(zip(out["x"][:, 0, 0, 0].tolist(), out["y"].tolist(), strict=True))


def views(dataset: Dataset) -> dict[str, list[int]]:
    return {name: view.ids(np.arange(view.samples)).tolist() for name, view in dataset.views.items()}


# ---- samples and classes --------------------------------------------------------------------------------------------


def test_the_images_of_a_manifest_are_samples_in_its_order_with_their_classes(leaves: Path) -> None:
    dataset = opened(leaves)

    assert [str(column) for column in dataset.columns] == ["x uint8(2, 2, 3)", "y int64()"]
    assert every(dataset) == [(10, 2), (20, 0), (30, 2), (40, 1), (50, 0)]
    assert class_counts(dataset) == {"train": {"0": 2, "1": 1, "2": 2}}
    assert dataset.categories == {}
    assert views(dataset) == {"train": [0, 1, 2, 3, 4]}


def test_labels_can_be_one_hot_of_more_classes_than_there_are_images(leaves: Path) -> None:
    dataset = opened(leaves, one_hot=True, classes=61)

    out = {"y": np.full((2, 61), 77, np.float32)}
    dataset.source.gather(np.array([3, 0]), out)

    assert str(dataset.columns[1]) == "y float32(61)"
    assert np.argwhere(out["y"] == 1).tolist() == [[0, 1], [1, 2]]
    assert out["y"].sum() == 2


def test_a_manifest_can_be_csv_with_names_of_its_own(leaves: Path) -> None:
    (leaves / "manifest.json").unlink()
    (leaves / "list.csv").write_bytes('\ufefffile,"what, really",who\r\nb.png,1,x\r\n"a.png",0,y\r\n\r\n'.encode())

    dataset = opened(leaves, manifest="list.csv", image="file", label="what, really")

    assert every(dataset) == [(20, 1), (10, 0)]


def test_the_only_other_field_is_the_class_whatever_its_name(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing(LISTED[:2], label="Krankheit"))

    assert every(opened(leaves)) == [(10, 2), (20, 0)]


def test_which_of_several_fields_is_the_class_must_be_said(leaves: Path) -> None:
    (leaves / "manifest.json").write_text('[{"image_id": "a.png", "crop": 3, "disease": 1}]')

    with pytest.raises(
        DataError, match=r"which field is the class\? .* 'crop', 'disease'; say label = …, or label = f"
    ):
        opened(leaves)
    assert every(opened(leaves, label="disease")) == [(10, 1)]


def test_there_may_be_no_classes(leaves: Path) -> None:
    dataset = opened(leaves, label=False)

    assert [str(column) for column in dataset.columns] == ["x uint8(2, 2, 3)"]
    assert dataset.structure == ("x",)
    with pytest.raises(DataError, match="has no labels, but one_hot is declared"):
        opened(leaves, label=False, one_hot=True)


def test_classes_that_are_names_are_numbered_as_they_are_sorted_or_declared(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([("a.png", "rust"), ("b.png", "healthy"), ("c.png", "rust")]))

    found, declared = opened(leaves), opened(leaves, classes=["rust", "blight", "healthy"])

    assert every(found) == [(10, 1), (20, 0), (30, 1)]
    assert found.categories == {"y": ("healthy", "rust")}
    assert class_counts(found) == {"train": {"healthy": 1, "rust": 2}}
    assert every(declared) == [(10, 0), (20, 2), (30, 0)]
    assert class_counts(declared) == {"train": {"rust": 2, "blight": 0, "healthy": 1}}


def test_numbers_may_have_declared_names(leaves: Path) -> None:
    dataset = opened(leaves, classes=["healthy", "rust", "blight"])

    assert dataset.categories == {"y": ("healthy", "rust", "blight")}
    assert class_counts(dataset) == {"train": {"healthy": 2, "rust": 1, "blight": 2}}
    one_hot = opened(leaves, one_hot=True, classes=["healthy", "rust", "blight"])
    assert class_counts(one_hot, one_hot=True) == class_counts(dataset)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0.0", "1.0", "2.0", "10.0"], [0, 1, 2, 10]),  # what pandas writes of a column with a gap
        (["0", "1", "2", " 10"], [0, 1, 2, 10]),
        (["01", "02", "03", "10"], [1, 2, 3, 10]),
        ([" cat", "dog", "cat ", "2 cats"], [1, 2, 1, 0]),
    ],
)
def test_labels_that_are_whole_numbers_are_those_numbers(leaves: Path, labels: list[str], classes: list[int]) -> None:
    (leaves / "list.csv").write_text(csv_of(labels))

    dataset = opened(leaves, manifest="list.csv")

    assert [label for _, label in every(dataset)] == classes


def test_whole_numbers_with_gaps_are_noted_with_the_outputs_that_a_model_needs(leaves: Path) -> None:
    (leaves / "list.csv").write_text(csv_of(["0", "1", "2", "10"]))
    note = (
        f"{leaves}: the largest label is 10, so a model needs 11 outputs, but no sample has 7 of these numbers "
        "(3, 4, 5, 6, 7, …); number the labels from 0 on without gaps, or say classes = 11 if that is meant"
    )

    assert note in opened(leaves, manifest="list.csv").notes
    assert "outputs" not in str(opened(leaves, manifest="list.csv", classes=11).notes)
    (leaves / "list.csv").write_text(csv_of(["0", "1", "1", "2"]))
    assert "outputs" not in str(opened(leaves, manifest="list.csv").notes)


def test_numbers_of_a_json_manifest_may_be_written_as_floats(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([("a.png", 2.0), ("b.png", 0.0), ("c.png", 10.0)]))

    assert [label for _, label in every(opened(leaves))] == [2, 0, 10]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["0", "1", "?", "2"], "line 4 has the label '?', which is no number, and {}: line 2 has '0'; wanted whole"),
        (["?", "1", "2", "3"], "line 2 has the label '?', which is no number, and {}: line 3 has '1'; wanted whole"),
        (["1", "2", "01", "3"], "line 4 has the label '01', which is the number of '1' in {}: line 2, too. Correct"),
        (
            ["0.0", "10.0", "cat", "2.0"],
            "line 4 has the label 'cat', which is no number, and {}: line 2 has '0.0'; wanted whole numbers, or names "
            "alone. Correct it, or name the classes in the order of their numbers: "
            'classes = ["0.0", "2.0", "10.0", "cat"]',
        ),
        (
            ["0.5", "12.25", "3.75", "100.0"],
            "line 2 has the label '0.5', which is no whole number, and {}: line 5 has '100.0'; wanted whole numbers, "
            "or names alone. For numbers to predict (float32) say regression = true. Correct it, or name the classes "
            'in the order of their numbers: classes = ["0.5", "3.75", "12.25", "100.0"]',
        ),
    ],
)
def test_labels_that_could_be_two_things_are_refused_with_the_line_to_write(
    leaves: Path, labels: list[str], problem: str
) -> None:
    file = leaves / "list.csv"
    file.write_text(csv_of(labels))

    with pytest.raises(DataError, match=re.escape(f"{file}: {problem.format(file)}")):
        opened(leaves, manifest="list.csv")

    assert class_counts(opened(leaves, manifest="list.csv", classes=labels))["train"] == dict.fromkeys(labels, 1)


def test_numbers_to_predict_are_floats_where_that_is_declared(leaves: Path) -> None:
    (leaves / "list.csv").write_text(csv_of(["0.5", "12.25", "3.75", "100"]))

    dataset = opened(leaves, manifest="list.csv", regression=True)

    assert str(dataset.columns[1]) == "y float32()"
    assert [label for _, label in every(dataset)] == [0.5, 12.25, 3.75, 100]
    with pytest.raises(ValidationError, match="has both regression and classes"):
        opened(leaves, manifest="list.csv", regression=True, classes=4)


@pytest.mark.parametrize(
    ("label", "problem"), [("16777217", "cannot hold"), ("1e39", "cannot hold"), ("?", "wanted a")]
)
def test_a_number_to_predict_that_would_be_another_is_refused(leaves: Path, label: str, problem: str) -> None:
    (leaves / "list.csv").write_text(csv_of(["1", label, "2", "3"]))

    with pytest.raises(DataError, match=f"line 3 has the label '{re.escape(label)}'.* {problem}"):
        opened(leaves, manifest="list.csv", regression=True)


def test_labels_of_all_views_are_numbered_together(leaves: Path) -> None:
    (leaves / "train.csv").write_text(csv_of(["0", "1", "2", "10"]))
    (leaves / "val.csv").write_text(csv_of(["0.0", "1.0", "2.0", "10.0"]))
    (leaves / "some.csv").write_text("image_id,c\na.png,dog\nb.png,cat\n")
    (leaves / "others.csv").write_text("image_id,c\nc.png,cow\n")

    numbers = opened(leaves, views={"train": "train.csv", "validation": "val.csv"})
    names = opened(leaves, views={"train": "some.csv", "validation": "others.csv"})

    assert every(numbers) == [(10, 0), (20, 1), (30, 2), (40, 10)]
    assert views(numbers) == {"train": [0, 1, 2, 3], "validation": [0, 1, 2, 3]}
    assert names.categories == {"y": ("cat", "cow", "dog")}
    assert every(names) == [(10, 2), (20, 0), (30, 1)]


def test_ids_are_made_into_file_names_by_a_pattern(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([("b", 0), ("a", 1)]))

    assert every(opened(leaves, files="{id}.png")) == [(20, 0), (10, 1)]
    assert every(opened(leaves, files="{id}.png", data="images")) == [(20, 0), (10, 1)]


def test_an_image_that_is_listed_twice_is_one_sample_that_comes_twice(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([*LISTED[:2], LISTED[0]]))

    dataset = opened(leaves, classes=3)

    assert dataset.source.samples == 2
    assert views(dataset) == {"train": [0, 1, 0]}
    assert dataset.notes == (
        "view 'train' holds 1 sample (a.png) more than once",
        f"{leaves}: left out are 3 .png (images/c.png, …)",
    )


def test_an_image_may_be_written_as_a_path_from_here(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([("./a.png", 0), ("b.png", 1), ("a.png", 0)]))

    dataset = opened(leaves)

    assert dataset.source.samples == 2
    assert every(dataset) == [(10, 0), (20, 1)]


def test_an_image_that_is_listed_with_two_classes_is_refused(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([*LISTED, ("b.png", 2)]))

    with pytest.raises(DataError, match=r"'b\.png' is listed with the labels \[0, 2\]; an image has one"):
        opened(leaves)


# ---- views ----------------------------------------------------------------------------------------------------------


def test_each_view_can_have_a_manifest_of_its_own(leaves: Path) -> None:
    (leaves / "train.json").write_text(listing(LISTED[:3]))
    (leaves / "held out.csv").write_text("image_id,disease_class\ne.png,0\na.png,2\n")

    dataset = opened(leaves, views={"train": "train.json", "validation": "held out.csv"}, classes=3)

    assert views(dataset) == {"train": [0, 1, 2], "validation": [3, 0]}
    assert every(dataset) == [(10, 2), (20, 0), (30, 2), (50, 0)]
    assert dataset.notes == (
        "views 'train' and 'validation' share 1 sample (a.png): "
        "what is trained on is also measured on, unless that is meant",
        f"{leaves}: left out are 1 .json (manifest.json), 1 .png (images/d.png)",
    )


def test_a_field_can_say_the_view(leaves: Path) -> None:
    entries = [{"image_id": name, "c": c, "part": "train" if c else "test"} for name, c in LISTED]
    (leaves / "manifest.json").write_text(json.dumps(entries))

    assert views(opened(leaves, split="part")) == {"train": [0, 2, 3], "test": [1, 4]}


def test_views_can_be_parts_of_the_manifest(leaves: Path) -> None:
    np.save(leaves / "hard.npy", np.array([4, 0]))

    dataset = opened(leaves, views={"train": ":-2", "validation": "-2:", "hard": "hard.npy"})

    assert views(dataset) == {"train": [0, 1, 2], "validation": [3, 4], "hard": [4, 0]}


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"views": {"train": ":3"}, "split": "c"}, "has views and split; images are parted in one way"),
        ({"views": {"train": "t.json"}, "manifest": "m.json"}, "has a manifest, and views have manifests of their own"),
    ],
)
def test_two_ways_of_parting_images_are_refused(leaves: Path, declared: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        opened(leaves, **declared)


# ---- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "a//b.png", "a\0.png", ""])
def test_a_name_that_is_no_file_inside_the_folder_is_refused(leaves: Path, name: str) -> None:
    (leaves / "secret.png").write_bytes(gray(1))
    (leaves / "manifest.json").write_text(listing([("a.png", 0), (name, 1)]))

    with pytest.raises(DataError, match=r"manifest\.json: entry 1 (names .*, which is no file inside|has image_id = )"):
        opened(leaves)


def test_a_link_out_of_the_folder_is_refused_unless_that_is_meant(leaves: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "s.png").write_bytes(gray(99))
    (leaves / "images" / "link.png").symlink_to(tmp_path / "elsewhere" / "s.png")
    (leaves / "images" / "deep").symlink_to(tmp_path / "elsewhere")

    for name in ("link.png", "deep/s.png"):
        (leaves / "manifest.json").write_text(listing([(name, 0)]))
        with pytest.raises(DataError, match=r"is a link out of .*/images, to .*; set follow_links = true"):
            opened(leaves)
        assert every(opened(leaves, follow_links=True)) == [(99, 0)]


def test_images_that_are_not_there_are_named_at_the_start(leaves: Path) -> None:
    (leaves / "images" / "b.png").unlink()
    (leaves / "images" / "d.png").unlink()

    with pytest.raises(
        DataError, match=r"images: no file for 2 ids \('b\.png', 'd\.png'\) of the manifest, wanted b\.p"
    ):
        opened(leaves)


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_images_that_are_not_there_are_bad_samples_where_those_may_be(leaves: Path, policy: str) -> None:
    (leaves / "images" / "b.png").unlink()

    dataset = opened(leaves, on_bad_sample=policy)

    assert dataset.notes == (f"{leaves}/images: no file for 1 id ('b.png') of the manifest, wanted b.png",)
    with pytest.raises(BadSample) as caught:
        every(dataset)
    assert caught.value.samples == (1,)


def batch(dataset: Dataset, rows: int) -> dict[str, Any]:
    """The first batch of a sequential epoch, as it would be sent."""
    key = Key(dataset="d", fingerprint=b"", view="train", order="sequential", seed=0, epoch=0, offset=0, rows=rows)
    memory = np.zeros(most_nbytes(dataset, rows), np.uint8)
    return views_of(memory, assemble(dataset, key, memory))


def test_damaged_images_are_left_out_or_replaced_where_that_is_declared(leaves: Path) -> None:
    (leaves / "images" / "b.png").unlink()
    (leaves / "images" / "d.png").write_bytes(b"")

    skipped = batch(opened(leaves, on_bad_sample="skip"), 5)
    replaced = batch(opened(leaves, on_bad_sample="substitute"), 5)

    assert skipped["x"][:, 0, 0, 0].tolist() == [10, 30, 50]
    assert skipped["y"].tolist() == [2, 2, 0]
    assert replaced["x"][::2, 0, 0, 0].tolist() == [10, 30, 50]
    assert set(replaced["x"][1::2, 0, 0, 0].tolist()) <= {10, 30, 50}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "lists nothing; wanted a list of entries"),
        ('{"a.png": 1}', "holds dict; wanted a list of entries"),
        ('[{"image_id": "a.png",', "is not the JSON that was wanted"),
        ('["a.png"]', 'entry 0 is "a.png"; wanted a list of entries'),
        (
            '[{"file": "a.png", "c": 1}]',
            "its entries have no 'image_id', they have 'file', 'c'; name the right one with",
        ),
        ('[{"image_id": "a.png", "c": 1}, {"image_id": "b.png"}]', "entry 1 has no 'c'; wanted a class"),
        ('[{"image_id": "a.png", "c": 1}, {"image_id": null, "c": 1}]', "entry 1 has image_id = null; wanted the name"),
        ('[{"image_id": "a.png", "c": 1.5}]', "entry 0 has the label '1.5', which is no whole number; wanted whole"),
        (
            '[{"image_id": "a.png", "c": 1}, {"image_id": "b.png", "c": NaN}]',
            "entry 1 has the label 'nan', which is no",
        ),
        ('[{"image_id": "a.png", "c": " "}]', 'entry 0 has c = " "; wanted a class, as a number or text'),
        ('[{"image_id": "a.png", "c": true}]', "entry 0 has c = true; wanted a class"),
        ('[{"image_id": "a.png", "c": -1}]', r"the class of 'a\.png' is '-1'; wanted one of 0\.\."),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused_with_the_entry(leaves: Path, text: str, problem: str) -> None:
    (leaves / "manifest.json").write_text(text)

    with pytest.raises(DataError, match=f"manifest.json: {problem}"):
        opened(leaves)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "lists nothing"),
        ("image_id,c\n", "lists nothing"),
        ("image_id,c\na.png,1\nb.png\n", "line 3 has 1 fields, and the first line 2"),
        ("image_id,c\na.png,1\nb.png,\n", 'line 3 has c = ""; wanted a class'),
        ("image_id,c,c\na.png,1,1\n", "its first line names a field twice: image_id, c, c"),
        ('image_id,c\n"a.png,1\n', "line 2 is no CSV"),
        ("image_id;c\na.png;1\n", "its entries have no 'image_id', they have 'image_id;c'"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_the_line(leaves: Path, text: str, problem: str) -> None:
    (leaves / "list.csv").write_text(text)

    with pytest.raises(DataError, match=f"list.csv: {problem}"):
        opened(leaves, manifest="list.csv")


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (2, r"the class of 'a\.png' is '2'; wanted one of 0\.\.1 \(classes = 2\)"),
        (["healthy", "rust"], r"the class of 'a\.png' is '2'; wanted one of healthy, rust"),
    ],
)
def test_a_class_that_is_none_is_refused_with_its_image(leaves: Path, classes: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        opened(leaves, classes=classes)


def test_as_many_names_as_classes_are_declared_must_be_found(leaves: Path) -> None:
    (leaves / "manifest.json").write_text(listing([("a.png", "rust"), ("b.png", "healthy")]))

    with pytest.raises(DataError, match="classes = 61, but the images are of 2: healthy, rust; name the classes"):
        opened(leaves, classes=61)


def test_a_manifest_that_is_not_there_is_named(leaves: Path) -> None:
    with pytest.raises(DataError, match=r"nothere\.json: cannot be read \(No such file"):
        opened(leaves, manifest="nothere.json")
    (leaves / "manifest.csv").write_text("image_id,c\na.png,1\n")
    with pytest.raises(DataError, match=r"found both of manifest\.json and manifest\.csv; say manifest = "):
        opened(leaves)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("views = {train = 'a.json', test = '3:'}", "either a manifest for each view, or a part of one"),
        ("views = {train = 'a.txt'}", "the name of a manifest, .json or .csv; or of one manifest start:stop"),
        ("files = 'x.png'", r"a file name below the folder with \{id\} in it"),
        ("size = [224]", r"datasets.d.size: found \[224\]; wanted width and height, such as \[224, 224\]"),
        ("size = [224, 0]", r"datasets.d.size.1: found 0; wanted greater than or equal to 1"),
        ("color_mode = 'cmyk'", "'rgb', 'bgr', 'grayscale' or 'rgba'"),
        ("bits = 12", "8 or 16"),
    ],
)
def test_a_wrong_declaration_is_told_before_anything_is_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "loader.toml").write_text(f"[datasets.d]\nkind = 'images'\n{text}\n")

    with pytest.raises(InvalidRequest, match=problem):
        load_settings(tmp_path, {})


def test_keys_of_a_manifest_say_the_kind(leaves: Path) -> None:
    (leaves / "loader.toml").write_text("[datasets.d]\nlabel = 'disease_class'\nsize = [2, 2]\n")

    assert load_settings(leaves, {}).datasets["d"].kind == "images"


def test_a_folder_with_a_manifest_is_recognised(leaves: Path) -> None:
    (dataset,) = load_settings(leaves, {}).datasets.values()

    assert dataset == ImagesConfig.declare(path=leaves)


# ---- identity -------------------------------------------------------------------------------------------------------


def identity(folder: Path, **declared: Any) -> bytes:
    config = ImagesConfig.declare(path=folder, **declared)
    return fingerprint(open_dataset("d", config), config)


def test_the_same_images_and_classes_are_the_same_dataset_however_they_are_listed(leaves: Path) -> None:
    csv = "\n".join(["file,c", *(f"{name},{number}" for name, number in LISTED)])
    (leaves / "list.csv").write_text(csv)

    assert identity(leaves, manifest="list.csv", image="file", label="c") == identity(leaves)


def test_other_classes_views_names_and_pixels_are_another_dataset(leaves: Path) -> None:
    found = [identity(leaves), identity(leaves, one_hot=True), identity(leaves, validation_split=0.5)]
    (leaves / "manifest.json").write_text(listing([*LISTED[:4], ("e.png", 1)]))
    found.append(identity(leaves))
    (leaves / "images" / "c.png").write_bytes(gray(31))
    found.append(identity(leaves))

    assert len(set(found)) == 5


def test_how_images_come_out_is_part_of_the_identity_also_where_the_first_is_missing(leaves: Path) -> None:
    (leaves / "images" / "b.png").write_bytes(bytes(cv2.imencode(".png", np.eye(9, dtype=np.uint8) * 200)[1]))
    (leaves / "images" / "a.png").unlink()

    found = set()
    for how in ({}, {"interpolation": "area"}, {"color_mode": "bgr"}, {"size": [4, 4]}):
        config = ImagesConfig.declare(path=leaves, on_bad_sample="skip", **{"size": [5, 5], **how})
        found.add(fingerprint(open_dataset("d", config), config))

    assert len(found) == 4
