"""Settings: which source wins, what a folder is recognised as, and how a mistake is told."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.declared.datasets import (
    KINDS,
    ArrowConfig,
    ClassFoldersConfig,
    ColumnsConfig,
    Declaration,
    Hdf5Config,
    IdFilesConfig,
    ImagesConfig,
    SubjectsConfig,
)
from feedline_server.host import machine
from feedline_server.settings.settings import Settings, load_settings
from feedline_wire.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a loader configured."""
    for name in os.environ:
        if name.startswith("FEEDLINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(columns_folder: Path) -> Path:
    """A loader.toml beside the folder `columns`."""
    file = columns_folder.parent / "loader.toml"
    file.write_text('workers = 3\nmemory = "64MiB"\n\n[datasets.digits]\npath = "columns"\n')
    return file


def problem(text: str, folder: Path, **overrides: object) -> str:
    """What is said about a loader.toml with this text."""
    (folder / "loader.toml").write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        load_settings(folder / "loader.toml", overrides)
    return str(caught.value).replace(str(folder), "…")


# ---- which source wins ----------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_documentation(columns_folder: Path) -> None:
    settings = load_settings(columns_folder, {})

    assert settings.listen == "127.0.0.1:50051"
    assert 1 <= settings.workers <= len(os.sched_getaffinity(0))
    assert 1 << 20 <= settings.memory <= 1 << 30
    assert settings.max_trainers == 64
    assert settings.batch_timeout_s == 30.0
    assert settings.drain_timeout_s == 20.0
    assert settings.log_format == "auto"
    assert settings.log_level == "info"


def test_loader_toml_comes_before_the_defaults(toml: Path) -> None:
    settings = load_settings(toml, {})

    assert (settings.workers, settings.memory) == (3, 64 << 20)


def test_the_environment_comes_before_loader_toml(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_WORKERS", "5")

    settings = load_settings(toml, {})

    assert (settings.workers, settings.memory) == (5, 64 << 20)


def test_the_command_line_comes_before_the_environment(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_WORKERS", "5")

    settings = load_settings(toml, {"workers": 7, "memory": None})

    assert (settings.workers, settings.memory) == (7, 64 << 20)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("LISTEN", "[::1]:0", "[::1]:0"),
        ("WORKERS", "2", 2),
        ("MEMORY", "2GB", 2_000_000_000),
        ("MAX_TRAINERS", "3", 3),
        ("MAX_STREAMS_PER_CLIENT", "2", 2),
        ("BATCH_TIMEOUT_S", "1.5", 1.5),
        ("DRAIN_TIMEOUT_S", "90", 90.0),
        ("LOG_FORMAT", "JSON", "json"),
        ("LOG_LEVEL", "Debug", "debug"),
        ("TOKENS", "/run/tokens.toml", Path("/run/tokens.toml")),
        ("INSECURE", "true", True),
        ("HEALTH_LISTEN", "0.0.0.0:50052", "0.0.0.0:50052"),
    ],
)
def test_every_setting_is_an_environment_variable(
    columns_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: object
) -> None:
    monkeypatch.setenv(f"FEEDLINE_{name}", text)

    assert getattr(load_settings(columns_folder, {}), name.lower()) == expected


def test_datasets_can_be_declared_in_the_environment(
    columns_folder: Path, id_files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLINE_DATASETS__DIGITS__PATH", str(columns_folder))
    monkeypatch.setenv("FEEDLINE_DATASETS__DIGITS__VIEWS", '{"train": "0:9"}')
    monkeypatch.setenv("FEEDLINE_DATASETS__SCANS__PATH", str(id_files_folder))
    monkeypatch.setenv("FEEDLINE_DATASETS__SCANS__ONE_HOT", "true")

    assert load_settings(None, {}).datasets == {
        "digits": ColumnsConfig.declare(path=columns_folder, views={"train": "0:9"}),
        "scans": IdFilesConfig.declare(path=id_files_folder, one_hot=True),
    }


def test_one_value_of_a_dataset_can_be_set_over_loader_toml(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_DATASETS__DIGITS__TARGETS", '["x"]')

    digits = load_settings(toml, {}).datasets["digits"]

    assert (digits.path, digits.targets) == (toml.parent / "columns", ("x",))


def test_the_environment_names_the_path_when_none_is_given(
    toml: Path, id_files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLINE_DATA", str(toml))

    assert list(load_settings(None, {}).datasets) == ["digits"]
    assert list(load_settings(id_files_folder, {}).datasets) == ["tutorial"]


def test_an_empty_variable_is_no_setting(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FEEDLINE_WORKERS=${WORKERS}` in a compose file makes one when WORKERS is not set."""
    monkeypatch.setenv("FEEDLINE_WORKERS", "")
    monkeypatch.setenv("FEEDLINE_DATA", "")

    assert load_settings(toml, {}).workers == 3
    with pytest.raises(InvalidRequest, match="nothing to serve"):
        load_settings(None, {})


def test_settings_as_a_class_look_nowhere(columns_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEEDLINE_WORKERS", "WORKERS", "MAX_TRAINERS"):
        monkeypatch.setenv(name, "5")

    settings = Settings(workers=2, datasets={"d": ColumnsConfig.declare(path=columns_folder)})

    assert (settings.workers, settings.max_trainers) == (2, 64)
    assert Settings(datasets={}).workers == machine.cores()


# ---- paths ----------------------------------------------------------------------------------------------------------


def test_paths_in_loader_toml_are_relative_to_it_and_made_absolute(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    by_file = load_settings(Path(os.path.relpath(toml)), {})
    by_folder = load_settings(toml.parent, {})

    assert by_file.datasets["digits"].path == toml.parent / "columns"
    assert by_folder == by_file


def test_a_dataset_without_a_path_is_in_the_folder_of_its_loader_toml(columns_folder: Path) -> None:
    (columns_folder / "loader.toml").write_text('[datasets.digits.views]\ntrain = "0:10"\nvalidation = "10:"\n')

    assert load_settings(columns_folder, {}).datasets == {
        "digits": ColumnsConfig.declare(path=columns_folder, views={"train": "0:10", "validation": "10:"})
    }


def test_a_loader_toml_without_datasets_serves_the_folder_it_is_in(columns_folder: Path) -> None:
    (columns_folder / "loader.toml").write_text("workers = 1\n")

    settings = load_settings(columns_folder, {})

    assert (settings.workers, settings.datasets) == (1, {"columns": ColumnsConfig.declare(path=columns_folder)})


def test_paths_in_the_environment_are_relative_to_where_the_loader_is_started(
    columns_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(columns_folder.parent)
    monkeypatch.setenv("FEEDLINE_DATASETS__D__PATH", "columns")

    assert load_settings(None, {}).datasets["d"].path == columns_folder


def test_a_home_is_expanded(columns_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(columns_folder.parent))
    (columns_folder / "loader.toml").write_text('[datasets.d]\npath = "~/columns"\n')

    assert load_settings(columns_folder, {}).datasets["d"].path == columns_folder


# ---- data that the command line names ---


def test_the_command_line_says_what_else_would_need_a_loader_toml(columns_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "leaves").mkdir()
    (tmp_path / "leaves" / "manifest.csv").touch()

    columns = load_settings(columns_folder, {"views": ["train=:9", "test=9:"], "kind": "columns"}).datasets
    leaves = load_settings(tmp_path / "leaves", {"size": (64, 32)}).datasets

    assert columns == {"columns": ColumnsConfig.declare(path=columns_folder, views={"train": ":9", "test": "9:"})}
    assert leaves == {"leaves": ImagesConfig.declare(path=tmp_path / "leaves", size=(64, 32))}


def test_several_paths_are_a_dataset_each(columns_folder: Path, id_files_folder: Path) -> None:
    settings = load_settings(columns_folder, {"workers": 2}, [id_files_folder, Path("my:made")])

    assert {name: config.kind for name, config in settings.datasets.items()} == {
        "columns": "columns",
        "tutorial": "id_files",
        "my": "python",
    }
    assert settings.workers == 2


def test_several_paths_of_one_name_want_names(columns_folder: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"columns and .*columns: are both called 'columns'; name them in a loader"
    ):
        load_settings(columns_folder, {}, [columns_folder])


def test_a_loader_toml_that_says_more_than_datasets_is_not_one_of_several_paths(
    tmp_path: Path, columns_folder: Path
) -> None:
    (tmp_path / "loader.toml").write_text(f"workers = 3\n[datasets.a]\npath = '{columns_folder}'\n")

    with pytest.raises(InvalidRequest, match=r"loader\.toml: says workers, which is about a whole loader; of several"):
        load_settings(columns_folder, {}, [tmp_path / "loader.toml"])


def test_several_loader_toml_of_nothing_but_datasets_are_served_together(tmp_path: Path, columns_folder: Path) -> None:
    """Two folders that `feedline convert` made could not be."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.zeros(3))
        (tmp_path / name / "loader.toml").write_text(f"[datasets.{name}]\nkind = 'columns'\n")

    settings = load_settings(tmp_path / "a", {"workers": 2}, [columns_folder, tmp_path / "b"])

    assert {name: config.path for name, config in settings.datasets.items()} == {
        "columns": columns_folder,
        "a": tmp_path / "a",
        "b": tmp_path / "b",
    }
    assert list(load_settings(tmp_path / "a", {}, [tmp_path / "b"]).datasets) == ["a", "b"]
    with pytest.raises(InvalidRequest, match=r"of what a loader\.toml declares say it there"):
        load_settings(tmp_path / "a", {"size": (2, 2)}, [columns_folder])
    (tmp_path / "b" / "loader.toml").write_text("[datasets.a]\nkind = 'columns'\n")
    with pytest.raises(InvalidRequest, match=r"a/loader\.toml and .*b/loader\.toml: both have a dataset 'a'; rename"):
        load_settings(tmp_path / "a", {}, [tmp_path / "b"])


def test_what_a_loader_toml_declares_is_said_there(toml: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--kind, --size, .* of what a loader\.toml declares say it there"):
        load_settings(toml, {"size": (64, 64)})


# ---- recognising a folder -------------------------------------------------------------------------------------------


def test_a_folder_of_columns_is_recognised(columns_folder: Path) -> None:
    assert load_settings(columns_folder, {}).datasets == {"columns": ColumnsConfig.declare(path=columns_folder)}


def test_sub_folders_of_columns_are_recognised(tmp_path: Path) -> None:
    for view in ("train", "validation"):
        (tmp_path / "d" / view).mkdir(parents=True)
        np.save(tmp_path / "d" / view / "x.npy", np.arange(3))

    assert load_settings(tmp_path / "d", {}).datasets == {"d": ColumnsConfig.declare(path=tmp_path / "d")}


def test_id_files_are_recognised(id_files_folder: Path) -> None:
    assert load_settings(id_files_folder, {}).datasets == {"tutorial": IdFilesConfig.declare(path=id_files_folder)}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["scans.h5"], Hdf5Config),
        (["scans.hdf5", "README.md"], Hdf5Config),
        (["s1.h5", "s2.h5"], SubjectsConfig),
        (["s1.npz", "s2.npz", ".hidden.h5"], SubjectsConfig),
        (["part-0.parquet", "part-1.parquet"], ArrowConfig),
        (["data.arrow"], ArrowConfig),
        (["a.feather", "notes.txt"], ArrowConfig),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], ArrowConfig),
        (["label=cat/p.pq", "label=dog/p.pq", "_SUCCESS"], ArrowConfig),
        (["x.npy", "y.NPY", "lists/first.npy"], ColumnsConfig),
        (["fold0/x.npy", "fold0/y.npy", "fold1/x.npy", "fold1/y.npy"], ColumnsConfig),
        (["cat/1.jpg", "dog/2.JPG"], ClassFoldersConfig),
        (["cat/1.png", "dog/1.png", "labels.csv"], ClassFoldersConfig),
        (["cat/kittens/1.png", "dog/puppies/1.png"], ClassFoldersConfig),
        (["push/1.npy", "push/2.npy", "wave/1.npy"], ClassFoldersConfig),
        (["cat/1.h5", "dog/2.h5"], ClassFoldersConfig),
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg"], ClassFoldersConfig),
        (["train/push/1.npy", "train/wave/1.npy", "test/push/2.npy"], ClassFoldersConfig),
        (["manifest.csv", "images/a.png", "masks/a.png"], ImagesConfig),
        (["manifest.json", "a.png"], ImagesConfig),
    ],
)
def test_other_files_are_recognised_where_they_can_be_one_thing_only(
    tmp_path: Path, names: list[str], kind: type[Any]
) -> None:
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "d" / name).touch()

    assert load_settings(tmp_path / "d", {}).datasets == {"d": kind(path=tmp_path / "d")}


@pytest.mark.parametrize(
    "names", [["only.npz"], ["s1/x.h5"], ["x.csv"], ["images/1.png"], ["a.png", "b.png"], ["v/fold0/x.npy"]]
)
def test_files_that_amount_to_nothing_are_not_recognised(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "d" / name).touch()

    with pytest.raises(InvalidRequest, match=r"d: found .*; understood is a loader\.toml; columns"):
        load_settings(tmp_path / "d", {})


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        (
            ["notes.npy", "data.h5", "train.parquet"],
            r"columns \(notes\.npy is a column\) or hdf5 \(data\.h5 holds columns\) or arrow \(train\.parquet .*\); "
            r'say which, kind = "columns" \(--kind columns\) or kind = "hdf5" \(--kind hdf5\) or kind = "arrow"',
        ),
        (
            ["a.npz", "b.h5"],
            r"neither \(a\.npz, of which `feedline convert` makes columns\) or hdf5 \(b\.h5 holds columns\)",
        ),
        (
            ["a.h5", "b.h5", "a.npz", "b.npz"],
            r"subjects \(2 \.npz files, .*\) or subjects \(2 \.h5 files, such as a\.h5, are",
        ),
        (
            ["x.npy", "cat/1.png", "dog/1.png"],
            r"columns \(x\.npy .*\) or class_folders \(cat/, dog/ hold images of a class",
        ),
        (["x.npy", "manifest.csv"], r"columns \(x\.npy is a column\) or images \(manifest\.csv lists images\)"),
        (["x.npy", "train/a.parquet"], r"columns \(x\.npy is a column\) or arrow \(train/a\.parquet holds columns\)"),
        (["s1/x.h5", "s2/x.h5"], r"class_folders \(s1/x\.h5 is .*\) or subjects \(files = \"\{subject\}/x\.h5\"\)"),
        (["s1/eeg.npy", "s2/eeg.npy"], r"columns \(.* of the view s1\) or class_folders \(.*\) or subjects \(files = "),
    ],
)
def test_what_could_be_two_things_is_refused_with_both_spelled_out(
    tmp_path: Path, names: list[str], readings: str
) -> None:
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "d" / name).touch()

    with pytest.raises(InvalidRequest, match=rf"/d: could be {readings}"):
        load_settings(tmp_path / "d", {})
    assert load_settings(tmp_path / "d", {"kind": "columns"}).datasets["d"].kind == "columns"


def test_what_has_no_suffix_is_told_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "000000_0").write_bytes(b"PAR1 and so on")
    (tmp_path / "scans").write_bytes(b"\x89HDF\r\n\x1a\n and so on")

    assert load_settings(tmp_path / "scans", {}).datasets["scans"].kind == "hdf5"
    with pytest.raises(InvalidRequest, match=r"hdf5 \(scans holds columns\) or arrow \(000000_0 holds columns\)"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(("name", "kind"), [("scans.h5", Hdf5Config), ("rows.parquet", ArrowConfig)])
def test_a_file_that_holds_columns_is_served_by_its_name(tmp_path: Path, name: str, kind: type[Any]) -> None:
    (tmp_path / name).touch()
    (tmp_path / "loader.toml").write_text(f'[datasets.d]\npath = "{name}"\n')

    assert load_settings(tmp_path / name, {}).datasets == {name: kind(path=tmp_path / name)}
    assert load_settings(tmp_path / "loader.toml", {}).datasets == {"d": kind(path=tmp_path / name)}


def test_a_relative_folder_gives_its_own_name(columns_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(columns_folder)

    assert load_settings(Path(), {}).datasets == {"columns": ColumnsConfig.declare(path=columns_folder)}


@pytest.mark.parametrize(
    ("folder", "name"),
    [("my data (v2)", "my-data--v2"), ("größe", "gr--e"), (".cache", "cache"), ("--", "data"), ("a.b_c-1", "a.b_c-1")],
)
def test_a_datasets_name_is_its_folders_made_plain(columns_folder: Path, folder: str, name: str) -> None:
    renamed = columns_folder.rename(columns_folder.with_name(folder))

    assert list(load_settings(renamed, {}).datasets) == [name]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("", ColumnsConfig),
        ('views = {train = "0:9"}', ColumnsConfig),
        ('partition = "split.json"', IdFilesConfig),
        ('files = "{id}.npz"\nlabels = false', IdFilesConfig),
        ("window = 30", SubjectsConfig),
        ('files = "{subject}.npz"\nviews = {train = "s*"}', SubjectsConfig),
        ("one_hot = true\nof = 'arrays'", ClassFoldersConfig),
    ],
)
def test_a_kind_that_is_not_said_is_told_from_the_keys_or_the_folder(toml: Path, said: str, kind: type) -> None:
    toml.write_text(f'[datasets.d]\npath = "columns"\n{said}\n')

    assert type(load_settings(toml, {}).datasets["d"]) is kind


def test_a_folder_that_is_not_understood_is_told_with_what_it_holds(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"photo-{k}.jpeg").touch()
    (tmp_path / "notes").mkdir()

    with pytest.raises(InvalidRequest) as caught:
        load_settings(tmp_path, {})

    assert str(caught.value) == (
        f"{tmp_path}: found notes/, photo-0.jpeg, photo-1.jpeg, photo-2.jpeg, photo-3.jpeg, photo-4.jpeg, "
        "photo-5.jpeg, photo-6.jpeg, … (11 in all); understood is a loader.toml; columns, such as x.npy and y.npy; "
        "sub-folders of columns, such as train/x.npy and validation/x.npy; partition.json and labels.json beside "
        "ID.npy files; one HDF5 file; several .npz or HDF5 files, one a subject; Arrow or Parquet files; "
        "manifest.json or manifest.csv with a list of images; or folders of two classes or more, such as cat/1.jpg and "
        "dog/2.jpg, also below train/ and validation/. Of a CSV or a single .npz, `feedline convert` makes columns"
    )


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="found nothing; understood is"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(("gone", "there"), [("labels", "partition"), ("partition", "labels")])
def test_half_of_a_partition_is_told(id_files_folder: Path, gone: str, there: str) -> None:
    (id_files_folder / f"{gone}.json").unlink()

    with pytest.raises(InvalidRequest, match=rf"has {there}\.json but no {gone}\.json"):
        load_settings(id_files_folder, {})


def test_a_folder_that_could_be_two_things_is_told(columns_folder: Path) -> None:
    (columns_folder / "train").mkdir()
    np.save(columns_folder / "train" / "x.npy", np.arange(3))

    with pytest.raises(InvalidRequest, match=r"x\.npy, y\.npy are here and also in train/"):
        load_settings(columns_folder, {})


# ---- mistakes -------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nothere: there is no such file or folder; wanted a loader\.toml"):
        load_settings(tmp_path / "nothere", {})


def test_a_data_file_as_a_path_is_told_with_its_folder(columns_folder: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=rf"x\.npy: is a file; wanted .*, such as {re.escape(str(columns_folder))}"
    ):
        load_settings(columns_folder / "x.npy", {})


def test_nothing_to_serve_is_told() -> None:
    with pytest.raises(InvalidRequest, match=r"nothing to serve: name a folder of data or a loader\.toml, or set FEED"):
        load_settings(None, {})


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    assert problem("workers = 3\nlisten = \n", tmp_path) == (
        "…/loader.toml: is not TOML: Invalid value (at line 2, column 10)"
    )


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "loader.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidRequest, match=r"loader\.toml: is not TOML"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 3", "worker: there is no such setting; did you mean workers?"),
        (
            "colour = 3",
            "colour: there is no such setting; there is listen, workers, replicas, memory, max_trainers, "
            "max_streams_per_client, tcp_lane, tcp_port, send_from_files, shm_lane, compression, batch_timeout_s, "
            "drain_timeout_s, log_format, log_level, tls_certificate, tls_key, tls_client_ca, tokens, insecure, "
            "health_listen, metrics_listen, datasets",
        ),
        ("workers = 0", "workers: found 0; wanted a whole number of 1 or more, or auto"),
        ("workers = true", "workers: found True; wanted a whole number"),
        ("workers = 1.5", "workers: found 1.5; wanted a whole number"),
        ('workers = "many"', "workers: found 'many'; wanted a whole number"),
        ("max_trainers = -1", "max_trainers: found -1; wanted greater than or equal to 1"),
        ('memory = "lots"', "memory: found 'lots'; wanted a size, such as 512MiB or 2GB"),
        ('memory = "3 parsecs"', "memory: found '3 parsecs'; wanted a size, such as 512MiB or 2GB"),
        ("memory = 512", "memory: found 512; wanted a size of at least 1MiB, such as 512MiB or 2GB"),
        ("memory = -1", "memory: found -1; wanted a size, such as 512MiB or 2GB"),
        ("batch_timeout_s = 0", "batch_timeout_s: found 0; wanted greater than 0"),
        ("batch_timeout_s = inf", "batch_timeout_s: found inf; wanted a finite number"),
        ('drain_timeout_s = "soon"', "drain_timeout_s: found 'soon'; wanted a number"),
        ('log_format = "xml"', "log_format: found 'xml'; wanted 'auto', 'text' or 'json'"),
        ('log_level = "loud"', "log_level: found 'loud'; wanted 'debug', 'info', 'warning' or 'error'"),
        ("listen = 50051", "listen: found 50051; wanted text"),
        ('listen = "50051"', "listen: found '50051'; wanted host:port, such as"),
        ('listen = "localhost:"', "listen: found 'localhost:'; wanted host:port, such as"),
        ('listen = "h:65536"', "listen: found 'h:65536'; wanted host:port, such as"),
        ('listen = "::1:50051"', "listen: found '::1:50051'; wanted host:port with an IPv6 host in brackets"),
        ("datasets = 3", "datasets: found 3; wanted a table"),
    ],
)
def test_a_wrong_value_is_told_with_file_key_found_and_wanted(tmp_path: Path, text: str, said: str) -> None:
    assert problem(text, tmp_path).startswith(f"…/loader.toml: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('imputs = ["x"]', "datasets.d.imputs: there is no such setting; did you mean inputs?"),
        (
            'kind = "colums"',
            "datasets.d: found kind 'colums'; "
            "wanted one of columns, id_files, class_folders, images, subjects, sequences, hdf5, arrow, python, "
            "such as columns",
        ),
        ('kind = "parquet"', "datasets.d: found kind 'parquet'; wanted one of columns, id_files"),
        ("kind = 'columns'\none_hot = true", "datasets.d.one_hot: there is no such setting; there is path, inputs, "),
        ("inputs = 3", "datasets.d.inputs: found 3; wanted a list of names"),
        ("inputs = []", "datasets.d.inputs: found []; wanted"),
        ("inputs = [3]", "datasets.d.inputs.0: found 3; wanted text"),
        ("path = 3", "datasets.d"),
        ('views = "0:3"', "datasets.d.views: found '0:3'; wanted a table"),
        ('views = {train = "0-3"}', "datasets.d.views.train: found '0-3'; wanted start:stop, such as \"0:1500\""),
        ('views = {train = "0:9:2"}', "datasets.d.views.train: found '0:9:2'; wanted start:stop, "),
        ("views = {train = 9}", "datasets.d.views.train: found 9; wanted text"),
        ("kind = 'id_files'\none_hot = 'perhaps'", "datasets.d.one_hot: found 'perhaps'; wanted true or false"),
        ("kind = 'id_files'\nclasses = 0", "datasets.d.classes: found 0; wanted greater than or equal to 1"),
        ("kind = 'id_files'\nclasses = true", "datasets.d.classes: found True; wanted a whole number"),
        ("labels = ''", "datasets.d.labels: found ''; wanted"),
        ("labels = true", "datasets.d.labels: found True; wanted text"),
        (
            "kind = 'id_files'\nfiles = 'id.npz'",
            "datasets.d.files: found 'id.npz'; wanted a file name below the folder",
        ),
        (
            "kind = 'id_files'\nfiles = '../{id}.npz'",
            "datasets.d.files: found '../{id}.npz'; wanted a file name below",
        ),
        ("kind = 'id_files'\nfiles = '/{id}.npz'", "datasets.d.files: found '/{id}.npz'; wanted a file name below"),
        ("kind = 'id_files'\nfiles = '{id}.txt'", "datasets.d.files: found '{id}.txt'; wanted a file name below"),
        (
            "kind = 'subjects'\nfiles = {x = '{id}.npz'}",
            "datasets.d.files.x: found '{id}.npz'; wanted a file name below",
        ),
        ("kind = 'subjects'\nwindow = 0", "datasets.d.window: found 0; wanted greater than or equal to 1"),
        ("kind = 'subjects'\nviews = {train = []}", "datasets.d.views.train: found []; wanted"),
        ("kind = 'subjects'\nwindows = 5", "datasets.d.windows: there is no such setting; did you mean window?"),
        (
            "kind = 'class_folders'\nvalidation_split = 1.5",
            "datasets.d.validation_split: found 1.5; wanted more than 0 and less than 1",
        ),
        (
            "kind = 'class_folders'\nviews = {train = '../t'}",
            "datasets.d.views.train: found '../t'; wanted the name of",
        ),
        (
            "kind = 'class_folders'\nclasses = ['a', '/b']",
            "datasets.d.classes.1: found '/b'; wanted the name of a folder",
        ),
        ("kind = 'hdf5'\narrays = {}", "datasets.d.arrays: found {}; wanted"),
        ("kind = 'arrow'\nviews = {train = '0-3'}", "datasets.d.views.train: found '0-3'; wanted start:stop, such as"),
    ],
)
def test_a_wrong_value_of_a_dataset_is_told_with_its_dotted_key(columns_folder: Path, text: str, said: str) -> None:
    assert problem(f"[datasets.d]\n{text}\n", columns_folder).startswith(f"…/loader.toml: {said}")


def test_a_transform_that_there_is_not_is_told_with_the_nearest_one(columns_folder: Path) -> None:
    text = '[datasets.d]\nkind = "columns"\n[[datasets.d.transforms]]\nname = "scael"\ncolumn = "x"\n'

    said = problem(text, columns_folder)

    assert said.startswith("…/loader.toml: datasets.d.transforms.0: is no transform; wanted name = one of cast, scale")
    assert said.endswith("; found name 'scael', did you mean scale?")


def test_a_transform_without_a_column_is_told(columns_folder: Path) -> None:
    text = '[datasets.d]\nkind = "columns"\n[[datasets.d.transforms]]\nname = "scale"\n'

    assert problem(text, columns_folder).endswith(
        'transforms.0.columns: is missing (column = "x" says the same of one)'
    )


def test_a_name_that_cannot_be_a_datasets_is_told(columns_folder: Path) -> None:
    assert problem('[datasets."my/data"]\n', columns_folder) == (
        "…/loader.toml: datasets.my/data: found 'my/data'; "
        "wanted a name of letters, digits, '.', '_' and '-', such as data"
    )


def test_all_problems_are_told_at_once_each_with_where_it_stands(
    columns_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLINE_MEMORY", "big")
    monkeypatch.setenv("FEEDLINE_WORKER", "3")
    monkeypatch.setenv("FEEDLINE_DATASETS__D__CLASSES", "none")

    said = problem(
        'listenn = "x:1"\nworkers = 0\n[datasets.d]\nkind = "id_files"\none_hot = 7\n[datasets.e]\npath = "nothere"\n',
        columns_folder,
        max_trainers=0,
    )

    assert said.splitlines() == [
        "environment: FEEDLINE_WORKER: there is no such setting; did you mean FEEDLINE_WORKERS?",
        "…/loader.toml: workers: found 0; wanted a whole number of 1 or more, or auto",
        "environment: FEEDLINE_MEMORY: found 'big'; wanted a size, such as 512MiB or 2GB",
        "command line: max_trainers: found 0; wanted greater than or equal to 1",
        "…/loader.toml: datasets.d.one_hot: found 7; wanted true or false",
        "environment: FEEDLINE_DATASETS: datasets.d.classes: found 'none'; wanted a whole number",
        "…/loader.toml: listenn: there is no such setting; did you mean listen?",
        "datasets.e: …/nothere: cannot be read (No such file or directory); wanted a folder of data",
    ]


def test_a_dataset_in_the_environment_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_DATASETS", "{not json")

    with pytest.raises(InvalidRequest, match=r"environment: .*datasets.*; wanted JSON in FEEDLINE_DATASETS"):
        load_settings(None, {})


def test_a_dataset_in_the_environment_without_a_path_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_DATASETS__D__KIND", "columns")

    with pytest.raises(InvalidRequest, match=r"environment: FEEDLINE_DATASETS: datasets\.d\.path: is missing"):
        load_settings(None, {})


def test_variables_that_are_no_setting_and_nearly_none_are_left_alone(
    columns_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes makes such variables for a service called feedline."""
    for name in ("PORT", "SERVICE_HOST", "PORT_50051_TCP"):
        monkeypatch.setenv(f"FEEDLINE_{name}", "tcp://10.0.0.1:50051")

    assert load_settings(columns_folder, {}).listen == "127.0.0.1:50051"


def test_the_overrides_given_are_not_changed(toml: Path) -> None:
    overrides: dict[str, Any] = {"datasets": {"digits": {"targets": ["x"]}}}

    load_settings(toml, overrides)

    assert overrides == {"datasets": {"digits": {"targets": ["x"]}}}


# ---- the documentation ----------------------------------------------------------------------------------------------

CONFIGURATION = Path(__file__).parents[3] / "docs" / "configuration.md"


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", CONFIGURATION.read_text(), re.DOTALL))
def test_every_example_of_the_documentation_is_a_loader_toml(tmp_path: Path, block: str) -> None:
    (tmp_path / "loader.toml").write_text(block)

    assert load_settings(tmp_path, {}).datasets


def test_every_setting_is_in_the_documentation_with_its_variable_and_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`FEEDLINE_\w+` \| [^|]*) \|", CONFIGURATION.read_text(), re.MULTILINE))

    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        variable, default = rows[name].split(" | ")
        assert variable == f"`FEEDLINE_{name.upper()}`"
        if field.default_factory is None:
            assert default.strip("`") == str(field.default).removesuffix(".0").lower()


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_key_of_a_dataset_is_in_the_documentation(kind: type[Declaration]) -> None:
    _, _, datasets = CONFIGURATION.read_text().partition("\n## Datasets\n")
    common, *sections = datasets.split("\n### ")
    section = next(text for text in sections if text.startswith(f"{kind.kind}\n"))

    written = re.findall(r"^\| `(\w+)` \|", common + section, re.MULTILINE)

    assert set(written) == {field.name for field in kind.fields()}
    assert len(written) == len(kind.fields())


STARTING = """
import json, sys
from pathlib import Path
from feedline_server.declared.datasets import KINDS
from feedline_server.declared.transforms import TRANSFORMS
from feedline_server.host.logs import configure_logs
from feedline_server.settings.settings import load_settings

settings = load_settings(Path(sys.argv[1]), {})
configure_logs("text", "info")
from feedline_server.lanes.lane import listeners

lanes = list(listeners(settings))
ready = [name for name, one in {**KINDS, **TRANSFORMS}.items() if "__dataclass_fields__" in vars(one)]
print(json.dumps([lanes, ready, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
"""What a loader does before it opens its data."""


def test_a_loader_makes_ready_and_loads_what_its_own_data_and_lanes_need(toml: Path) -> None:
    with toml.open("a") as file:
        file.write('transforms = [{name = "scale", column = "x"}]\n')

    out = subprocess.run([sys.executable, "-c", STARTING, str(toml)], capture_output=True, check=True)

    lanes, ready, loaded = json.loads(out.stdout)
    assert lanes == ["shm", "tcp"]
    assert ready == ["columns", "scale"]
    assert not {"cryptography", "cv2", "h5py", "pyarrow", "rich"} & set(loaded)
