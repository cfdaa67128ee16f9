"""Arrow and Parquet files: rows of groups, mapped or decoded, the forms that are served and those that are refused."""

import mmap
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import ArrowConfig
from feedline_server.host import machine
from feedline_server.sources.arrays import arrow, decompressed
from feedline_server.sources.arrays.arrow import IpcFile
from feedline_server.sources.arrays.decompressed import Decoded
from feedline_server.sources.arrays.tabular import tabular
from feedline_server.sources.kinds import arrow as arrow_columns
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array

ROWS, GROUP = 25, 10


def opened(path: Path, **declared: Any) -> Dataset:
    return open_dataset("d", ArrowConfig.declare(path=path, **declared))


def gathered(dataset: Dataset, *ids: int) -> dict[str, Array]:
    out = {c.name: np.full((len(ids), *c.shape), 77, c.dtype) for c in dataset.source.columns}
    dataset.source.gather(np.array(ids, np.int64), out)
    return out


def table(first: int = 0, rows: int = ROWS) -> pa.Table:
    """Row i: x is all i (2 x 3, as lists of lists), t the same as a tensor, y is 100 + i, b whether i is even."""
    ids = np.arange(first, first + rows)
    x = np.repeat(ids.astype(np.float32), 6)
    lists = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(x), 3), 2)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(x.reshape(-1, 2, 3))
    return pa.table({"x": lists, "y": 100 + ids, "b": ids % 2 == 0, "t": tensor})


def as_file(path: Path, data: pa.Table, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema, options=options) as writer:
        writer.write_table(data, max_chunksize=GROUP)


def as_compressed(path: Path, data: pa.Table) -> None:
    as_file(path, data, "lz4")


def as_stream(path: Path, data: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=GROUP)


def as_parquet(path: Path, data: pa.Table) -> None:
    pq.write_table(data, path, row_group_size=GROUP)


FORMATS: list[Any] = [
    pytest.param("d.arrow", as_file, id="file"),
    pytest.param("d.feather", as_compressed, id="compressed"),
    pytest.param("d.arrow", as_stream, id="stream"),
    pytest.param("d.parquet", as_parquet, id="parquet"),
]

Write = Callable[[Path, pa.Table], None]


# ---- gathering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_rows_come_in_the_order_asked_whatever_their_group(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, table())

    dataset = opened(tmp_path / name, inputs=["x", "t"])
    found = gathered(dataset, 24, 0, 11, 24, 9, 10)

    assert list(map(str, dataset.source.columns)) == ["x float32(2, 3)", "y int64()", "b bool()", "t float32(2, 3)"]
    assert {view: selection.samples for view, selection in dataset.views.items()} == {"train": 25}
    assert found["y"].tolist() == [124, 100, 111, 124, 109, 110]
    assert found["x"][:, 1, 2].tolist() == [24, 0, 11, 24, 9, 10]
    assert found["t"][:, 1, 2].tolist() == [24, 0, 11, 24, 9, 10]
    assert found["b"].tolist() == [True, True, False, True, False, True]
    assert gathered(dataset)["x"].shape == (0, 2, 3)


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_part_of_a_larger_table_is_read_from_its_own_rows(tmp_path: Path, name: str, write: Write) -> None:
    """A slice keeps the whole array and an offset, also in its lists."""
    write(tmp_path / name, table(rows=60).slice(7, 25))

    found = gathered(opened(tmp_path / name, inputs="x"), 0, 24)

    assert found["y"].tolist() == [107, 131]
    assert found["x"][:, 1, 2].tolist() == [7, 31]
    assert found["b"].tolist() == [False, False]


