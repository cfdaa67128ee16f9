"""Samples that cannot be read or transformed: an error that names them, or left out, or replaced, everywhere alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.declared.datasets import ColumnsConfig, IdFilesConfig
from feedline_server.sources.evidence import Evidence
from feedline_wire import BAD, IDS
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views

SAMPLES = 30
NAN = (3, 4, 17)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 samples of two numbers, all i; in three of them one is nan."""
    x = np.arange(SAMPLES, dtype=np.float32).repeat(2).reshape(SAMPLES, 2)
    x[list(NAN), 1] = np.nan
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", x)
    np.save(tmp_path / "data" / "y.npy", np.arange(SAMPLES))
    return tmp_path / "data"


def opened(folder: Path, **said: Any) -> Dataset:
    config = ColumnsConfig.declare(path=folder, modules=folder.parent, **{"nan": "error", **said})
    return open_dataset("d", config)


def batch(dataset: Dataset, rows: int = SAMPLES, offset: int = 0, **key: Any) -> dict[str, Array]:
    said = {"view": "train", "order": "sequential", "seed": 1, "epoch": 0, **key}
    memory = np.full(most_nbytes(dataset, rows), 0xAA, np.uint8)
    layout = assemble(dataset, Key("d", b"", offset=offset, rows=rows, **said), memory)
    return {name: array.copy() for name, array in views(memory[: layout.nbytes], layout).items()}


def test_nan_is_served_unless_somebody_minds(folder: Path) -> None:
    assert np.isnan(batch(opened(folder, nan="allow"))["x"]).sum() == 3
    with pytest.raises(
        BadSample, match=r"dataset 'd': column 'x' holds what is not a number \(nan\) in samples 3, 4, 17"
    ):
        batch(opened(folder))


def test_bad_samples_are_left_out_and_said(folder: Path) -> None:
    found = batch(opened(folder, on_bad_sample="skip"), 6)

    assert found[IDS].tolist() == [0, 1, 2, 5]
    assert found["x"].tolist() == [[0, 0], [1, 1], [2, 2], [5, 5]]
    assert found["y"].tolist() == [0, 1, 2, 5]
    assert found[BAD].tolist() == [[3, 3], [4, 4]]


def test_a_batch_without_a_bad_sample_says_so(folder: Path) -> None:
    found = batch(opened(folder, on_bad_sample="skip"), 5, 20)

    assert found[IDS].tolist() == [20, 21, 22, 23, 24]
    assert found[BAD].shape == (0, 2)


def test_a_batch_in_which_everything_is_bad_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"every sample of the batch is bad \(2\)") as error:
        batch(opened(folder, on_bad_sample="skip"), 2, 3)

    assert error.value.samples == (3, 4)


def test_bad_samples_are_replaced_by_others_of_their_view(folder: Path) -> None:
    dataset = opened(folder, on_bad_sample="substitute", views={"train": "0:20", "validation": "20:"})

    found = batch(dataset, 20, order="shuffle")

    bad = dict(found[BAD].tolist())
    assert set(bad.values()) == set(NAN)
    assert len(found[IDS]) == 20
    assert set(found[IDS].tolist()) == set(range(20)) - set(NAN)
    assert all(found[IDS][row] not in NAN for row in bad)
    np.testing.assert_array_equal(found["x"][:, 0], found[IDS])
    np.testing.assert_array_equal(found["y"], found[IDS])


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_the_batch_is_the_same_whatever_was_met_before(folder: Path, policy: str) -> None:
    """What a worker remembers of bad samples must show in nothing but the time it takes."""
    fresh, experienced = opened(folder, on_bad_sample=policy), opened(folder, on_bad_sample=policy)
    for epoch in range(5):
        batch(experienced, 30, 7, order="shuffle", epoch=epoch)

    one, other = (batch(dataset, 25, 5, order="shuffle", epoch=9) for dataset in (fresh, experienced))

    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_a_replacement_is_the_same_however_the_epoch_is_cut(folder: Path) -> None:
    whole = batch(opened(folder, on_bad_sample="substitute"), 20)
    parts = [batch(opened(folder, on_bad_sample="substitute"), 10, offset) for offset in (0, 10)]

    np.testing.assert_array_equal(whole["x"], np.concatenate([part["x"] for part in parts]))


def test_a_bad_sample_is_read_once(folder: Path) -> None:
    dataset = opened(folder, on_bad_sample="skip")
    read: list[int] = []
    source: Any = dataset.source
    gather = dataset.chain.gather
    object.__setattr__(dataset.chain, "gather", lambda ids, out: (read.extend(ids.tolist()), gather(ids, out)))

    batch(dataset, 10)
    first, read[:] = read.count(3), []
    batch(dataset, 10)

    assert (first, read.count(3), source.samples) == (1, 0, SAMPLES)


def test_a_function_that_fails_on_some_samples_costs_those_alone(folder: Path, code: Callable[[str], str]) -> None:
    module = code("def f(y):\n    if y % 7 == 6: raise ValueError('six')\n    return y")
    transforms = [{"code": f"{module}:f", "column": "y"}]

    found = batch(opened(folder, nan="allow", on_bad_sample="skip", transforms=transforms))

    assert found[BAD][:, 1].tolist() == [6, 13, 20, 27]
    assert found["y"].tolist() == [y for y in range(SAMPLES) if y % 7 != 6]


