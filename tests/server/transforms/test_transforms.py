"""What is done to samples between files and slot: values compared with plain numpy, and the law of the key."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, dataset_of, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.sources.ragged import Ragged, joined
from feedline_server.sources.source import Opened, SampleRequest
from feedline_server.transforms import rows
from feedline_server.transforms.randomness import words
from feedline_server.transforms.regions import WORDS, regions
from feedline_wire import IDS
from feedline_wire.elementwise import Scale
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key
from feedline_wire.tensors import VARIES, Array, Column, views

SAMPLES = 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 samples: x[i] uint8 (6, 8, 3) random, mask[i] its first channel, y[i] = i % 4."""
    folder = tmp_path / "images"
    folder.mkdir()
    x = np.random.default_rng(7).integers(0, 256, (SAMPLES, 6, 8, 3), np.uint8)
    np.save(folder / "x.npy", x)
    np.save(folder / "mask.npy", x[..., 0])
    np.save(folder / "y.npy", np.arange(SAMPLES) % 4)
    return folder


def opened(folder: Path, *transforms: Mapping[str, Any], **said: Any) -> Dataset:
    """The dataset, opened as a worker opens it: from JSON."""
    config = ColumnsConfig.declare(path=folder, modules=folder, transforms=transforms, **said)
    return open_dataset("d", pickle.loads(pickle.dumps(config)))


def batch(dataset: Dataset, rows: int = 8, **key: Any) -> dict[str, Array]:
    """A batch's arrays, assembled in memory that held something else."""
    said = {"view": "train", "order": "sequential", "seed": 1, "epoch": 0, "offset": 0, **key}
    memory = np.full(most_nbytes(dataset, rows), 0xAA, np.uint8)
    layout = assemble(dataset, Key("d", b"", rows=rows, **said), memory)
    return views(memory[: layout.nbytes], layout)


def shapes(dataset: Dataset) -> list[str]:
    return [str(column) for column in dataset.columns]


# ---- one by one ----