def test_the_columns_of_a_mapped_file_are_views_of_it(tmp_path: Path) -> None:
    as_file(tmp_path / "d.arrow", table())
    file = IpcFile(tmp_path / "d.arrow", None, ())
    file.serve(tabular([file], ArrowConfig.declare(path=tmp_path)).forms(file))

    group = file.group(1)

    offset = file.offset(group.arrays["y"])
    assert offset is not None
    assert (tmp_path / "d.arrow").read_bytes()[offset : offset + 8] == (110).to_bytes(8, "little")
    assert file.offset(group.arrays["b"]) is None  # bits
    assert not file.packed


def test_columns_can_be_chosen_and_renamed_and_the_others_need_not_be_of_a_form(tmp_path: Path) -> None:
    data = table().append_column("name", pa.array([f"n{k}" for k in range(ROWS)]))
    for name, write in (("d.arrow", as_file), ("d.parquet", as_parquet), ("d.feather", as_compressed)):
        write(tmp_path / name, data)

        dataset = opened(tmp_path / name, arrays={"y": "b", "x": "y", "x2": "y"}, inputs="x", targets="y")

        found = {column: values.tolist() for column, values in gathered(dataset, 3, 4).items()}
        assert found == {"y": [False, True], "x": [103, 104], "x2": [103, 104]}


def test_files_of_a_folder_are_laid_end_to_end_by_name(tmp_path: Path) -> None:
    as_parquet(tmp_path / "part-1.parquet", table(100, 3))
    as_file(tmp_path / "part-2.arrow", table(200, 3))
    as_parquet(tmp_path / "part-0.parquet", table(0, 3))
    (tmp_path / "_SUCCESS").touch()
    np.save(tmp_path / "some.npy", [8, 0])

    dataset = opened(tmp_path, inputs="x", views={"all": ":", "some": "some.npy"})

    assert gathered(dataset, *range(9))["y"].tolist() == [100, 101, 102, 200, 201, 202, 300, 301, 302]
    assert dataset.views["some"].ids(np.arange(2)).tolist() == [8, 0]
    assert dataset.notes[0].startswith("views 'all' and 'some' share 2 samples (0, 8)")


def test_sub_folders_are_views_train_first(tmp_path: Path) -> None:
    for view, first in (("another", 50), ("train", 0)):
        (tmp_path / view).mkdir()
        as_file(tmp_path / view / "0.arrow", table(first, 3))

    dataset = opened(tmp_path, inputs="x")

    assert {name: view.selection for name, view in dataset.views.items()} == {"train": range(3), "another": range(3, 6)}
    assert gathered(dataset, 3)["y"].tolist() == [150]


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), [FORMATS[1].values, FORMATS[3].values])
def test_groups_are_decoded_once_while_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Write
) -> None:
    write(tmp_path / name, table().select(["y"]))
    kept = Decoded(limit=160)  # two groups of ten int64
    monkeypatch.setattr(arrow_columns, "DECODED", kept)
    monkeypatch.setattr(arrow, "DECODED", kept)
    dataset = opened(tmp_path / name)
    decoded: list[int] = []
    load = type(dataset.source)._load  # type: ignore[attr-defined]
    monkeypatch.setattr(
        type(dataset.source), "_load", lambda self, place: (decoded.append(place), load(self, place))[1]
    )

    for sample in (0, 9, 10, 0, 24, 0, 10):
        assert gathered(dataset, sample)["y"].tolist() == [100 + sample]

    assert decoded == [0, 1, 2, 1]
    assert kept.nbytes <= 160