def test_what_fails_by_chance_fails_for_the_same_samples_everywhere(folder: Path, code: Callable[[str], str]) -> None:
    """Remembered for ever, a sample that failed in one epoch would be missing in the next, on one worker of many."""
    module = code("def f(y, rng):\n    if rng.random() < 0.3: raise ValueError('bad luck')\n    return y")
    said = {"nan": "allow", "on_bad_sample": "skip", "transforms": [{"code": f"{module}:f", "column": "y"}]}
    fresh, experienced = opened(folder, **said), opened(folder, **said)
    for epoch in range(4):
        batch(experienced, epoch=epoch)

    one, other = batch(fresh, epoch=4), batch(experienced, epoch=4)

    assert 0 < len(one[BAD]) < SAMPLES
    np.testing.assert_array_equal(one[BAD], other[BAD])


def test_first_samples_that_are_bad_do_not_keep_a_dataset_from_being_opened(
    folder: Path, code: Callable[[str], str]
) -> None:
    """A function is tried on the first samples, which may be the bad ones."""
    module = code("def f(y):\n    if y < 5: raise ValueError('small')\n    return y")
    transforms = [{"code": f"{module}:f", "column": "y"}]

    found = batch(opened(folder, nan="allow", on_bad_sample="skip", transforms=transforms), 8)

    assert found["y"].tolist() == [5, 6, 7]
    with pytest.raises(BadSample, match="sample 0: ValueError: small"):
        opened(folder, nan="allow", transforms=transforms)


def test_a_damaged_file_costs_its_sample(id_files_folder: Path) -> None:
    (id_files_folder / "data" / "id-1.npy").write_bytes(b"")
    dataset = open_dataset("d", IdFilesConfig.declare(path=id_files_folder, on_bad_sample="skip"))

    found = batch(dataset, 3)

    assert found[IDS].tolist() == [0, 2]
    assert found[BAD].tolist() == [[1, 1]]


def test_the_log_says_what_is_left_out_and_not_a_line_each(folder: Path) -> None:
    dataset = opened(folder, on_bad_sample="skip")

    with capture_logs() as lines:
        batch(dataset)
        batch(dataset, order="shuffle")

    (line,) = lines
    assert line["event"] == "bad samples are left out or replaced"
    assert (line["dataset"], line["found"], line["samples"]) == ("d", 3, (3, 4, 17))


def noted(dataset: Dataset) -> list[Evidence]:
    """What can be shown of the bad samples that were found since this was last called."""
    assert dataset.known_bad is not None
    found = [note.evidence for note in dataset.known_bad.taken_notes()]
    assert all(isinstance(one, Evidence) for one in found)
    return found  # type: ignore[return-value]  # as asserted


def test_a_sample_on_which_a_function_raised_is_shown_as_it_came_to_it(
    folder: Path, code: Callable[[str], str]
) -> None:
    module = code("def f(y):\n    if y % 7 == 6: raise ValueError('six')\n    return y")
    double = code("def f(y):\n    return 2 * y")
    transforms = [{"code": f"{double}:f", "column": "x"}, {"code": f"{module}:f", "column": "y"}]
    dataset = opened(folder, nan="allow", on_bad_sample="skip", transforms=transforms)

    batch(dataset, 10)

    (found,) = noted(dataset)
    assert found.title == f"sample 6, as it came to dataset 'd', transforms.1 ({module}:f)"
    assert [(one.name, one.values) for one in found.arrays] == [("x", "12 12"), ("y", "6")]
    assert noted(dataset) == []


def test_a_sample_with_nan_is_shown_as_it_would_have_been_sent(folder: Path) -> None:
    dataset = opened(folder, on_bad_sample="skip")

    batch(dataset, 10)

    (found,) = noted(dataset)
    assert found.title == "sample 3, as it would have been sent"
    assert found.arrays[0].values == "3 nan"


def test_where_a_function_of_batches_raises_the_first_samples_are_shown(
    folder: Path, code: Callable[[str], str]
) -> None:
    module = code("def f(y):\n    if len(y) == 9: raise ValueError('nine')\n    return y")
    transforms = [{"code": f"{module}:f", "column": "y", "per": "batch"}]
    dataset = opened(folder, nan="allow", transforms=transforms)

    with pytest.raises(DataError, match="on a batch of 9 samples: ValueError: nine") as error:
        batch(dataset, 9)

    found = error.value.evidence
    assert isinstance(found, Evidence)
    assert found.title.startswith("the batch of 9 samples, of which any may be the bad one, by its first ones")
    assert [one.values for one in found.arrays] == ["0 0 1 1 2 2 3 nan", "0 1 2 3"]


def test_a_batch_in_which_everything_is_bad_shows_one_of_them(folder: Path) -> None:
    dataset = opened(folder, on_bad_sample="skip")

    with pytest.raises(DataError, match="every sample of the batch is bad") as error:
        batch(dataset, 2, 3)

    assert isinstance(error.value.evidence, Evidence)
    assert error.value.evidence.title == "sample 3, as it would have been sent"
