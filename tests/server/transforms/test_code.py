"""Functions of the operator's own: what they are given, what may come back, and how their errors reach the trainer."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.host.user_code import imported
from feedline_wire import IDS
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views

Write = Callable[[str], str]


def opened(folder: Path, *transforms: dict[str, Any], **said: Any) -> Dataset:
    config = ColumnsConfig.declare(path=folder, modules=folder.parent, transforms=transforms, **said)
    return open_dataset("d", pickle.loads(pickle.dumps(config)))


def batch(dataset: Dataset, rows: int = 4, offset: int = 0, **key: Any) -> dict[str, Array]:
    said = {"order": "sequential", "seed": 1, "epoch": 0, **key}
    memory = np.full(most_nbytes(dataset, rows), 0xAA, np.uint8)
    layout = assemble(dataset, Key("d", b"", "train", offset=offset, rows=rows, **said), memory)
    return views(memory[: layout.nbytes], layout)


def test_a_function_of_columns_is_called_sample_by_sample(columns_folder: Path, code: Write) -> None:
    module = code("def f(x, y): return x.sum() + y, -y")

    dataset = opened(columns_folder, {"code": f"{module}:f", "columns": ["x", "y"]})

    assert [str(column) for column in dataset.columns] == ["x float64()", "y int64()"]
    assert dataset.notes == (
        "column 'x' is float64, as code returns it: 8 bytes a sample where float32 takes 4. If the model takes "
        'float32, add [[datasets.d.transforms]] name = "cast", column = "x", dtype = "float32"',
    )
    assert batch(dataset)["x"].tolist() == [100, 107, 114, 121]
    assert batch(dataset)["y"].tolist() == [-100, -101, -102, -103]


def test_a_function_without_columns_makes_a_sample_anew(columns_folder: Path, code: Write) -> None:
    module = code("def f(s): return {'x1': s['x'][0], 'x2': s['x'] > 2, 'y': s['y']}")

    dataset = opened(columns_folder, {"code": f"{module}:f"})

    assert [str(column) for column in dataset.columns] == ["x1 float32(3)", "x2 bool(2, 3)", "y int64()"]
    assert dataset.structure == ({"x1": "x1", "x2": "x2"}, "y")
    assert batch(dataset, 2, 2)["x2"].tolist() == [[[False] * 3] * 2, [[True] * 3] * 2]


def test_a_function_may_be_given_whole_batches(columns_folder: Path, code: Write) -> None:
    module = code("def f(x): return x.max(axis=(1, 2))[:, None].repeat(x.shape[0] // x.shape[0], 1)")

    dataset = opened(columns_folder, {"code": f"{module}:f", "column": "x", "per": "batch"})

    assert [str(column) for column in dataset.columns] == ["x float32(1)", "y int64()"]
    assert batch(dataset)["x"].tolist() == [[0], [1], [2], [3]]


def test_what_is_drawn_belongs_to_the_sample(columns_folder: Path, code: Write) -> None:
    module = code("def f(x, rng): return x + rng.integers(1000, size=x.shape, dtype='int32')")
    transform = {"code": f"{module}:f", "column": "x"}

    whole = batch(opened(columns_folder, transform), 12, order="shuffle")
    parts = [batch(opened(columns_folder, transform), 6, offset, order="shuffle") for offset in (6, 0)]
    other = batch(opened(columns_folder, transform), 12, order="shuffle", epoch=1)

    np.testing.assert_array_equal(whole["x"], np.concatenate([parts[1]["x"], parts[0]["x"]]))
    noise = [(one["x"] - one[IDS][:, None, None])[np.argsort(one[IDS])] for one in (whole, other)]
    assert len(np.unique(noise)) > 120


def test_what_is_drawn_for_a_batch_belongs_to_its_first_sample(columns_folder: Path, code: Write) -> None:
    module = code("def f(x, rng): return x * 0 + rng.random()")
    dataset = opened(columns_folder, {"code": f"{module}:f", "column": "x", "per": "batch"})

    first, again, second = (batch(dataset, 4, offset)["x"] for offset in (0, 0, 4))

    assert len(np.unique(first)) == 1
    np.testing.assert_array_equal(first, again)
    assert first[0, 0, 0] != second[0, 0, 0]


def test_samples_may_come_out_with_different_lengths(columns_folder: Path, code: Write) -> None:
    module = code("import numpy as np\ndef f(y): return np.full((int(y) - 99, 2), y)")

    dataset = opened(columns_folder, {"code": f"{module}:f", "column": "y", "varies": True})

    assert str(dataset.columns[1]) == "y int64(?, 2)"
    assert batch(dataset, 2)["y"].tolist() == [[[100, 100], [0, 0]], [[101, 101], [101, 101]]]


def test_a_batch_that_outgrows_its_estimate_says_how_much_it_needs(columns_folder: Path, code: Write) -> None:
    from feedline_server.batches.assembly import Outgrown

    module = code("import numpy as np\ndef f(y): return np.zeros(1 if y < 110 else 1000)")
    dataset = opened(columns_folder, {"code": f"{module}:f", "column": "y", "varies": True}, inputs="x", targets="y")
    key = Key("d", b"", "train", "sequential", 0, 0, 10, 2)

    with pytest.raises(Outgrown) as outgrown:
        assemble(dataset, key, np.empty(most_nbytes(dataset, 2), np.uint8))
    memory = np.empty(outgrown.value.nbytes, np.uint8)

    assert views(memory, assemble(dataset, key, memory))["y"].shape == (2, 1000)


def test_what_goes_wrong_reaches_the_trainer_with_sample_transform_and_traceback(
    columns_folder: Path, code: Write
) -> None:
    module = code("def f(y):\n    return helper(y)\n\ndef helper(y):\n    return 1 // (int(y) - 102)")
    dataset = opened(
        columns_folder, {"name": "cast", "column": "x", "dtype": "int8"}, {"code": f"{module}:f", "column": "y"}
    )

    with pytest.raises(BadSample) as error:
        batch(dataset)

    assert error.value.args[0].startswith(f"dataset 'd', transforms.1 ({module}:f): sample 2: ZeroDivisionError: ")
    assert error.value.samples == (2,)
    assert "in helper\n    return 1 // (int(y) - 102)" in error.value.traceback
    assert "feedline_server" not in error.value.traceback


def test_an_error_in_a_whole_batch_names_its_samples(columns_folder: Path, code: Write) -> None:
    module = code("def f(y):\n    if 105 in y: raise ValueError('no fives')\n    return y")
    dataset = opened(columns_folder, {"code": f"{module}:f", "column": "y", "per": "batch"})

    with pytest.raises(
        DataError, match=rf"transforms.0 \({module}:f\).* on a batch of 4 samples: ValueError: no"
    ) as error:
        batch(dataset, 4, 4)

    assert not isinstance(error.value, BadSample)
    assert error.value.samples == (4, 5, 6, 7)


@pytest.mark.parametrize(
    ("function", "said", "problem"),
    [
        (
            "def f(x): return x[0] if x[0, 0] < 2 else x",
            {},
            r"sample 2: .* of shape \(2, 3\); wanted x float32\(3\).*varies = true",
        ),
        ("def f(x): return x if x[0, 0] < 2 else x.astype('float64')", {}, "sample 2: .*as float64; wanted x float32"),
        ("def f(x): return x if x[0, 0] < 2 else x.astype('complex64')", {"varies": True}, "sample 2: .*as complex64"),
        ("def f(x): return x if x[0, 0] < 2 else None", {}, "sample 2: "),
        (
            "import numpy as np\ndef f(x): return np.ma.masked_equal(x, 2)",
            {},
            "sample 2: .*masked array as 'x', 6 values",
        ),
        ("def f(x): return x if x[0, 0, 0] else x[:1]", {"per": "batch"}, "with .* rows; wanted 2"),
    ],
)
def test_what_comes_out_is_always_of_one_kind(
    columns_folder: Path, code: Write, function: str, said: dict[str, Any], problem: str
) -> None:
    module = code(function)

    with pytest.raises(DataError, match=problem):
        batch(opened(columns_folder, {"code": f"{module}:f", "column": "x", **said}))


@pytest.mark.parametrize(
    ("module", "transform", "problem"),
    [
        ("f = 3", {"column": "x"}, "is of type int; wanted a function"),
        ("g = 3", {"column": "x"}, r"\.py has no 'f'; it has g"),
        ("import gone_for_ever", {"column": "x"}, "fails with ModuleNotFoundError: No module named 'gone_for_ever'"),
        ("raise SystemExit(3)", {"column": "x"}, "fails with SystemExit: 3"),
        ("def f(x)\n", {"column": "x"}, "fails with SyntaxError"),
        ("def f(x): return 'a'", {"column": "x"}, r"returns a column 'x' that cannot be served: dtype <U1"),
        ("def f(x): return {}", {}, "wanted a mapping of columns by name"),
        ("def f(x): return {'__ids__': 1}", {}, "names like __ids__ are feedline's own"),
        ("def f(x): pass", {"column": "x"}, r"returned None as 'x'; does it lack a return"),
        ("def f(x, y): return x", {"columns": ["x", "y"]}, r"returned ndarray; wanted \(x, y\)"),
        ("def f(x): return 1.0", {"column": "x", "varies": True}, "single values .* leave out `varies`"),
        ("def f(x): raise KeyError('k')", {"column": "x"}, r"transforms.0 \(.*:f\): sample 0: KeyError: 'k'"),
        ("def f(x): return x", {"column": "w"}, "there is no column 'w'"),
    ],
)
def test_a_function_that_cannot_work_is_found_when_the_dataset_is_opened(
    columns_folder: Path, code: Write, module: str, transform: dict[str, Any], problem: str
) -> None:
    name = code(module)

    with pytest.raises(DataError, match=problem):
        opened(columns_folder, {"code": f"{name}:f", **transform})


def test_a_module_that_is_not_there_says_where_it_was_looked_for(
    columns_folder: Path, tmp_path: Path, code: Write
) -> None:
    with pytest.raises(DataError, match=rf"no module 'gone_code'; looked in {tmp_path}.* set `modules` to its folder"):
        opened(columns_folder, {"code": "gone_code:f", "column": "x"})


def test_a_module_of_a_name_that_is_taken_is_not_mixed_up(columns_folder: Path, tmp_path: Path, code: Write) -> None:
    """The first one, from another folder, would be used in silence."""
    module = code("def f(x): return x")
    imported(f"{module}:f", [tmp_path])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"{module}.py").write_text("def f(x): return -x")

    with pytest.raises(DataError, match=r"is loaded already, from .*; give the file another name"):
        imported(f"{module}:f", [tmp_path / "other"])


def test_other_code_is_another_dataset(columns_folder: Path, code: Write) -> None:
    def identity(module: str) -> bytes:
        config = ColumnsConfig.declare(
            path=columns_folder,
            modules=columns_folder.parent,
            transforms=[{"code": f"{module}:f", "column": "x"}],  # type: ignore[list-item]
        )
        return fingerprint(open_dataset("d", config), config)

    first = identity(code("def f(x): return helper(x)\ndef helper(x): return x"))
    (columns_folder.parent / "operators_code_0.py").write_text("def f(x): return helper(x)\ndef helper(x): return -x")
    import sys

    del sys.modules["operators_code_0"]

    assert identity("operators_code_0") != first
