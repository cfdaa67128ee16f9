"""Filters: what the views keep is decided when the dataset is opened, and everything else knows nothing of it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from feedline_server.batches import filters
from feedline_server.batches.assembly import sample_ids
from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ColumnsConfig
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key

Write = Callable[[str], str]


def config(folder: Path, *filters: dict[str, Any], **said: Any) -> ColumnsConfig:
    made = ColumnsConfig.declare(path=folder, modules=folder.parent, filters=filters, **said)
    back = pickle.loads(pickle.dumps(made))
    assert back == made
    return made


def ids(dataset: Dataset, view: str = "train") -> list[int]:
    samples = dataset.views[view].samples
    return sample_ids(dataset, Key("d", b"", view, "sequential", 0, 0, 0, samples)).tolist()


def test_samples_with_one_of_some_values_are_kept(columns_folder: Path) -> None:
    dataset = open_dataset("d", config(columns_folder, {"column": "y", "is": [101, 103, 104, 999]}))

    assert ids(dataset) == [1, 3, 4]
    shuffled = sample_ids(dataset, Key("d", b"", "train", "shuffle", 0, 0, 0, 3)).tolist()
    assert sorted(shuffled) == [1, 3, 4]


def test_a_function_of_columns_says_which_are_kept(columns_folder: Path, code: Write) -> None:
    module = code("def odd(x, y): return x[0, 0] % 2 == 1 and y < 108")

    dataset = open_dataset("d", config(columns_folder, {"columns": ["x", "y"], "code": f"{module}:odd"}))

    assert ids(dataset) == [1, 3, 5, 7]


def test_filters_follow_each_other_and_may_be_for_one_view(columns_folder: Path, code: Write) -> None:
    module = code("def even(y): return y % 2 == 0")
    views = {"train": "0:9", "validation": "6:"}

    dataset = open_dataset(
        "d",
        config(
            columns_folder,
            {"column": "y", "is": [102, 103, 104, 107, 108, 109]},
            {"column": "y", "code": f"{module}:even", "views": "train"},
            views=views,
        ),
    )

    assert ids(dataset) == [2, 4, 8]
    assert ids(dataset, "validation") == [7, 8, 9]


def test_data_is_looked_at_in_pieces(columns_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PIECE_ROWS", 5)
    monkeypatch.setattr(filters, "LOG_EVERY_S", -1.0)

    with capture_logs() as lines:
        dataset = open_dataset("d", config(columns_folder, {"column": "y", "is": [100, 104, 105, 111]}))

    assert ids(dataset) == [0, 4, 5, 11]
    assert [line.get("looked_at") for line in lines] == [5, 10, 12, None]
    assert (lines[-1]["event"], lines[-1]["kept"], lines[-1]["samples"]) == ("filtered", 4, 12)


def test_a_worker_is_told_what_was_kept_and_does_not_look_again(columns_folder: Path, code: Write) -> None:
    module = code("def f(y): return y % 3 == 0")
    said = config(columns_folder, {"column": "y", "code": f"{module}:f"})
    front = open_dataset("d", said)
    (columns_folder.parent / f"{module}.py").write_text("raise RuntimeError('looked again')")

    worker = open_dataset_in_worker("d", said, {view.name: view.selection for view in front.views.values()})

    assert ids(worker) == ids(front) == [2, 5, 8, 11]
    assert fingerprint(worker, said) == fingerprint(front, said)


def test_what_is_kept_is_part_of_the_identity(columns_folder: Path) -> None:
    said = [config(columns_folder, {"column": "y", "is": [100, 101, last]}) for last in (102, 103)]

    one, other = (fingerprint(open_dataset("d", each), each) for each in said)

    assert one != other


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"column": "z", "is": [1]}, r"dataset 'd', filters.0 \(z\): there is no column 'z'; the columns are x, y"),
        ({"column": "x", "is": [1]}, r"x float32\(2, 3\) is no single value.*; filter it by code"),
        ({"column": "y", "is": [1]}, "keeps none of the 12 samples of view 'train'"),
        ({"column": "y", "is": [101], "views": "test"}, "there is no view 'test'; the views are train"),
    ],
)
def test_a_filter_that_does_not_fit_is_told(columns_folder: Path, said: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_dataset("d", config(columns_folder, said))


def test_a_function_that_fails_names_the_sample(columns_folder: Path, code: Write) -> None:
    module = code("def f(y): return 1 / (int(y) - 104)")

    with pytest.raises(BadSample, match=r"filters.0 \(y\): sample 4: ZeroDivisionError") as error:
        open_dataset("d", config(columns_folder, {"column": "y", "code": f"{module}:f"}))

    assert "return 1 / (int(y) - 104)" in error.value.traceback
