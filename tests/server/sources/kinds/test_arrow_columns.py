"""Tables as people have them: text, missing values, lists, times, decimals; what is served, and what is to be said."""

import datetime
import decimal
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, open_dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ArrowConfig
from feedline_server.sources.arrays import tabular
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views

GROUP = 3


def as_arrow(path: Path, data: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=GROUP)


def as_parquet(path: Path, data: pa.Table) -> None:
    pq.write_table(data, path, row_group_size=GROUP)


FORMATS: list[Any] = [
    pytest.param("d.arrow", as_arrow, id="arrow"),
    pytest.param("d.parquet", as_parquet, id="parquet"),
]

Write = Callable[[Path, pa.Table], None]


def opened(path: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ArrowConfig.declare(path=path, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, list[Any]]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return {name: array.tolist() for name, array in out.items()}


def batch(dataset: Dataset, rows: int, order: str = "sequential") -> dict[str, Array]:
    memory = np.full(4 * most_nbytes(dataset, rows) + 4096, 0xAA, np.uint8)
    layout = assemble(dataset, Key("d", b"", "train", order, 1, 0, 0, rows), memory)
    return views(memory[: layout.nbytes], layout)


SPECIES = ["setosa", "virginica", " setosa", "iris", "virginica"]


# ---- text ----


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_text_is_numbered_as_it_is_sorted_over_all_files_and_views(tmp_path: Path, name: str, write: Write) -> None:
    for view, texts in {"train": SPECIES, "validation": ["zinnia", "iris"]}.items():
        (tmp_path / view).mkdir()
        write(tmp_path / view / name, pa.table({"x": np.arange(float(len(texts))), "y": texts}))

    dataset = opened(tmp_path, codes=["y"])

    assert dataset.categories == {"y": ("iris", "setosa", "virginica", "zinnia")}
    assert gathered(dataset, *range(7))["y"] == [1, 2, 1, 0, 2, 3, 0]
    assert str(dataset.columns[1]) == "y int64()"


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_text_is_numbered_as_it_is_declared(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, pa.table({"x": np.arange(5.0), "y": SPECIES}))

    dataset = opened(tmp_path / name, codes={"y": ["virginica", "setosa"]})

    assert gathered(dataset, 0, 1, 2, 4)["y"] == [1, 0, 1, 0]
    with pytest.raises(BadSample, match=r"sample 3 has no value \(null, or none of the 2 texts that codes names\)"):
        gathered(dataset, 0, 3)


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_categories_of_a_file_keep_their_numbers(tmp_path: Path, name: str, write: Write) -> None:
    sizes = pa.DictionaryArray.from_arrays(pa.array([2, 0, 1, 2], pa.int8()), ["low", "mid", "high"])
    write(tmp_path / name, pa.table({"x": np.arange(4.0), "y": sizes}))

    dataset = opened(tmp_path / name)

    assert dataset.categories == {"y": ("low", "mid", "high")}
    assert gathered(dataset, 0, 1, 2, 3)["y"] == [2, 0, 1, 2]


def test_numbers_that_are_stored_by_a_dictionary_are_those_numbers(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"x": pa.array([7, 9, 7, 8]).dictionary_encode()}))

    assert gathered(opened(tmp_path / "d.parquet"), 0, 1, 2, 3)["x"] == [7, 9, 7, 8]


def test_other_texts_are_another_dataset(tmp_path: Path) -> None:
    found = []
    for texts in (["a", "b"], ["a", "c"]):
        as_parquet(tmp_path / "d.parquet", pa.table({"x": [1.0, 2.0], "y": texts}))
        for codes in ({"y": ["a", "b", "c"]}, {"y": ["c", "b", "a"]}, ["y"]):
            config = ArrowConfig.declare(path=tmp_path / "d.parquet", codes=codes)
            found.append(fingerprint(open_dataset("d", config), config))

    assert len(set(found)) == 6


