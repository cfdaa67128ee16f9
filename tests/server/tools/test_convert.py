"""What is converted is what was there, whole or not at all, whatever ends a conversion."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from feedline_server.__main__ import main
from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.declared.datasets import (
    ArrowConfig,
    ClassFoldersConfig,
    ColumnsConfig,
    DatasetConfig,
    IdFilesConfig,
)
from feedline_server.settings.settings import load_settings
from feedline_server.tools.convert import from_dataset
from feedline_server.tools.convert.columns import ColumnOptions
from feedline_server.tools.convert.destination import Converted, unfinished
from feedline_server.tools.convert.from_csv import CsvForm, convert_csv
from feedline_server.tools.convert.from_dataset import convert
from feedline_server.tools.convert.from_npz import convert_npz, file_names
from feedline_server.tools.convert.journal import Journal
from feedline_server.tools.inspect.findings import class_counts
from feedline_wire.errors import BadSample, DataError, InvalidRequest
from feedline_wire.tensors import Array

SAMPLES = 24


@pytest.fixture
def gestures(tmp_path: Path) -> DatasetConfig:
    """Two classes of 12 files; sample i is all i, of class i // 12."""
    for sample in range(SAMPLES):
        path = tmp_path / "gestures" / "ab"[sample // 12] / f"{sample:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((3, 2), sample, np.float32))
    return ClassFoldersConfig.declare(path=tmp_path / "gestures", validation_split=0.25)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five samples of 32 bytes each (24 of x and 8 of y) a piece: five pieces."""
    monkeypatch.setattr(from_dataset, "PIECE_NBYTES", 160)


def silent(_done: int, _whole: int) -> None:
    """Show nothing."""


def converted(config: DatasetConfig, folder: Path, **options: Any) -> Converted:
    """In this process: several workers would leave multiprocessing's tracker here until it ends."""
    return convert(
        "gestures",
        config,
        folder,
        workers=1,
        **({"skip_bad": False, "columns": ColumnOptions(), "show": silent} | options),
    )


def opened(folder: Path) -> Dataset:
    ((name, config),) = load_settings(folder, {}).datasets.items()
    return open_dataset(name, config)


def everything(dataset: Dataset) -> dict[str, Array]:
    source = dataset.source
    out = {c.name: np.zeros((source.samples, *c.shape), c.dtype) for c in source.columns}
    source.gather(np.arange(source.samples), out)  # type: ignore[union-attr]
    return out


def views(dataset: Dataset) -> dict[str, list[int]]:
    return {name: view.ids(np.arange(view.samples)).tolist() for name, view in dataset.views.items()}


# ---- any kind that can be served ----


@pytest.mark.usefixtures("small_pieces")
def test_columns_hold_what_the_files_held(gestures: DatasetConfig, tmp_path: Path) -> None:
    done = converted(gestures, tmp_path / "columns")

    found = opened(tmp_path / "columns")
    assert (done.samples, done.nbytes, done.continued) == (24, 24 * 32, 0)
    assert everything(found)["x"][:, 0, 0].tolist() == list(range(24))
    assert everything(found)["y"].tolist() == [0] * 12 + [1] * 12
    assert views(found) == views(open_dataset("gestures", gestures))
    assert found.structure == ("x", "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["columns", "gestures"]


@pytest.mark.usefixtures("small_pieces")
def test_a_conversion_that_was_ended_goes_on_where_it_was(gestures: DatasetConfig, tmp_path: Path) -> None:
    def tired(done: int, _whole: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(gestures, tmp_path / "columns", show=tired)
    assert not (tmp_path / "columns").exists()

    done = converted(gestures, tmp_path / "columns")

    assert done.continued >= 10
    assert everything(opened(tmp_path / "columns"))["x"][:, 0, 0].tolist() == list(range(24))


@pytest.mark.usefixtures("small_pieces")
def test_half_a_conversion_is_no_dataset(gestures: DatasetConfig, tmp_path: Path) -> None:
    def tired(done: int, _whole: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(gestures, tmp_path / "columns", show=tired)

    with pytest.raises(InvalidRequest):
        load_settings(tmp_path / "columns.converting", {})


@pytest.mark.usefixtures("small_pieces")
def test_a_conversion_of_other_data_begins_anew(gestures: DatasetConfig, tmp_path: Path) -> None:
    def tired(done: int, _whole: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(gestures, tmp_path / "columns", show=tired)
    np.save(tmp_path / "gestures" / "a" / "00.npy", np.full((3, 2), 99, np.float32))

    done = converted(gestures, tmp_path / "columns")

    assert done.continued == 0
    assert everything(opened(tmp_path / "columns"))["x"][0, 0, 0] == 99


def test_bad_samples_of_other_data_are_forgotten(gestures: DatasetConfig, tmp_path: Path) -> None:
    """They were left out of the views of a conversion that began anew."""

    def tired(done: int, _whole: int) -> None:
        if done == SAMPLES:
            raise KeyboardInterrupt

    (tmp_path / "gestures" / "b" / "15.npy").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        converted(gestures, tmp_path / "columns", skip_bad=True, show=tired)
    np.save(tmp_path / "gestures" / "b" / "15.npy", np.full((3, 2), 15, np.float32))

    done = converted(gestures, tmp_path / "columns", skip_bad=True)

    assert done.bad == {}
    assert views(opened(tmp_path / "columns")) == views(open_dataset("gestures", gestures))
    assert not (tmp_path / "columns" / "bad-samples.json").exists()


def test_a_bad_sample_ends_a_conversion_by_name(gestures: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "gestures" / "b" / "15.npy").write_bytes(b"")

    with pytest.raises(BadSample, match=r"15\.npy"):
        converted(gestures, tmp_path / "columns")

    assert not (tmp_path / "columns").exists()


def test_bad_samples_are_left_out_of_all_views_if_that_is_asked_for(gestures: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "gestures" / "b" / "15.npy").write_bytes(b"")
    before = views(open_dataset("gestures", gestures))

    done = converted(gestures, tmp_path / "columns", skip_bad=True)

    assert list(done.bad) == [15]
    assert "15.npy" in done.bad[15]
    assert json.loads((tmp_path / "columns" / "bad-samples.json").read_text()) == {"15": done.bad[15]}
    after = opened(tmp_path / "columns")
    assert done.samples == after.source.samples == 23
    assert everything(after)["x"][:, 0, 0].tolist() == [sample for sample in range(24) if sample != 15]
    samples = {name: everything(after)["x"][ids, 0, 0].tolist() for name, ids in views(after).items()}
    assert samples == {name: [sample for sample in ids if sample != 15] for name, ids in before.items()}
    assert class_counts(after) == {"train": {"a": 7, "b": 9}, "validation": {"a": 5, "b": 2}}


@pytest.mark.usefixtures("small_pieces")
def test_a_conversion_that_was_ended_while_it_left_out_rows_ends_as_if_it_had_not_been(
    gestures: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gestures" / "b" / "15.npy").write_bytes(b"")

    unlink = Path.unlink

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "x.npy.part" and not missing_ok:  # it is copied, and the copy has its name
            raise OSError(f"killed at {path}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(OSError, match="killed at"):
        converted(gestures, tmp_path / "columns", skip_bad=True)
    monkeypatch.undo()
    monkeypatch.setattr(from_dataset, "PIECE_NBYTES", 160)

    done = converted(gestures, tmp_path / "columns", skip_bad=True)

    found = everything(opened(tmp_path / "columns"))
    assert done.samples == 23
    assert found["x"][:, 0, 0].tolist() == [sample for sample in range(24) if sample != 15]
    assert found["y"].tolist() == [0] * 12 + [1] * 11


def test_a_target_and_what_is_dropped_hold_for_datasets_too(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    for name, values in {"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "id": [7, 8, 9], "kind": [0, 1, 0]}.items():
        np.save(tmp_path / "numbers" / f"{name}.npy", np.array(values))
    config = ColumnsConfig.declare(path=tmp_path / "numbers", categories={"kind": ["cat", "dog"], "a": ["x", "y", "z"]})

    converted(config, tmp_path / "columns", columns=ColumnOptions(target="kind", drop=("id",)))

    found = opened(tmp_path / "columns")
    assert found.structure == ("x", "y")
    assert found.categories == {"y": ("cat", "dog")}
    assert {name: array.tolist() for name, array in everything(found).items()} == {
        "x": [[1.0, 0.5], [2.0, 1.5], [3.0, 2.5]],
        "y": [0, 1, 0],
    }
    for options, problem in [
        (ColumnOptions(target="sort"), "has no column 'sort'; it has: a, b, id, kind"),
        (ColumnOptions(codes=("kind",)), "--codes makes numbers of text, and a dataset of kind columns has none"),
        (ColumnOptions(drop=("a", "b", "id", "kind")), "no column is left"),
    ]:
        with pytest.raises(InvalidRequest, match=problem):
            converted(config, tmp_path / "others", columns=options)


def test_options_about_columns_hold_for_parquet_too(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "note": ["x", "y", "z"], "kind": ["dog", "cat", "dog"]})
    pq.write_table(table.append_column("__index_level_0__", pa.array([0, 1, 2])), tmp_path / "d.parquet")
    config = ArrowConfig.declare(path=tmp_path / "d.parquet")
    options = ColumnOptions(target="kind", codes=("kind",), drop=("note",))

    with pytest.raises(
        InvalidRequest, match="'__index_level_0__' is the index of a pandas DataFrame and would be part"
    ):
        converted(config, tmp_path / "columns", columns=options)
    converted(config, tmp_path / "columns", columns=replace(options, drop=("note", "__index_level_0__")))

    found = opened(tmp_path / "columns")
    assert {name: array.tolist() for name, array in everything(found).items()} == {
        "x": [[1, 0.5], [2, 1.5], [3, 2.5]],
        "y": [1, 0, 1],
    }
    assert found.categories == {"y": ("cat", "dog")}


def test_a_number_of_a_dataset_that_x_cannot_hold_is_refused_with_its_sample(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    np.save(tmp_path / "numbers" / "a.npy", np.array([1, 16777217]))
    np.save(tmp_path / "numbers" / "y.npy", np.array([0, 1]))

    with pytest.raises(DataError, match="column 'a' has 16777217 in sample 1, which float32 cannot hold"):
        converted(
            ColumnsConfig.declare(path=tmp_path / "numbers"), tmp_path / "columns", columns=ColumnOptions(target="y")
        )


@pytest.mark.parametrize("option", [["--target", "y"], ["--drop", "y"], ["--codes", "y"], ["--delimiter", ";"]])
def test_an_option_that_means_nothing_here_is_refused_and_not_ignored(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", x=np.zeros(3), y=np.zeros(3))

    assert main(["convert", str(tmp_path / "m.npz"), str(tmp_path / "columns"), *option]) == 1
    assert f"{option[0]} is not for an .npz; leave it out" in capsys.readouterr().err


def test_a_folder_that_is_there_is_left_alone(gestures: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "columns").mkdir()

    with pytest.raises(InvalidRequest, match="is there already"):
        converted(gestures, tmp_path / "columns")


def test_a_refused_conversion_leaves_nothing_behind(gestures: DatasetConfig, tmp_path: Path) -> None:
    def refused(_done: int, _whole: int) -> None:
        raise DataError("as a worker would")

    with pytest.raises(DataError, match="as a worker would"):  # before the first piece was written
        converted(gestures, tmp_path / "columns", show=refused)
    (tmp_path / "data.csv").write_text("a,b\n1,2\n3,x\n")
    with pytest.raises(DataError, match="'b'"):
        convert_csv(tmp_path / "data.csv", tmp_path / "columns", ColumnOptions(), silent, CsvForm())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "gestures"]


def test_a_converted_csv_has_its_folders_name(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n3,4\n")

    convert_csv(tmp_path / "data.csv", tmp_path / "two irises", ColumnOptions(), silent, CsvForm())

    assert list(load_settings(tmp_path / "two irises", {}).datasets) == ["two-irises"]


def test_two_conversions_to_one_place_are_told_apart(gestures: DatasetConfig, tmp_path: Path) -> None:
    with (
        unfinished(tmp_path / "columns", anew=False),
        pytest.raises(InvalidRequest, match="another process is converting"),
    ):
        converted(gestures, tmp_path / "columns")


@pytest.mark.slow
def test_a_killed_conversion_leaves_nobody_and_the_next_one_ends_it(tmp_path: Path) -> None:
    data = tmp_path / "scans" / "data"
    data.mkdir(parents=True)
    ids = [f"id-{number}" for number in range(600)]
    for number, name in enumerate(ids):
        np.save(data / f"{name}.npy", np.full((64, 1024), number, np.float32))
    (data.parent / "partition.json").write_text(json.dumps({"train": ids}))
    (data.parent / "labels.json").write_text(json.dumps(dict.fromkeys(ids, 0)))
    command = [sys.executable, "-m", "feedline_server", "convert", str(data.parent), str(tmp_path / "columns")]
    begun = subprocess.Popen([*command, "--workers", "2"])
    part = tmp_path / "columns.converting" / "x.npy.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_blocks * 512 > 1 << 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(begun.pid).children(recursive=True)

    begun.send_signal(signal.SIGKILL)
    begun.wait()

    assert workers
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert not (tmp_path / "columns").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=100)
    assert everything(opened(tmp_path / "columns"))["x"][:, 0, 0].tolist() == list(range(600))


# ---- the journal ----


def test_a_piece_is_believed_only_when_its_line_is_whole(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j", b"data", 5)) as journal:
        journal.add([3, 12])
    with (tmp_path / "j").open("a") as file:
        file.write("4")  # of 47, when the power went

    with closing(Journal(tmp_path / "j", b"data", 5)) as journal:
        assert journal.done == {3, 12}
        journal.add([7])

    with closing(Journal(tmp_path / "j", b"data", 5)) as journal:
        assert journal.done == {3, 7, 12}


@pytest.mark.parametrize(("identity", "rows"), [(b"other", 5), (b"data", 6)])
def test_a_journal_of_something_else_is_none(tmp_path: Path, identity: bytes, rows: int) -> None:
    with closing(Journal(tmp_path / "j", b"data", 5)) as journal:
        journal.add([3])

    with closing(Journal(tmp_path / "j", identity, rows)) as journal:
        assert not journal.is_continued
        assert journal.done == set()


# ---- CSV ----

CODED = ColumnOptions(target="y", codes=("y",))

IRIS = "length,width,species\n5.1,3,setosa\n4.9,2.5,virginica\n4.7,,setosa\n"


def csv_converted(
    tmp_path: Path,
    text: str,
    options: ColumnOptions,
    form: CsvForm = CsvForm(),  # noqa: B008 - frozen
) -> dict[str, Array]:
    (tmp_path / "data.csv").write_text(text)
    convert_csv(tmp_path / "data.csv", tmp_path / "columns", options, silent, form)
    return {path.stem: np.load(path) for path in sorted((tmp_path / "columns").glob("*.npy"))}


def test_a_csv_with_a_target_is_x_and_y(tmp_path: Path) -> None:
    found = csv_converted(tmp_path, IRIS, ColumnOptions(target="species", codes=("species",), floats=("width",)))

    np.testing.assert_array_equal(found["x"], np.array([[5.1, 3], [4.9, 2.5], [4.7, np.nan]], np.float32))
    assert found["y"].tolist() == [0, 1, 0]
    assert opened(tmp_path / "columns").categories == {"y": ("setosa", "virginica")}
    assert opened(tmp_path / "columns").structure == ("x", "y")


def test_what_was_said_about_columns_is_done(tmp_path: Path) -> None:
    index = ColumnOptions(target="y", codes=("y",), floats=("u",), drop=("Unnamed: 0", "note"))

    found = csv_converted(tmp_path, ",u, y ,note\n0,16777217,cat ,caf\n1,2, dog,\n2,3,cat,x\n", index)

    assert {name: array.tolist() for name, array in found.items()} == {"x": [[16777216], [2], [3]], "y": [0, 1, 0]}
    assert opened(tmp_path / "columns").categories == {"y": ("cat", "dog")}


def test_whole_numbers_that_float32_cannot_hold_are_kept_where_columns_are_by_themselves(tmp_path: Path) -> None:
    found = csv_converted(tmp_path, "u,y\n16777217,9007199254740993\n", ColumnOptions())

    assert {name: array.tolist() for name, array in found.items()} == {"u": [16777217], "y": [9007199254740993]}


def test_a_csv_with_semicolons_and_decimal_commas_is_read_as_declared(tmp_path: Path) -> None:
    found = csv_converted(tmp_path, "u;y\n1,5;2\n2,25;3\n", ColumnOptions(target="y"), CsvForm(";", ","))

    assert {name: array.tolist() for name, array in found.items()} == {"x": [[1.5], [2.25]], "y": [2, 3]}


def test_a_large_csv_that_is_no_table_ends_with_an_error(tmp_path: Path) -> None:
    """Threads that read ahead must not wait for ever for what ended; bounded by the test's own time-out."""
    (tmp_path / "data.csv").write_text("a;b\n" + "".join(f"{row},5;{row},25\n" for row in range(500_000)))

    done = subprocess.run(
        [sys.executable, "-m", "feedline_server", "convert", tmp_path / "data.csv", tmp_path / "columns"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "--delimiter ';' --decimal ," in done.stderr


def test_a_csv_without_a_target_is_a_column_each(tmp_path: Path) -> None:
    found = csv_converted(tmp_path, "a,b,ok\n1,2.5,true\n3,4.5,false\n", ColumnOptions())

    assert {name: array.dtype.name for name, array in found.items()} == {"a": "int64", "b": "float64", "ok": "bool"}
    assert found["a"].tolist() == [1, 3]


def test_blocks_of_a_large_csv_follow_each_other(tmp_path: Path) -> None:
    rows = 700_000  # some 9 MB: three blocks

    found = csv_converted(tmp_path, "a,b\n" + "".join(f"{i},{i}.5\n" for i in range(rows)), ColumnOptions())

    assert found["a"].tolist() == list(range(rows))
    assert found["b"][-1] == rows - 1 + 0.5


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        pytest.param(IRIS, ColumnOptions(), "column 'species' holds string", id="text"),
        pytest.param(
            "a,b\n1,2\n,3\n", ColumnOptions(), "column 'a' has no value in line 3", id="a missing whole number"
        ),
        pytest.param("a,a\n1,2\n", ColumnOptions(), "several columns 'a'", id="a name twice"),
        pytest.param("a,b\n", ColumnOptions(), "no line below", id="no samples"),
        pytest.param("a,b\n1,2\n3\n", ColumnOptions(), "Expected 2 columns, got 1", id="a short line"),
        pytest.param("y\n1\n", ColumnOptions(target="y"), "no column is left beside the target", id="no inputs"),
        pytest.param(
            "u,y\n1,a\n2,\n3,b\n", CODED, "column 'y' has no value in line 3, and an empty text is", id="no code"
        ),
        pytest.param(
            "u,y\n1,2\n16777217,3\n",
            ColumnOptions(target="y"),
            "column 'u' has 16777217 in line 3, which float32 cannot hold, and x is float32; .* with --float u",
            id="a whole number that x cannot hold",
        ),
        pytest.param(
            "u,y\n9007199254740993,3\n", ColumnOptions(target="y"), "has 9007199254740993 in line 2", id="a larger one"
        ),
        pytest.param(
            "u;y\n1,5;2\n", ColumnOptions(), "has no ',', and has ';': --delimiter ';' --decimal ,", id="semicolons"
        ),
        pytest.param(
            'u,y\n"1,5",2\n', ColumnOptions(), "read numbers such as 1,5 with --decimal ','", id="decimal commas"
        ),
        pytest.param(
            ",u,y\n0,1,2\n", ColumnOptions(target="y"), "leave it out with --drop 'Unnamed: 0'", id="pandas' index"
        ),
        pytest.param("../a,b\n1,2\n", ColumnOptions(), "cannot be called '../a'", id="a name that is a path"),
    ],
)
def test_a_csv_that_cannot_be_columns_is_refused_by_name(
    tmp_path: Path, text: str, options: ColumnOptions, expected: str
) -> None:
    with pytest.raises((DataError, InvalidRequest), match=expected):
        csv_converted(tmp_path, text, options)

    assert not (tmp_path / "columns").exists()


def test_all_columns_that_are_no_numbers_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        csv_converted(tmp_path, "a,b,c,d\n1,x,2020-01-01,\n2,y,2020-01-02,3\n", ColumnOptions())

    assert [line.partition(": column ")[2][:40] for line in str(error.value).splitlines()] == [
        "'b' holds string, which cannot be served",
        "'c' holds date32[day], which cannot be s",
        "'d' has no value in line 2, and only flo",
    ]


def test_a_column_that_a_csv_has_not_is_named_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="has no column 'specie'; it has: length, width, species"):
        csv_converted(tmp_path, IRIS, ColumnOptions(target="specie"))


# ---- .npz ----


def test_an_archive_with_parts_becomes_views(tmp_path: Path) -> None:
    parts = {"x_train": np.arange(6).reshape(3, 2), "y_train": np.arange(3), "x_test": np.ones((2, 2)).astype(int)}
    np.savez_compressed(tmp_path / "m.npz", **parts, y_test=np.array([5, 6]))

    done = convert_npz(tmp_path / "m.npz", tmp_path / "columns", silent)

    found = opened(tmp_path / "columns")
    assert done.samples == 5
    assert views(found) == {"train": [0, 1, 2], "test": [3, 4]}
    assert everything(found)["y"].tolist() == [0, 1, 2, 5, 6]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["x", "y"], {"x": "x.npy", "y": "y.npy"}),
        (["x_train", "x_val"], {"x_train": "train/x.npy", "x_val": "validation/x.npy"}),
        (["train_x", "test_x"], {"train_x": "train/x.npy", "test_x": "test/x.npy"}),
        (["x_train", "extra"], {"x_train": "x_train.npy", "extra": "extra.npy"}),
        (["trains"], {"trains": "trains.npy"}),
    ],
)
def test_names_say_which_part_an_array_is_of(names: list[str], files: dict[str, str]) -> None:
    assert file_names(names, Path("m.npz")) == files


def test_python_objects_in_an_archive_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.array([{}, []], object))

    with pytest.raises(DataError, match="never unpickled"):
        convert_npz(tmp_path / "m.npz", tmp_path / "columns", silent)

    assert not (tmp_path / "columns").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"PK nothing")

    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        convert_npz(tmp_path / "m.npz", tmp_path / "columns", silent)


def test_the_names_of_classes_are_converted_too(tmp_path: Path) -> None:
    names = ["cat", "caf\u00e9 \U0001f600", 'a "b" \\ c']
    for number, name in enumerate(names):
        (tmp_path / "scans" / name).mkdir(parents=True)
        np.save(tmp_path / "scans" / name / "0.npy", np.full(2, number, np.float32))

    converted(ClassFoldersConfig.declare(path=tmp_path / "scans"), tmp_path / "columns")

    assert opened(tmp_path / "columns").categories == {"y": tuple(sorted(names))}


def test_id_files_become_columns(tmp_path: Path, id_files_folder: Path) -> None:
    convert(
        "tutorial",
        IdFilesConfig.declare(path=id_files_folder),
        tmp_path / "columns",
        workers=1,
        skip_bad=False,
        columns=ColumnOptions(),
        show=silent,
    )

    found = opened(tmp_path / "columns")
    assert everything(found)["y"].tolist() == [0, 1, 2, 0, 1]
    assert views(found) == {"train": [0, 1, 2], "validation": [3, 4]}