def test_one_decoded_group_at_a_time_is_in_memory_beside_those_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shuffled batch may have a row of each of a hundred groups of a hundred megabytes."""
    as_parquet(tmp_path / "d.parquet", table(rows=100).select(["y"]))
    monkeypatch.setattr(arrow_columns, "DECODED", Decoded(limit=1))
    dataset = opened(tmp_path / "d.parquet")
    alive: list[weakref.ref[Any]] = []
    most = 0
    load = arrow_columns.ArrowColumns._load

    def counting(self: arrow_columns.ArrowColumns, place: int) -> Any:
        nonlocal most
        group = load(self, place)
        alive.append(weakref.ref(group))
        most = max(most, sum(ref() is not None for ref in alive))
        return group

    monkeypatch.setattr(arrow_columns.ArrowColumns, "_load", counting)

    assert gathered(dataset, *range(0, 100, 10))["y"].tolist() == list(range(100, 200, 10))
    assert len(alive) == 10
    assert most <= 3  # the one kept, the one before, the new one


@pytest.mark.parametrize(("name", "write"), [FORMATS[1].values, FORMATS[3].values])
def test_a_group_too_large_to_keep_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Write
) -> None:
    write(tmp_path / name, table())
    monkeypatch.setattr(arrow, "DECODED", Decoded(limit=100))

    with pytest.raises(
        DataError, match=r"has up to 10 rows in a group, .* write it in smaller row groups, or as an un"
    ):
        opened(tmp_path / name)


def test_the_operator_is_told_what_decoding_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        as_parquet(tmp_path / f"{number}.parquet", table().select(["y"]))
    as_file(tmp_path / "9.arrow", table().select(["y"]))
    monkeypatch.setattr(arrow_columns, "DECODED", Decoded(limit=160))
    monkeypatch.setattr(decompressed, "HEAD_NBYTES", 0)
    monkeypatch.setattr(machine, "cores", lambda: 2)

    (note,) = opened(tmp_path).notes

    assert note == (
        f"{tmp_path}/0.parquet and 2 more: 0 MiB in row groups of up to 10 rows, 0.0 MB each, all of which is decoded "
        'to have one row, and the workers keep 0 MiB decoded: order="blocks:10x2" decodes each once an epoch; '
        "`feedline convert` writes columns that are read where they lie, in any order"
    )


def test_what_is_read_of_a_mapped_file_is_let_go_of_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_file(tmp_path / "d.arrow", table())
    touched: list[tuple[int, int, int]] = []

    class Counting:
        def touched(self, mapping: mmap.mmap, nbytes: int, places: int) -> None:
            touched.append((len(mapping), nbytes, places))

    monkeypatch.setattr(arrow_columns, "RESIDENT", Counting())
    monkeypatch.setattr(arrow_columns, "is_large", lambda nbytes: True)

    y = np.zeros(3, np.int64)
    opened(tmp_path / "d.arrow", inputs="x").source.gather(np.array([24, 3, 4]), {"y": y})

    size = (tmp_path / "d.arrow").stat().st_size
    assert y.tolist() == [124, 103, 104]
    assert touched == [(size, 16, 1), (size, 8, 1)]  # 3 and 4 follow each other


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), FORMATS)
@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (
            pa.array(["a", "b"]),
            'odd (string); write in loader.toml codes = ["odd"] (text becomes numbers), or drop = ["odd"]',
        ),
        (pa.array([b"a", b"b"]), 'odd (binary); write in loader.toml drop = ["odd"] (left out)'),
        (
            pa.array([1, 2], pa.timestamp("s")),
            'units = {"odd" = "s"} (whole seconds, or D, ms, us, ns), or drop = ["odd"]',
        ),
        (pa.array([{"a": 1}, {"a": 2}]), "odd (struct<a: int64>: flatten it); write in loader.toml drop"),
        (pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)), "odd (fixed_size_list<"),
        (pa.array([["a"], ["b"]]), "odd (list<"),
        (pa.array([None, None]), "odd (null); write"),
    ],
)
def test_a_column_without_a_form_is_refused_with_a_remedy(
    tmp_path: Path, name: str, write: Write, column: pa.Array, problem: str
) -> None:
    write(tmp_path / name, pa.table({"x": pa.array([1.0, 2.0]), "odd": column}))

    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path / name}: these columns are not served") + ".*" + re.escape(problem)
    ):
        opened(tmp_path / name)
    assert gathered(opened(tmp_path / name, arrays={"x": "x"}), 1)["x"].tolist() == [2.0]
    assert gathered(opened(tmp_path / name, drop="odd"), 1)["x"].tolist() == [2.0]


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_row_without_a_value_is_a_bad_sample_and_the_others_are_not(tmp_path: Path, name: str, write: Write) -> None:
    lists = pa.array([[1.0, 2.0], None, [3.0, None], [4.0, 5.0]], pa.list_(pa.float32(), 2))
    write(tmp_path / name, pa.table({"x": lists, "y": pa.array([10, 11, None, 13]), "b": [True, None, False, True]}))
    dataset = opened(tmp_path / name, on_bad_sample="skip")

    assert gathered(dataset, 3, 0)["x"].tolist() == [[4, 5], [1, 2]]
    assert gathered(dataset, 3, 0)["y"].tolist() == [13, 10]
    for sample, columns in ((1, {"x", "b"}), (2, {"x", "y"})):
        for column in dataset.source.columns:
            out = {column.name: np.zeros((2, *column.shape), column.dtype)}
            if column.name not in columns:
                dataset.source.gather(np.array([0, sample]), out)
                continue
            with pytest.raises(BadSample, match=rf"sample {sample} has no value \(null\) in the column '") as caught:
                dataset.source.gather(np.array([0, sample]), out)
            assert caught.value.samples == (sample,)


def test_tensors_that_lie_in_another_order_are_refused(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])
    column = pa.ExtensionArray.from_storage(kind, pa.array([[1.0] * 6], pa.list_(pa.float32(), 6)))
    as_file(tmp_path / "d.arrow", pa.table({"x": column}))

    with pytest.raises(DataError, match="permuted tensors; write them in C order"):
        opened(tmp_path / "d.arrow")


@pytest.mark.parametrize(("name", "write"), FORMATS)
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: b"", "is empty (0 bytes); wanted an Arrow or Parquet file"),
        (lambda whole: b"hello, world" * 20, "is cut short or no "),
        (lambda whole: whole[: len(whole) // 2], "is cut short or no "),
    ],
)
def test_a_damaged_file_is_refused_when_it_is_opened(
    tmp_path: Path, name: str, write: Write, damage: Any, problem: str
) -> None:
    write(tmp_path / name, table())
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))

    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}: {problem}")):
        opened(tmp_path / name)


def test_a_damaged_row_group_is_a_bad_sample(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(table().select(["y"]), path, row_group_size=GROUP, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(whole)
    dataset = opened(path)

    assert gathered(dataset, 3)["y"].tolist() == [103]
    with pytest.raises(BadSample, match=r"samples 10\.\.19: .*d\.parquet: row group 1 cannot be read") as caught:
        gathered(dataset, 3, 13)
    assert caught.value.samples == tuple(range(10, 20))


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"arrays": {"x": "z"}}, "has no columns named 'z', wanted as 'x'; it has x, y, b, t"),
        ({"views": {"train": "0:26"}}, "there are 25 samples"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path, declared: dict[str, Any], problem: str) -> None:
    as_file(tmp_path / "d.arrow", table())

    with pytest.raises(DataError, match=re.escape(problem)):
        opened(tmp_path / "d.arrow", **declared)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    as_file(tmp_path / "d.arrow", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))

    with pytest.raises(DataError, match=r"d\.arrow: has 2 columns named 'x'"):
        opened(tmp_path / "d.arrow")


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, table().slice(0, 0))

    with pytest.raises(DataError, match="has no rows; wanted at least one"):
        opened(tmp_path / name)


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_part_without_rows_is_nothing(tmp_path: Path, name: str, write: Write) -> None:
    """Spark writes one for each of its tasks."""
    write(tmp_path / f"0-{name}", table().slice(0, 0))
    write(tmp_path / f"1-{name}", table())
    write(tmp_path / f"2-{name}", table().slice(0, 0))

    dataset = opened(tmp_path)

    assert dataset.views["train"].samples == ROWS
    assert gathered(dataset, 24, 0)["y"].tolist() == [124, 100]


def test_a_view_of_empty_parts_alone_is_refused(tmp_path: Path) -> None:
    for view, rows in (("train", ROWS), ("test", 0)):
        (tmp_path / view).mkdir()
        pq.write_table(table().slice(0, rows), tmp_path / view / "0.parquet")

    with pytest.raises(DataError, match="view 'test' has no rows"):
        opened(tmp_path)


def test_files_may_have_their_columns_in_another_order(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": [10, 20]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"b": [30], "a": [3]}), tmp_path / "1.parquet")

    found = gathered(opened(tmp_path, inputs=["a"], targets=["b"]), 2, 0, 1)

    assert (found["a"].tolist(), found["b"].tolist()) == ([3, 1, 2], [30, 10, 20])


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"a": [1]}, r"1\.parquet: has no column 'b', but .*0\.parquet has b int64\(\); give all files"),
        ({"a": [1], "b": [1], "c": [1]}, r"1\.parquet: has c int64\(\), but .*0\.parquet has no column 'c'; give all"),
    ],
)
def test_a_column_more_or_less_is_named(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "0.parquet")
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")

    with pytest.raises(DataError, match=problem):
        opened(tmp_path, inputs=["a"], targets=["b"])


@pytest.mark.parametrize("name", ["0.parq", "0.pq", "000000_0", "part-0.00001"])
def test_parquet_is_told_by_other_suffixes_and_without_one_by_its_bytes(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"x": [7, 8]}), tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_metadata").write_bytes(b"PAR1 of Spark's, which has no rows of its own")
    (tmp_path / f".{name}.crc").touch()

    assert gathered(opened(tmp_path), 1)["x"].tolist() == [8]


# ---- folders that are values ---


def hive(folder: Path, **parts: list[float]) -> Path:
    """A file with a column x in each folder `label=NAME`."""
    for name, values in parts.items():
        (folder / f"label={name}").mkdir(parents=True)
        pq.write_table(pa.table({"x": values}), folder / f"label={name}" / "p.parquet")
    return folder


def test_folders_of_names_are_a_column_of_their_numbers(tmp_path: Path) -> None:
    dataset = opened(hive(tmp_path, dog=[1.0, 2.0], cat=[3.0], **{"a%20b": [4.0]}), inputs="x", targets="label")

    assert [str(column) for column in dataset.source.columns] == ["x float64()", "label int64()"]
    assert dataset.categories == {"label": ("a b", "cat", "dog")}
    found = gathered(dataset, 3, 0, 1, 2)
    assert (found["x"].tolist(), found["label"].tolist()) == ([2, 4, 3, 1], [2, 0, 1, 2])


def test_folders_of_numbers_are_those_numbers_below_views_too(tmp_path: Path) -> None:
    for view, month in (("train", "07"), ("test", "12")):
        hive(tmp_path / view / f"month={month}", **{"10": [float(month)], "2": [0.5]})

    dataset = opened(tmp_path, inputs=["x", "month"], targets="label")

    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 2, "test": 2}
    found = gathered(dataset, 0, 1, 2, 3)
    assert found["label"].tolist() == [10, 2, 10, 2]
    assert found["month"].tolist() == [7, 7, 12, 12]


def test_which_column_folders_are_is_chosen_as_of_other_columns(tmp_path: Path) -> None:
    dataset = opened(hive(tmp_path, dog=[1.0], cat=[3.0]), arrays={"x": "x", "y": "label"})

    assert gathered(dataset, 0, 1)["y"].tolist() == [0, 1]
    assert [column.name for column in opened(tmp_path, arrays={"x": "x"}).source.columns] == ["x"]


def test_folders_of_other_values_are_another_dataset(tmp_path: Path) -> None:
    first = opened(hive(tmp_path / "a", **{"1": [1.0], "2": [3.0]}), inputs="x")
    second = opened(hive(tmp_path / "b", **{"1": [1.0], "3": [3.0]}), inputs="x")

    assert fingerprint(first, ArrowConfig.declare(path=tmp_path)) != fingerprint(
        second, ArrowConfig.declare(path=tmp_path)
    )


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (
            ["1", "dog"],
            "label=dog/p.parquet: the folder says label=dog, others label=1; wanted whole numbers, or names",
        ),
        (["0.5", "1.5"], "the folder says label=0.5, others label=1.5; wanted whole numbers, or names alone"),
        (["1", "01"], "the folders label=01 and label=1 are the same number"),
        (["cat", "__HIVE_DEFAULT_PARTITION__"], "has no value (null) for the column 'label'"),
    ],
)
def test_folders_whose_values_do_not_go_together_are_refused(tmp_path: Path, names: list[str], problem: str) -> None:
    hive(tmp_path, **{name: [1.0] for name in names})

    with pytest.raises(DataError, match=re.escape(problem)):
        opened(tmp_path)


def test_files_in_and_beside_such_folders_are_refused(tmp_path: Path) -> None:
    hive(tmp_path, dog=[1.0])
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "beside.parquet")

    with pytest.raises(DataError, match=r"p\.parquet: is in folders that say label=dog, .*such that say nothing"):
        opened(tmp_path)


def test_a_column_of_the_name_of_such_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x=1").mkdir()
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "x=1" / "p.parquet")

    with pytest.raises(DataError, match="has a column 'x', and so say its folders"):
        opened(tmp_path)


def test_files_with_other_columns_are_refused_naming_both(tmp_path: Path) -> None:
    as_file(tmp_path / "0.arrow", pa.table({"x": pa.array([1.0])}))
    as_file(tmp_path / "1.arrow", pa.table({"x": pa.array([1])}))

    with pytest.raises(DataError, match=r"1\.arrow: has x int64\(\), but .*0\.arrow has x float64\(\); give all files"):
        opened(tmp_path)


def test_a_compressed_stream_is_refused_with_a_remedy(tmp_path: Path) -> None:
    data, options = table(), pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(tmp_path / "d.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, data.schema, options=options) as writer,
    ):
        writer.write_table(data)

    with pytest.raises(DataError, match=r"d\.arrow: is a compressed stream, .*write it as an Arrow file"):
        opened(tmp_path / "d.arrow")


def test_a_folder_without_files_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no \.arrow, .*, \.parquet, \.parq, \.pq file here or one folder down"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"d\.parquet: there is no such file or folder"):
        opened(tmp_path / "d.parquet")


def test_a_column_may_not_take_the_name_of_the_sample_ids(tmp_path: Path) -> None:
    as_file(tmp_path / "d.arrow", pa.table({"__ids__": pa.array([1.0])}))

    with pytest.raises(DataError, match="__ids__ is the column of sample ids"):
        opened(tmp_path / "d.arrow")


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_file_that_changes_while_served_is_an_error(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name, table())
    dataset = opened(tmp_path / name, inputs="x")
    gathered(dataset, 3)
    write(tmp_path / "new", table(1))
    (tmp_path / name).write_bytes((tmp_path / "new").read_bytes())

    with pytest.raises(DataError, match=rf"{name}: changed while served"):
        gathered(dataset, 13)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_file(tmp_path / "d.arrow", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(InvalidRequest, match=r"needs pyarrow: pip install '.+\[arrow\]'"):
        opened(tmp_path / "d.arrow")


# ---- identity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_other_values_are_another_dataset_and_a_copy_is_not(tmp_path: Path, name: str, write: Write) -> None:
    found = []
    for folder, first in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, table(first))
        config = ArrowConfig.declare(path=tmp_path / folder / name, inputs=("x",))
        found.append(fingerprint(open_dataset("d", config), config))

    assert found[0] == found[1] != found[2]
