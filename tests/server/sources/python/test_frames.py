"""A pandas DataFrame, as `module:name`."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.declared.datasets import PythonConfig
from feedline_wire.errors import DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views

pytestmark = pytest.mark.frameworks


def opened(folder: Path, text: str, **declared: Any) -> Dataset:
    (folder / "frame_of_pandas.py").write_text("import numpy as np\nimport pandas as pd\n" + dedent(text))
    return open_dataset("d", PythonConfig.declare(path=folder, object="frame_of_pandas:df", **declared))


def batch(dataset: Dataset, rows: int) -> dict[str, Array]:
    memory = np.empty(most_nbytes(dataset, rows), np.uint8)
    layout = assemble(dataset, Key("d", b"", "train", "sequential", 0, 0, 0, rows), memory)
    return views(memory[: layout.nbytes], layout)


MIXED = """
df = pd.DataFrame({"age": [30, 40, 50], "height": [1.5, np.nan, 2.0], "member": [True, False, True]})
df["count"] = pd.array([1, 2, 3], dtype="Int64")
df["species"] = pd.Categorical(["dog", "cat", "dog"], categories=["dog", "cat", "cow"])
"""


def test_rows_are_samples_by_the_names_of_the_columns(tmp_path: Path) -> None:
    dataset = opened(tmp_path, MIXED, inputs=["age", "height", "member", "count"], targets="species")

    found = batch(dataset, 3)
    dataset.close()

    assert [str(column) for column in dataset.columns] == [
        "age int64()",
        "height float64()",
        "member bool()",
        "count int64()",
        "species int64()",
    ]
    assert found["age"].tolist() == [30, 40, 50]
    assert np.isnan(found["height"][1])
    assert found["species"].tolist() == [0, 1, 0]
    assert dataset.categories == {"species": ("dog", "cat", "cow")}


def test_columns_become_one_x(tmp_path: Path) -> None:
    stack = {"name": "stack", "columns": ["age", "member", "count"]}

    dataset = opened(tmp_path, MIXED + 'df = df.drop(columns="height")\n', targets="species", transforms=[stack])
    found = batch(dataset, 3)
    dataset.close()

    assert dataset.structure == ("x", "species")
    assert found["x"].tolist() == [[30, 1, 1], [40, 0, 2], [50, 1, 3]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'df = pd.DataFrame({"a": [1], "species": ["dog"], "seen": [pd.Timestamp(0)]})',
            r"columns are no numbers: species \(\w+\), seen \(datetime64.*\); make numbers of them or leave them out "
            r"in the module, such as df\['species'\] = df\['species'\].astype\('category'\), or df = df.drop\(columns="
            r"\['species', 'seen'\]\)",
        ),
        (
            'df = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": ["x", "y", None]})',
            r"columns have no value: a in 1 of 3 rows, b in 1 of 3 rows; .* df\['a'\] = df\['a'\].fillna\(0\)",
        ),
        ('df = pd.DataFrame([[1, 2]], columns=["a", "a"])', "several columns 'a'"),
    ],
)
def test_columns_that_are_no_numbers_are_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        opened(tmp_path, text)


def test_numbers_stand_for_the_same_names_in_all_views(tmp_path: Path) -> None:
    text = MIXED + 'other = df.assign(species=pd.Categorical(["cat", "dog", "cat"]))\n'

    with pytest.raises(DataError, match=r"its categories are .*, those of the view 'validation' .*CategoricalDtype"):
        opened(tmp_path, text, views={"validation": "frame_of_pandas:other"})