@pytest.mark.parametrize(
    ("transform", "column", "expected"),
    [
        ({"name": "cast", "column": "x", "dtype": "float16"}, "x float16(6, 8, 3)", lambda x: x.astype(np.float16)),
        ({"name": "scale", "column": "x", "divide_by": 255}, "x float32(6, 8, 3)", lambda x: x / np.float32(255)),
        (
            {"name": "normalise", "column": "x", "mean": [1, 2, 3], "std": 4},
            "x float32(6, 8, 3)",
            lambda x: (x - np.float32([1, 2, 3])) / np.float32(4),
        ),
        ({"name": "truncate", "column": "x", "length": 2}, "x uint8(2, 8, 3)", lambda x: x[:, :2]),
        ({"name": "truncate", "column": "x", "length": 2, "keep": "last"}, "x uint8(2, 8, 3)", lambda x: x[:, 4:]),
        ({"name": "truncate", "column": "x", "length": 99}, "x uint8(6, 8, 3)", lambda x: x),
        (
            {"name": "pad", "column": "x", "length": 7},
            "x uint8(7, 8, 3)",
            lambda x: np.concatenate([x, np.zeros((len(x), 1, 8, 3), np.uint8)], 1),
        ),
        ({"name": "crop", "column": "x", "size": [4, 2]}, "x uint8(2, 4, 3)", lambda x: x[:, 2:4, 2:6]),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_transform_does_what_numpy_would(images: Path, transform: dict[str, Any], column: str, expected: Any) -> None:
    dataset = opened(images, transform, inputs="x")

    found = batch(dataset)

    assert shapes(dataset)[0] == column
    np.testing.assert_array_equal(found["x"], expected(np.load(images / "x.npy")[:8]))
    assert found["x"].dtype == dataset.columns[0].dtype
    assert found["y"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_classes_become_vectors(images: Path) -> None:
    dataset = opened(images, {"name": "one_hot", "column": "y", "classes": 4})

    assert shapes(dataset) == ["x uint8(6, 8, 3)", "y float32(4)"]
    assert batch(dataset, 5)["y"].tolist() == np.eye(4)[[0, 1, 2, 3, 0]].tolist()


def test_images_are_resized_as_opencv_does(images: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    dataset = opened(images, {"name": "resize", "columns": ["x", "mask"], "size": [5, 9]}, inputs=["x", "mask"])

    found = batch(dataset, 3)

    assert shapes(dataset)[:2] == ["mask uint8(9, 5)", "x uint8(9, 5, 3)"]
    for row in range(3):
        np.testing.assert_array_equal(found["x"][row], cv2.resize(np.load(images / "x.npy")[row], (5, 9)))
        np.testing.assert_array_equal(found["mask"][row], cv2.resize(np.load(images / "mask.npy")[row], (5, 9)))


def test_images_of_one_channel_keep_it(tmp_path: Path) -> None:
    """OpenCV drops it."""
    pytest.importorskip("cv2")
    np.save(tmp_path / "x.npy", np.full((2, 4, 4, 1), 9, np.float32))

    dataset = opened(tmp_path, {"name": "resize", "column": "x", "size": [2, 3]})

    assert batch(dataset, 2)["x"].tolist() == np.full((2, 3, 2, 1), 9.0).tolist()


def test_numbers_become_rows_of_a_table(images: Path) -> None:
    table = np.arange(20, dtype=np.float32).reshape(4, 5)
    (images / "tables").mkdir()
    np.save(images / "tables" / "words.npy", table)

    dataset = opened(images, {"name": "embed", "column": "y", "table": "tables/words.npy"})

    assert shapes(dataset)[1] == "y float32(5)"
    assert batch(dataset, 6)["y"].tolist() == table[[0, 1, 2, 3, 0, 1]].tolist()


def test_a_number_that_the_table_does_not_have_names_the_sample(images: Path) -> None:
    np.save(images / "words.npy.table.npy", np.zeros((3, 5), np.float32))
    (images / "words.npy.table.npy").rename(images.parent / "words.npy")
    dataset = opened(images, {"name": "embed", "column": "y", "table": "../words.npy"})

    with pytest.raises(
        BadSample, match=r"embed\): samples 3, 7: column 'y' has 3, but .*words.npy has the rows 0\.\.2"
    ) as e:
        batch(dataset, 8)

    assert e.value.samples == (3, 7)


def test_one_follows_the_other_and_memory_is_used_again(images: Path) -> None:
    """Values of another batch, or of another column, would show in the second."""
    dataset = opened(
        images,
        {"name": "crop", "columns": ["x", "mask"], "size": [6, 6]},
        {"name": "cast", "column": "mask", "dtype": "float32"},
        {"name": "scale", "columns": ["x", "mask"], "factor": 2},
        {"name": "scale", "column": "x", "offset": 1},
        inputs=["x", "mask"],
    )
    batch(dataset, 12, offset=20)

    found = batch(dataset, 4)

    x = np.load(images / "x.npy")[:4, :, 1:7].astype(np.float32)
    np.testing.assert_array_equal(found["x"], x * 2 + 1)
    np.testing.assert_array_equal(found["mask"], x[..., 0] * 2)
    assert found[IDS].tolist() == [0, 1, 2, 3]


def test_what_the_trainer_does_is_left_to_it(images: Path) -> None:
    dataset = opened(
        images,
        {"name": "crop", "column": "x", "size": [2, 2]},
        {"name": "scale", "column": "x", "divide_by": 255, "late": True},
    )

    assert dataset.deferred == (("x", Scale(divide_by=255)),)
    assert shapes(dataset) == ["x uint8(2, 2, 3)", "y int64()"]
    assert batch(dataset)["x"].dtype == np.uint8


# ---- what is random ----

RANDOM = (
    {"name": "random_crop", "columns": ["x", "mask"], "size": [5, 4], "padding": 1},
    {"name": "random_flip", "columns": ["x", "mask"], "vertical": True},
)

RESIZED = ({"name": "random_resized_crop", "columns": ["x", "mask"], "size": [5, 4]},)


def test_a_random_crop_is_a_part_of_the_padded_image_and_a_flip_its_mirror_image(images: Path) -> None:
    found = batch(opened(images, *RANDOM, inputs=["x", "mask"]), SAMPLES)
    padded = np.pad(np.load(images / "x.npy"), ((0, 0), (1, 1), (1, 1), (0, 0)))

    places = set()
    for row in range(SAMPLES):
        parts = {
            (top, left, up, along): padded[row, top : top + 4, left : left + 5][::up, ::along]
            for top in range(5)
            for left in range(6)
            for up in (1, -1)
            for along in (1, -1)
        }
        places.add(next(place for place, part in parts.items() if (part == found["x"][row]).all()))
        np.testing.assert_array_equal(found["mask"][row], found["x"][row, ..., 0])  # the same part of both
    assert len({(top, left) for top, left, _, _ in places}) > 15
    assert {(up, along) for _, _, up, along in places} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "area", "cubic"])
def test_a_random_resized_crop_is_a_part_of_the_image_resized_by_opencv(images: Path, interpolation: str) -> None:
    crop = {
        "name": "random_resized_crop", "columns": ["x", "mask"], "size": [5, 4], "scale": [0.2, 0.8],
        "interpolation": interpolation,
    }  # fmt: skip

    dataset = opened(images, crop, inputs=["x", "mask"])
    found = batch(dataset, SAMPLES)

    assert shapes(dataset)[:2] == ["mask uint8(4, 5)", "x uint8(4, 5, 3)"]
    plain = np.load(images / "x.npy")
    drawn = words(SampleRequest(np.arange(SAMPLES), np.zeros(SAMPLES, np.int64), 1), "0 random_resized_crop", WORDS)
    parts = regions(drawn, 6, 8, (0.2, 0.8), (3 / 4, 4 / 3)).tolist()
    for row, (top, left, height, width) in enumerate(parts):
        for name, image in (("x", plain[row]), ("mask", np.ascontiguousarray(plain[row, ..., 0]))):  # the same of both
            part = image[top : top + height, left : left + width]
            expected = cv2.resize(part, (5, 4), interpolation=getattr(cv2, f"INTER_{interpolation.upper()}"))
            np.testing.assert_array_equal(found[name][row], expected)
    assert len({tuple(part) for part in parts}) > SAMPLES // 2


@pytest.mark.parametrize("order", ["sequential", "shuffle", "replacement", "blocks:8x2"])
@pytest.mark.parametrize("random", [RANDOM, RESIZED], ids=["crop and flip", "resized crop"])
def test_a_samples_draw_is_the_same_however_the_epoch_is_cut(
    images: Path, order: str, random: tuple[dict[str, Any], ...]
) -> None:
    """Also where a batch runs on into the next epoch, and in whatever order batches are asked for."""
    dataset, other = (opened(images, *random, inputs=["x", "mask"]) for _ in range(2))

    whole = batch(dataset, 32, order=order, offset=24)
    again = batch(dataset, 32, order=order, offset=24)
    second, first = (batch(other, 16, order=order, offset=offset) for offset in (0, 24))
    second = batch(other, 16, order=order, epoch=1, offset=0)

    for name in ("x", "mask", IDS):
        np.testing.assert_array_equal(whole[name], again[name])
        np.testing.assert_array_equal(whole[name][:16], first[name])
        np.testing.assert_array_equal(whole[name][16:], second[name])


def test_a_sample_is_drawn_anew_in_another_epoch_with_another_seed_and_for_another_transform(images: Path) -> None:
    flip = {"name": "random_flip", "column": "x"}
    once, twice = opened(images, flip), opened(images, {"name": "crop", "column": "x", "size": [8, 6]}, flip)

    drawn = [
        batch(once, SAMPLES)["x"],
        batch(once, SAMPLES, epoch=1)["x"],
        batch(once, SAMPLES, seed=2)["x"],
        batch(once, SAMPLES, seed=0, epoch=1)["x"],
        batch(twice, SAMPLES)["x"],
    ]

    plain = np.load(images / "x.npy")
    flipped = [tuple((one != plain).reshape(SAMPLES, -1).any(1).tolist()) for one in drawn]
    assert len(set(flipped)) == 5
    assert all(SAMPLES // 5 < sum(one) < SAMPLES * 4 // 5 for one in flipped)


def test_what_was_drawn_once_is_drawn_for_ever() -> None:
    """Written out: who resumes with another version of feedline must find the samples that were left."""
    drawn = SampleRequest(np.array([0, 1, 2**40]), np.array([0, 0, 5]), 3)

    assert words(drawn, "1 random_crop", 2).tolist() == [
        [6599130410633296563, 8146001267874669251],
        [15679578482918514160, 13969157544279814954],
        [5534245080646851194, 7209326277519537752],
    ]


def test_augmentation_is_for_one_view_and_the_others_get_the_same_shape(images: Path) -> None:
    dataset = opened(
        images,
        {"name": "random_crop", "column": "x", "size": [4, 4], "views": "train"},
        {"name": "crop", "column": "x", "size": [4, 4], "views": ["validation"]},
        views={"train": "0:30", "validation": "30:"},
    )

    found = batch(dataset, 10, view="validation")

    np.testing.assert_array_equal(found["x"], np.load(images / "x.npy")[30:, 1:5, 2:6])


# ---- sequences ----


class Sentences:
    """Sample i is the numbers i, i, … i times (int64), and a label."""

    samples = 6
    columns = (Column("x", np.dtype("<i8"), (VARIES,)), Column("y", np.dtype("<i8"), ()))
    longest: Mapping[str, int] = {"x": 5}

    def lengths(self, ids: Array) -> Array:
        return ids

    def read(self, ids: Array) -> dict[str, Array | Ragged]:
        return {"x": joined([np.full(i, i) for i in ids.tolist()]), "y": ids % 2}

    def gather(self, ids: Array, out: Mapping[str, Array]) -> None:
        out["y"][:] = ids % 2

    def content(self) -> Iterator[bytes]:
        yield b""


def sentences(*transforms: Mapping[str, Any], source: Any = None) -> Dataset:
    config = ColumnsConfig.declare(path=Path("/nowhere"), transforms=transforms)
    return dataset_of("d", config, Opened(source or Sentences(), {"train": range(6)}))


def test_sequences_are_padded_to_the_longest_of_their_batch() -> None:
    dataset = sentences()

    assert shapes(dataset) == ["x int64(?)", "y int64()"]
    assert batch(dataset, 3)["x"].tolist() == [[0, 0], [1, 0], [2, 2]]
    assert batch(dataset, 2, offset=4)["x"].tolist() == [[4, 4, 4, 4, 0], [5, 5, 5, 5, 5]]
    assert batch(dataset, 1)["x"].shape == (1, 0)


def test_sequences_are_padded_to_a_length_and_cut_to_one() -> None:
    dataset = sentences(
        {"name": "truncate", "column": "x", "length": 2, "keep": "last"},
        {"name": "scale", "column": "x", "factor": 0.5},
        {"name": "pad", "column": "x", "length": 3},
    )

    assert shapes(dataset) == ["x float32(3)", "y int64()"]
    assert batch(dataset, 4)["x"].tolist() == [[0, 0, 0], [0.5, 0, 0], [1, 1, 0], [1.5, 1.5, 0]]


def test_each_step_of_a_sequence_is_embedded_or_one_hot(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array([[0, 0], [1, -1], [2, -2]], np.float32))
    config = ColumnsConfig.declare(
        path=tmp_path,
        transforms=[{"name": "embed", "column": "x", "table": "words.npy"}],  # type: ignore[list-item]
    )

    dataset = dataset_of("d", config, Opened(Sentences(), {"train": range(3)}))

    assert shapes(dataset)[0] == "x float32(?, 2)"
    assert batch(dataset, 3)["x"].tolist() == [[[0, 0], [0, 0]], [[1, -1], [0, 0]], [[2, -2], [2, -2]]]
    one_hot = batch(sentences({"name": "one_hot", "column": "x", "classes": 6}), 3)["x"]
    assert one_hot[2].tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_a_sequence_with_a_number_that_is_no_class_is_named_though_steps_were_looked_at() -> None:
    with pytest.raises(BadSample, match=r"one_hot\): sample 4: column 'x': the value 4 is no class of 0\.\.3") as e:
        batch(sentences({"name": "one_hot", "column": "x", "classes": 4}), 5)

    assert e.value.samples == (4,)


def test_a_sequence_that_is_longer_than_it_is_padded_to_is_an_error_with_a_remedy() -> None:
    with pytest.raises(BadSample, match=r"samples 4, 5: column 'x' has 4 steps, more than the 3 .* truncate before"):
        batch(sentences({"name": "pad", "column": "x", "length": 3}), 6)


# ---- batches of the user's own ----


class Units:
    """Unit i is a ready batch of 3 rows (the last of 1), row r of it is 10 i + r."""

    samples = 4
    columns = (Column("x", np.dtype("<f4"), (2,)), Column("y", np.dtype("<i8"), ()))
    longest: Mapping[str, int] = {}
    unit_rows = 3

    def draw(self, drawn: SampleRequest) -> dict[str, Array | Ragged]:
        rows = [10 * i + np.arange(1 if i == 3 else 3) for i in drawn.ids.tolist()]
        return {
            "x": joined([np.stack([row, row], 1).astype(np.float32) for row in rows]),
            "y": joined([row + 1000 * epoch for row, epoch in zip(rows, drawn.epochs.tolist(), strict=True)]),
        }

    def content(self) -> Iterator[bytes]:
        yield b""


def units(*transforms: Mapping[str, Any]) -> Dataset:
    config = ColumnsConfig.declare(path=Path("/nowhere"), transforms=transforms)
    return dataset_of("d", config, Opened(Units(), {"train": range(4)}, is_batched=True))


def test_units_are_laid_end_to_end_and_each_is_of_its_epoch() -> None:
    found = batch(units(), 3, offset=2)

    assert found["y"].tolist() == [20, 21, 22, 30, 1000, 1001, 1002]
    assert found["x"][3].tolist() == [30, 30]
    assert found[IDS].tolist() == [2, 3, 0]


def test_rows_of_a_unit_are_drawn_for_each(code: Callable[[str], str], tmp_path: Path) -> None:
    function = code("def noisy(x, rng): return x + rng.random(x.shape, 'float32') / 2")
    config = ColumnsConfig.declare(path=tmp_path, transforms=[{"code": f"{function}:noisy", "column": "x"}])  # type: ignore[list-item]
    dataset = dataset_of("d", config, Opened(Units(), {"train": range(4)}, is_batched=True))

    found = batch(dataset, 4)["x"]

    noise = found - np.repeat([0, 1, 2, 10, 11, 12, 20, 21, 22, 30], 2).reshape(-1, 2)
    assert len(np.unique(noise)) == 20
    np.testing.assert_array_equal(batch(dataset, 1, offset=3)["x"][0], found[9])


# ---- what does not fit ----


@pytest.mark.parametrize(
    ("transforms", "problem"),
    [
        (
            [{"name": "cast", "column": "z", "dtype": "int8"}],
            r"dataset 'd', transforms.0 \(cast\): there is no column 'z'; the columns are mask, x, y",
        ),
        (
            [{"name": "cast", "column": "x", "dtype": "int8", "views": "test"}],
            "there is no view 'test'; the views are train, validation",
        ),
        ([{"name": "pad", "column": "y", "length": 3}], r"column y int64\(\) cannot be padded: a sample is one value"),
        ([{"name": "pad", "column": "x", "length": 3}], "cannot be padded to 3: it has 6 steps"),
        ([{"name": "random_crop", "column": "x", "size": [9, 6]}], r"cannot be cropped .* width 8 and height 6"),
        ([{"name": "resize", "column": "y", "size": [9, 6]}], "wanted images of one size"),
        ([{"name": "random_resized_crop", "column": "y", "size": [9, 6]}], "wanted images of one size"),
        (
            [
                {"name": "crop", "column": "mask", "size": [4, 4]},
                {"name": "random_resized_crop", "columns": ["x", "mask"], "size": [9, 6]},
            ],
            "differ in size, so they cannot lose the same part",
        ),
        (
            [
                {"name": "cast", "column": "x", "dtype": "int8"},
                {"name": "random_resized_crop", "column": "x", "size": [9, 6]},
            ],
            "cast it",
        ),
        (
            [{"name": "cast", "column": "x", "dtype": "int8"}, {"name": "resize", "column": "x", "size": [9, 6]}],
            "cast it",
        ),
        (
            [{"name": "scale", "column": "x"}, {"name": "embed", "column": "x", "table": "y.npy"}],
            r"column x float32\(6, 8, 3\) cannot be embedded: it wants whole numbers",
        ),
        ([{"name": "embed", "column": "y", "table": "gone.npy"}], "gone.npy"),
        (
            [
                {"name": "one_hot", "column": "mask", "classes": 3, "late": True},
                {"name": "crop", "column": "mask", "size": [1, 1]},
            ],
            r"transforms.1 \(crop\): comes after .*transforms.0 \(one_hot\), which is late",
        ),
        ([{"name": "scale", "column": "x", "late": True, "views": "train"}], "is late, so it is done for all views"),
        (
            [{"name": "normalise", "column": "y", "mean": [1, 2], "std": [1, 2], "late": True}],
            "late transforms: .*normalised",
        ),
        (
            [{"name": "random_crop", "column": "x", "size": [4, 4], "views": "train"}],
            r"make .*x uint8\(4, 4, 3\).* of view 'train', but .* of view 'validation'.* wants crop",
        ),
    ],
)
def test_what_does_not_fit_is_told_when_the_dataset_is_opened(
    images: Path, transforms: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        opened(images, *transforms, inputs="x", views={"train": "0:30", "validation": "30:"})


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"scale": [0, 1]}, "both more than 0"),
        ({"scale": [0.5, 0.1]}, "the least first"),
        ({"scale": [0.5, 1.5]}, "at most 1, which is the whole image"),
        ({"scale": 0.5}, "least and most, such as"),
        ({"ratio": [0.5, 1, 2]}, "least and most, such as"),
        ({"ratio": [1, "inf"]}, "both more than 0"),
    ],
)
def test_bounds_of_random_resized_crops_are_two_that_can_be_drawn_between(bounds: dict[str, Any], said: str) -> None:
    crop = {"name": "random_resized_crop", "column": "x", "size": [4, 4], **bounds}

    with pytest.raises(ValueError, match=said):
        ColumnsConfig.declare(path="/", transforms=[crop])