def test_all_columns_that_cannot_be_served_are_named_at_once_with_the_lines(tmp_path: Path) -> None:
    table = pa.table({
        "x": [1.0],
        "species": ["iris"],
        "seen": pa.array([0], pa.timestamp("ms")),
        "tags": [["a", "b"]],
        "picture": [b"..."],
    })  # fmt: skip
    as_parquet(tmp_path / "d.parquet", table)

    with pytest.raises(DataError) as error:
        opened(tmp_path / "d.parquet")

    assert str(error.value) == (
        f"{tmp_path}/d.parquet: these columns are not served as they are: species (string), seen (timestamp[ms]), tags "
        '(list<element: string>), picture (binary); write in loader.toml codes = ["species"] (text becomes numbers), '
        'or units = {"seen" = "s"} (whole seconds, or D, ms, us, ns), or drop = ["tags", "picture"] (left out)'
    )
    declared = {"codes": ["species"], "units": {"seen": "s"}, "drop": ["tags", "picture"]}
    dataset = opened(tmp_path / "d.parquet", inputs="x", targets="species", **declared)
    assert [column.name for column in dataset.source.columns] == ["x", "species", "seen"]


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"codes": ["z"]}, "codes names the column 'z'; the columns are x, y"),
        ({"codes": ["x"]}, "codes makes numbers of text, and the column 'x' holds double; leave it out of codes"),
        ({"fill": {"z": 0}}, "fill names the column 'z'"),
        ({"drop": ["z"]}, "has no column 'z' to drop; it has x, y"),
    ],
)
def test_what_is_said_of_no_such_column_is_refused(tmp_path: Path, declared: dict[str, Any], problem: str) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"x": [1.0], "y": ["a"]}))

    with pytest.raises(DataError, match=re.escape(problem)):
        opened(tmp_path / "d.parquet", **declared)
    with pytest.raises(ValidationError, match="has both arrays and drop"):
        ArrowConfig.declare(path=tmp_path, arrays={"x": "x"}, drop=["y"])


# ---- what is missing ----


MISSING = {"x": pa.array([[1.0, 2.0], [3.0, None], None], pa.list_(pa.float32(), 2)), "y": ["a", None, ""]}


def test_missing_values_are_refused_at_the_start_by_column_and_count(tmp_path: Path) -> None:
    as_parquet(
        tmp_path / "d.parquet", pa.table({"x": [1.0, None, 3.0, None], "y": [1, 2, None, 4], "z": [None] * 3 + [1]})
    )

    with pytest.raises(DataError) as error:
        opened(tmp_path / "d.parquet")
    skipping = opened(tmp_path / "d.parquet", on_bad_sample="skip")

    assert str(error.value) == (
        f"{tmp_path}/d.parquet: columns have no value (null): x in 2 of 4 rows, y in 1 of 4 rows; say what stands "
        'there, fill = {x = …, y = …}, or leave such rows out with on_bad_sample = "skip"'
    )
    assert "x in 2 of 4 rows" in skipping.notes[-1]
    assert len(batch(skipping, 4)["x"]) == 1
    assert opened(tmp_path / "d.parquet", inputs="z", targets=[], fill={"z": 5}).notes  # x and y are not read


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_missing_values_are_filled_as_declared(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, pa.table({"x": [1.0, None, 3.0, 4.0], "n": [None, 2, 3, 4], "y": ["b", None, "", "a"]}))

    dataset = opened(
        tmp_path / name, inputs=["x", "n"], targets="y", codes=["y"], fill={"x": -1.5, "n": 7, "y": "none"}
    )

    assert gathered(dataset, 0, 1, 2, 3) == {"x": [1.0, -1.5, 3.0, 4.0], "n": [7, 2, 3, 4], "y": [1, 2, 2, 0]}
    assert dataset.categories == {"y": ("a", "b", "none")}


