"""Sequences of different length: read as they are, never mixed, and everything that is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.assembly import sample_ids
from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import SequencesConfig
from feedline_server.sources.kinds.sequences import Sequences
from feedline_server.sources.kinds.sequences import opened as open_sequences
from feedline_server.sources.ragged import Ragged
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.tensors import VARIES, Column

LENGTHS = [3, 0, 2, 1]


def written(folder: Path, arrays: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four sequences: tokens 10 11 12, none, 20 21, 30, each with a tag of its tens, and a class each."""
    return written(
        tmp_path / "reviews",
        {
            "tokens": np.array([10, 11, 12, 20, 21, 30], np.int32),
            "tags": np.array([[1, 0], [1, 0], [1, 0], [2, 0], [2, 0], [3, 0]], np.uint8),
            "label": np.array([7, 8, 9, 6]),
            "lengths": np.array(LENGTHS),
        },
    )


def opened(folder: Path, **declared: Any) -> Sequences:
    found = open_sequences(SequencesConfig.declare(path=folder, **declared))
    assert not tuple(found.notes())
    assert isinstance(found.source, Sequences)
    return found.source


def read(source: Sequences, *ids: int) -> dict[str, Any]:
    found = source.read(np.array(ids, np.int64))
    return {
        name: [sample.tolist() for sample in map(column.__getitem__, range(len(column)))]
        if isinstance(column, Ragged)
        else column.tolist()
        for name, column in found.items()
    }


def test_each_sequence_has_its_own_steps_and_its_own_label(folder: Path) -> None:
    found = read(opened(folder), 2, 0, 1, 2)

    assert found["tokens"] == [[20, 21], [10, 11, 12], [], [20, 21]]
    assert found["tags"] == [[[2, 0], [2, 0]], [[1, 0], [1, 0], [1, 0]], [], [[2, 0], [2, 0]]]
    assert found["label"] == [9, 7, 8, 9]


def test_columns_of_steps_vary_and_the_longest_is_known(folder: Path) -> None:
    source = opened(folder)

    assert source.samples == 4
    assert set(source.columns) == {
        Column("tokens", np.dtype("<i4"), (VARIES,)),
        Column("tags", np.dtype("u1"), (VARIES, 2)),
        Column("label", np.dtype("<i8"), ()),
    }
    assert source.longest == {"tokens": 3, "tags": 3}
    assert source.lengths(np.array([3, 1, 0])).tolist() == [1, 0, 3]


def test_offsets_say_the_same_as_lengths(folder: Path) -> None:
    by_length = read(opened(folder), 0, 1, 2, 3)
    (folder / "lengths.npy").unlink()
    np.save(folder / "offsets.npy", np.array([0, 3, 3, 5, 6], np.uint32))

    by_offset = opened(folder)

    assert read(by_offset, 0, 1, 2, 3) == by_length
    assert by_offset.longest == {"tokens": 3, "tags": 3}


def test_the_boundaries_may_have_any_name(folder: Path) -> None:
    (folder / "lengths.npy").rename(folder / "sizes.npy")

    source = opened(folder, lengths="sizes.npy")

    assert read(source, 2)["tokens"] == [[20, 21]]
    assert "sizes" not in {column.name for column in source.columns}


def test_views_are_cut_as_of_columns(folder: Path) -> None:
    config = SequencesConfig.declare(
        path=folder, views={"train": ":3", "validation": "3:"}, inputs="tokens", targets="tags"
    )

    dataset = open_dataset("reviews", config)

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3, "validation": 1}
    assert dataset.structure == ("tokens", "tags")


def test_copies_have_one_fingerprint_and_other_boundaries_another(folder: Path, tmp_path: Path) -> None:
    def identity(place: Path) -> bytes:
        config = SequencesConfig.declare(path=place, inputs="tokens")
        return fingerprint(open_dataset("d", config), config)

    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    copy = written(tmp_path / "copy", arrays)
    other = written(tmp_path / "other", arrays | {"lengths": np.array([3, 1, 1, 1])})

    assert identity(copy) == identity(folder)
    assert identity(other) != identity(folder)


def test_a_sample_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"sample 4 was asked for; ids are 0\.\.3"):
        read(opened(folder), 4)


@pytest.mark.parametrize(
    ("change", "declared", "said"),
    [
        pytest.param({"offsets": [0, 3, 3, 5, 6]}, {}, "found both of offsets.npy", id="both boundaries"),
        pytest.param({"lengths": None}, {}, "found neither of offsets.npy", id="no boundaries"),
        pytest.param({}, {"offsets": "o.npy", "lengths": "l.npy"}, "both offsets and lengths", id="both declared"),
        pytest.param({"lengths": [3, -1, 3, 1]}, {}, "sequence 1 has the length -1", id="a negative length"),
        pytest.param({"lengths": [3.0, 0.0, 2.0, 1.0]}, {}, "one row of whole numbers", id="lengths are floats"),
        pytest.param({"lengths": None, "offsets": [1, 3, 6]}, {}, "begins with 1", id="offsets do not begin at 0"),
        pytest.param({"lengths": None, "offsets": [0, 3, 2, 6]}, {}, "entry 2 is smaller than entry 1", id="falling"),
        pytest.param({"lengths": [3, 0, 2, 2]}, {}, "has 6 rows; wanted 7", id="steps are missing"),
        pytest.param({"label": [1, 2, 3]}, {}, "label.npy: has 3 rows; wanted 6", id="a column that is neither"),
        pytest.param({"tokens": None, "tags": None}, {}, "none of label has 6 rows", id="no steps"),
        pytest.param({}, {"steps": ["words"]}, "there is no words.npy", id="steps that are not there"),
        pytest.param({}, {"steps": ["label"]}, r"\(label is declared in steps\)", id="steps that are none"),
        pytest.param(
            {"lengths": [1, 1], "tokens": [1, 2], "tags": [1, 2], "label": [1, 2]}, {}, "say which", id="ambiguous"
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    folder: Path, change: dict[str, Any], declared: dict[str, Any], said: str
) -> None:
    for name, array in change.items():
        if array is None:
            (folder / f"{name}.npy").unlink()
        else:
            np.save(folder / f"{name}.npy", np.array(array))

    with pytest.raises(DataError, match=said):
        opened(folder, **declared)


def test_as_many_steps_as_sequences_are_told_apart_when_declared(tmp_path: Path) -> None:
    folder = written(tmp_path / "s", {"x": np.array([5, 6]), "y": np.array([1, 2]), "lengths": np.array([2, 0])})

    source = opened(folder, steps="x")

    assert read(source, 0, 1) == {"x": [[5, 6], []], "y": [1, 2]}


def test_a_file_that_changed_while_served_is_an_error(folder: Path) -> None:
    source = opened(folder)
    np.save(folder / "tokens.npy", np.arange(6, dtype=np.int32))

    with pytest.raises(DataError, match=r"tokens\.npy"):
        read(source, 0)


def test_buckets_are_of_the_lengths_that_sequences_have(folder: Path) -> None:
    dataset = open_dataset("reviews", SequencesConfig.declare(path=folder, views={"train": "0:4"}, inputs="tokens"))

    ids = sample_ids(dataset, Key("reviews", b"", "train", "buckets:2x2", 0, 0, 0, 4))

    buckets = {frozenset(bucket) for bucket in ids.reshape(2, 2).tolist()}
    assert "buckets" in dataset.orders
    assert buckets == {frozenset({1, 3}), frozenset({2, 0})}  # of lengths 0 and 1, and of 2 and 3
