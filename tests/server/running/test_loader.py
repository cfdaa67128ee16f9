"""How a loader starts: all that is wrong is said at once, before anything takes long, and what is served, to people."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feedline_server.batches.dataset import open_dataset
from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.host.addresses import check_free
from feedline_server.running.loader import announced, data_problems
from feedline_server.scheduling.catalog import Catalog, Served
from feedline_server.settings.settings import InvalidSettings, Settings, load_settings
from feedline_wire.errors import LoaderUnavailable

TOML = """
worker = 3

[datasets.good]
path = "good"

[datasets.wrong]
path = "good"
kind = "columns"
view = {train = ":3"}

[datasets.gone]
path = "gone"
kind = "columns"

[datasets.uneven]
path = "uneven"
kind = "columns"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in {"good": 4, "uneven": 5}.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.zeros((4, 2)))
        np.save(tmp_path / name / "y.npy", np.zeros(rows))
    (tmp_path / "loader.toml").write_text(TOML)
    return tmp_path


@pytest.mark.slow
def test_what_is_wrong_in_the_toml_and_in_the_data_is_said_in_one_start(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "feedline_server", "serve", folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    for text in (
        "worker: there is no such setting; did you mean workers?",
        "datasets.wrong.view: there is no such setting; did you mean views?",
        f"datasets.gone: {folder}/gone: there is no such file or folder; correct the dataset's path",
        f"datasets.uneven: {folder}/uneven: columns of different length",
    ):
        assert text in done.stderr
    assert "datasets.good" not in done.stderr


@pytest.mark.slow
def test_what_is_wrong_with_several_datasets_is_said_in_one_start(folder: Path) -> None:
    (folder / "loader.toml").write_text(TOML.replace("worker = 3", "workers = 1").replace("view = {", "views = {"))

    done = subprocess.run(
        [sys.executable, "-m", "feedline_server", "serve", folder, "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "datasets.gone: " in done.stderr
    assert "datasets.uneven: " in done.stderr


def test_only_datasets_whose_tables_are_well_are_looked_at(folder: Path) -> None:
    with pytest.raises(InvalidSettings) as error:
        load_settings(folder, {})

    assert sorted(error.value.datasets) == ["gone", "good", "uneven"]
    assert len(list(data_problems(error.value.datasets))) == 2


def test_a_port_in_use_is_said_before_data_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            LoaderUnavailable, match=f"cannot listen on '127.0.0.1:{port}': the port is in use .*with --health-listen"
        ):
            check_free(f"127.0.0.1:{port}", "--health-listen")
    check_free(f"127.0.0.1:{port}", "--health-listen")
    check_free("127.0.0.1:0", "--listen")
    with pytest.raises(LoaderUnavailable, match=r"cannot listen on '192\.0\.2\.1:50051': "):  # TEST-NET-1 is nobody's
        check_free("192.0.2.1:50051", "--listen")


def test_people_are_told_what_is_served_and_how_to_train_from_it(folder: Path) -> None:
    dataset = open_dataset("good", ColumnsConfig.declare(path=folder / "good", views={"train": ":3", "test": "3:"}))
    catalog = Catalog({"good": Served(dataset, b"")}, 1 << 20)

    assert list(announced(Settings(workers=2, metrics_listen="127.0.0.1:0"), 50051, 9100, catalog)) == [
        "serving good: train 3, test 1; a batch is (x, y) of x float64(2), y float64()",
        "2 workers at 127.0.0.1:50051; train from it with feedline.RemoteSequence('127.0.0.1:50051') in Keras, "
        "elsewhere with feedline.connect('127.0.0.1:50051'); Ctrl-C ends it",
        "metrics and a page at http://127.0.0.1:9100",
    ]

    secured = Settings(
        workers=1, metrics_listen="127.0.0.1:0", tls_certificate=Path("a"), tls_key=Path("b"), tokens=Path("c")
    )
    _, how, metrics = announced(secured, 50051, 9100, catalog)
    assert "feedline.connect('127.0.0.1:50051', ca='…', token_file='…')" in how
    assert metrics == "metrics and a page at https://127.0.0.1:9100"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (["{there}", "--workers", "1", "--memory", "big"], 78, "another start would end the same way; exit code 78"),
        (["{missing}"], 78, "another start would end the same way; exit code 78"),
        (["{there}", "--wrokers", "1"], 78, "another start would end the same way; exit code 78"),
        (["{there}", "--workers", "2", "--replicas", "2", "--tls-certificate", "{missing}", "--tls-key", "{missing}"], 78, "another start would end"),  # noqa: E501
        (["{there}", "--listen", "127.0.0.1:{used}"], 1, "the port is in use"),
    ],
    ids=["setting", "data", "option", "replicas", "port in use"],
)  # fmt: skip
def test_an_engine_can_tell_a_start_that_never_succeeds_from_one_that_may_next_time(
    words: list[str], code: int, last: str, tmp_path: Path
) -> None:
    """Docker's on-failure restarts whatever does not end with 0, for ever."""
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"there": tmp_path, "missing": tmp_path / "missing", "used": taken.getsockname()[1]}
        done = subprocess.run(
            [sys.executable, "-m", "feedline_server", "serve", *(word.format(**values) for word in words)],
            env=os.environ | {"FEEDLINE_PERMANENT_EXIT_CODE": "78"}, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert last in done.stderr.splitlines()[-1], done.stderr