def test_a_view_may_leave_out_what_is_missing(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"x": [1.0, None, 3.0, 4.0]}))

    dataset = opened(tmp_path / "d.parquet", views={"train": "2:"})

    assert gathered(dataset, 2, 3)["x"] == [3.0, 4.0]
    with pytest.raises(BadSample, match=r"sample 1 has no value \(null\) in the column 'x'"):
        gathered(dataset, 1)


# ---- lists ----


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_lists_of_one_length_are_vectors(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, pa.table({"x": pa.array([[row, row + 0.5] for row in range(5)], pa.list_(pa.float32()))}))

    dataset = opened(tmp_path / name)

    assert str(dataset.columns[0]) == "x float32(2)"
    assert gathered(dataset, 4, 0)["x"] == [[4.0, 4.5], [0.0, 0.5]]


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_lists_of_several_lengths_are_a_ragged_column(tmp_path: Path, name: str, write: Write) -> None:
    texts = [[1, 2, 3], [4], [], [5, 6], [7, 8, 9, 10]]
    write(
        tmp_path / name, pa.table({"x": pa.array(texts, pa.list_(pa.int32())), "z": [[1.0] * 2] * 5, "y": np.arange(5)})
    )

    dataset = opened(tmp_path / name, inputs=["x", "z"])
    found = batch(dataset, 5)

    assert [str(column) for column in dataset.columns] == ["x int32(?)", "z float64(2)", "y int64()"]
    assert found["x"].tolist() == [[*of, *[0] * (4 - len(of))] for of in texts]
    assert found["y"].tolist() == [0, 1, 2, 3, 4]
    assert "buckets" in dataset.orders
    assert dataset.source.lengths(np.array([4, 2])).tolist() == [4, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_list_that_is_missing_is_a_bad_sample(tmp_path: Path, name: str, write: Write) -> None:
    alike = pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, None]])
    write(tmp_path / name, pa.table({"x": alike, "w": pa.array([[1], [1, 2], None, [3]])}))
    dataset = opened(tmp_path / name, inputs=["x", "w"], targets=[], on_bad_sample="skip")

    found = batch(dataset, 4)

    assert found["x"].tolist() == [[1.0, 2.0]]
    assert found["__bad__"][:, 1].tolist() == [1, 2, 3]


def test_in_large_files_the_number_of_values_tells_lists_of_one_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "EXACT", 4)
    as_parquet(tmp_path / "d.parquet", pa.table({"x": [[1, 2], [3, 4], [5, 6], [7], [8, 9, 0], [1, 2]]}))

    dataset = opened(tmp_path / "d.parquet")

    assert gathered(dataset, 0, 2, 5)["x"] == [[1, 2], [5, 6], [1, 2]]
    for row in (3, 4):
        with pytest.raises(BadSample, match=rf"sample {row} has no value \(null, or a list of another length than the"):
            gathered(dataset, row)


# ---- times, decimals ----


@pytest.mark.parametrize(("name", "write"), FORMATS)
@pytest.mark.parametrize(
    ("kind", "unit", "value"),
    [
        (pa.timestamp("ns"), "s", 86_461),
        (pa.timestamp("ms", "Europe/Vienna"), "ms", 86_461_000),
        (pa.date32(), "D", 1),
        (pa.date64(), "s", 86_400),
        (pa.time64("us"), "s", 61),
        (pa.time32("s"), "ms", 61_000),
        (pa.duration("ms"), "s", 86_461),
    ],
)
def test_times_are_whole_numbers_of_the_declared_unit(
    tmp_path: Path, name: str, write: Write, kind: pa.DataType, unit: str, value: int
) -> None:
    moment: Any = datetime.datetime(1970, 1, 2, 0, 1, 1, tzinfo=datetime.UTC)
    if pa.types.is_date(kind):
        moment = moment.date()
    elif pa.types.is_time(kind):
        moment = moment.time()
    elif pa.types.is_duration(kind):
        moment = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    elif kind.tz is None:
        moment = moment.replace(tzinfo=None)
    write(tmp_path / name, pa.table({"x": pa.array([moment], kind)}))

    assert gathered(opened(tmp_path / name, units={"x": unit}), 0)["x"] == [value]