def test_transforms_are_part_of_the_identity_and_where_a_table_is_is_not(images: Path) -> None:
    np.save(images.parent / "one.npy", np.zeros((4, 2)))
    np.save(images.parent / "two.npy", np.zeros((4, 2)))
    np.save(images.parent / "three.npy", np.ones((4, 2)))

    def identity(*transforms: dict[str, Any], **said: Any) -> bytes:
        config = ColumnsConfig.declare(path=images, transforms=transforms, inputs="x", **said)
        return fingerprint(open_dataset("d", config), config)

    plain = identity()
    one, two, three = (
        identity({"name": "embed", "column": "y", "table": f"../{name}.npy"}) for name in ("one", "two", "three")
    )
    flips = [identity({"name": "random_flip", "column": "x", "vertical": vertical}) for vertical in (True, False)]

    assert one == two
    assert len({plain, one, three, *flips, identity(on_bad_sample="skip"), identity(nan="error")}) == 7


def test_a_worker_does_not_stay_as_large_as_its_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT_NBYTES", 1000)
    scratch = rows.Scratch()
    small = scratch.take("x", 0, np.dtype("<f4"), (100,))
    scratch.take("x", 1, np.dtype("u1"), (700,))

    scratch.tidy()

    assert {place: len(piece) for place, piece in scratch._pieces.items()} == {("x", 0): 400}
    assert np.shares_memory(small, scratch.take("x", 0, np.dtype("<f4"), (100,)))