def test_a_time_that_is_no_whole_number_of_the_unit_is_an_error(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"x": pa.array([1500], pa.timestamp("ms"))}))

    with pytest.raises(BadSample, match=r"column 'x': Casting from timestamp.* would lose data"):
        gathered(opened(tmp_path / "d.parquet", units={"x": "s"}), 0)


def test_decimals_are_floats_and_that_is_said(tmp_path: Path) -> None:
    prices = pa.array([decimal.Decimal("12.50"), decimal.Decimal("0.01")], pa.decimal128(10, 2))
    as_parquet(tmp_path / "d.parquet", pa.table({"x": prices}))

    dataset = opened(tmp_path / "d.parquet")

    assert gathered(dataset, 0, 1)["x"] == [12.5, 0.01]
    assert dataset.notes == ("column 'x' holds decimal128(10, 2), and is served as float64, rounded to its 16 digits",)


# ---- one x of many columns ----


def test_columns_are_stacked_into_one(tmp_path: Path) -> None:
    table = pa.table({
        "age": [30, 40, 50],
        "height": [1.5, 1.75, 2.0],
        "genes": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        "species": SPECIES[:3],
    })  # fmt: skip
    as_parquet(tmp_path / "d.parquet", table)
    stack = {"name": "stack", "columns": ["height", "age", "genes"]}

    dataset = opened(tmp_path / "d.parquet", codes=["species"], targets="species", transforms=[stack])

    assert [str(column) for column in dataset.columns] == ["x float32(4)", "species int64()"]
    assert dataset.structure == ("x", "species")
    assert batch(dataset, 3)["x"].tolist() == [[1.5, 30, 1, 2], [1.75, 40, 3, 4], [2.0, 50, 5, 6]]
    assert batch(dataset, 3)["species"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (["a", "m"], r"column m int64\(2, 1\) is no number or vector of one length"),
        (["a", "z"], "there is no column 'z'"),
        (["a", "r"], r"column r int64\(\?\) is no number or vector of one length"),
    ],
)
def test_what_cannot_be_stacked_is_refused(tmp_path: Path, columns: list[str], problem: str) -> None:
    square = pa.array([[[1], [2]], [[3], [4]]], pa.list_(pa.list_(pa.int64(), 1), 2))
    as_parquet(tmp_path / "d.parquet", pa.table({"a": [1, 2], "m": square, "r": [[1], [1, 2]], "y": [0, 1]}))

    with pytest.raises(DataError, match=problem):
        opened(tmp_path / "d.parquet", targets="y", transforms=[{"name": "stack", "columns": columns}])


def test_a_number_that_a_stack_cannot_hold_is_a_bad_sample(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"a": [1, 16777217], "y": [0, 1]}))
    stack = {"name": "stack", "columns": ["a"], "dtype": "float32"}

    with pytest.raises(BadSample, match="sample 1: column 'a' has 16777217, which float32 cannot hold"):
        batch(opened(tmp_path / "d.parquet", targets="y", transforms=[stack]), 2)
    wide = opened(tmp_path / "d.parquet", targets="y", transforms=[{**stack, "dtype": "float64"}])
    assert batch(wide, 2)["x"].tolist() == [[1.0], [16777217.0]]


def test_a_worker_reads_the_same(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet", pa.table({"x": [[1], [2, 3], [4]], "y": SPECIES[:3]}))
    config = ArrowConfig.declare(path=tmp_path / "d.parquet", codes=["y"])

    front, worker = open_dataset("d", config), open_dataset_in_worker("d", config)

    assert fingerprint(front, config) == fingerprint(worker, config)
    assert {name: array.tolist() for name, array in batch(front, 3).items()} == {
        name: array.tolist() for name, array in batch(worker, 3).items()
    }
