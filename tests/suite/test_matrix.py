"""Which cells scripts/matrix has, which it runs, and what it says of them."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    import matrix

    return matrix


def outcome(matrix: ModuleType, result: str, why: str = "") -> object:
    return matrix.Outcome(result, why, "Python 3.11.7, keras 3.8.0", "2026-11-30", "abc1234")


def test_each_version_of_keras_meets_each_backend_on_each_python(matrix: ModuleType) -> None:
    names = [cell.name for cell in matrix.cells()]

    assert len(set(names)) == len(names)
    assert len(matrix.chosen(matrix.cells(), ["keras-3.8"])) == 6
    assert [cell.name for cell in matrix.chosen(matrix.cells(), ["keras", "py3.13"])] == [
        "keras tensorflow py3.13", "keras jax py3.13", "keras torch py3.13",
    ]  # fmt: skip
    assert [cell.name for cell in matrix.chosen(matrix.cells(), ["tf_keras"])] == ["tf_keras py3.11", "tf_keras py3.13"]
    assert len(matrix.chosen(matrix.cells(), [], "3.11")) * 2 == len(names)


def test_a_word_that_no_cell_has_is_refused_with_those_that_there_are(matrix: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no cell has the word keras-2; there are .*keras-3.8.*py3.11"):
        matrix.chosen(matrix.cells(), ["keras-2", "py3.11"])


def test_every_folder_of_tests_that_a_cell_names_is_there(matrix: ModuleType) -> None:
    named = {test for cell in matrix.cells() for test in cell.tests if test.startswith("tests/")}

    assert [name for name in sorted(named) if not (ROOT / name).is_dir()] == []


def test_what_passed_or_cannot_be_is_not_run_again(matrix: ModuleType) -> None:
    cells = matrix.chosen(matrix.cells(), ["keras-3.8", "jax"]) + matrix.chosen(matrix.cells(), ["jax-0.8"])
    known = {
        cell.name: outcome(matrix, result) for cell, result in zip(cells, ["passed", "FAILED", "none"], strict=False)
    }

    assert [cell.name for cell in matrix.to_run(cells, known, again=False)] == [cells[1].name, cells[3].name]
    assert matrix.to_run(cells, known, again=True) == cells


@pytest.mark.parametrize(
    ("pip", "result", "why"),
    [
        (
            "The conflict is caused by:\n    The user requested keras==3.8.*\n"
            "    tensorflow-cpu 2.21.0 depends on keras>=3.12.0\n    tensorflow-cpu 2.20.0 depends on keras>=3.10.0\n\n"
            "ERROR: ResolutionImpossible: for help visit …\n",
            "none",
            "tensorflow-cpu 2.21.0 depends on keras>=3.12.0; tensorflow-cpu 2.20.0 depends on keras>=3.10.0",
        ),
        ("ERROR: No matching distribution found for torch==9\n", "none", "there is no torch==9 for this Python"),
        ("ERROR: no space left on device\n", "FAILED", "pip: ERROR: no space left on device"),
        ("", "FAILED", "pip: nothing said"),
    ],
)  # fmt: skip
def test_a_combination_that_there_is_not_is_told_from_an_installation_that_failed(
    matrix: ModuleType, pip: str, result: str, why: str
) -> None:
    assert matrix.why_not_installed(pip) == (result, why)


def test_a_plan_that_brings_cuda_is_known_by_its_packages(matrix: ModuleType) -> None:
    def report(*names: str) -> dict[str, object]:
        return {"install": [{"metadata": {"name": name}} for name in names]}

    assert matrix.brings_cuda(report("torch", "numpy")) == []
    assert matrix.brings_cuda(report("torch", "nvidia-cublas", "cuda-toolkit")) == ["cuda-toolkit", "nvidia-cublas"]


def test_the_table_has_a_line_a_cell_and_takes_the_place_of_the_old_one(matrix: ModuleType) -> None:
    cells = matrix.chosen(matrix.cells(), ["keras-3.8", "jax"])
    table = matrix.table(cells, {cells[0].name: outcome(matrix, "passed", "88 passed")})

    assert table.splitlines()[2:] == [
        "| keras-3.8 jax py3.11 | Python 3.11.7, keras 3.8.0 | passed: 88 passed | 2026-11-30 |",
        "| keras-3.8 jax py3.13 | | not run | |",
    ]
    page = f"above\n{matrix.BEGIN}\n\nold\n\n{matrix.END}\nbelow\n"
    failed = table.replace("passed: 88 passed", "FAILED: 1 failed, 87 passed; see build/matrix/a.log")
    assert "| FAILED: 1 failed, 87 passed |" in matrix.published(page, failed)
    assert matrix.published(page, table) == f"above\n{matrix.BEGIN}\n\n{table}\n\n{matrix.END}\nbelow\n"
    assert (ROOT / "docs" / "versions.md").read_text().count(matrix.BEGIN) == 1


def test_what_was_published_of_a_cell_stays_where_nothing_is_known_of_it(matrix: ModuleType) -> None:
    cells = matrix.chosen(matrix.cells(), ["keras-3.8", "jax"])
    before = matrix.table(cells, {cells[1].name: outcome(matrix, "passed", "88 passed")})
    now = matrix.table(cells, {cells[0].name: outcome(matrix, "passed", "90 passed")})
    page = f"{matrix.BEGIN}\n\n{before}\n\n{matrix.END}\n"

    lines = matrix.published(page, now).splitlines()

    assert [line for line in lines if "passed" in line] == [now.splitlines()[2], before.splitlines()[3]]


def test_only_the_tests_run_through_the_command_that_is_given(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here through `nice`; pip is a script, and so is the Python of the environment."""
    monkeypatch.setattr(matrix, "KEPT", tmp_path)
    for program, script in {
        "pip/bin/pip": 'echo "installs at $(nice)"',
        "venv/bin/python": '[ "$1" = -m ] && echo "tests at $(nice)"; echo "==== 3 passed in 0.1s"',
    }.items():
        (tmp_path / program).parent.mkdir(parents=True)
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    cell = matrix.Cell("keras jax", "3.11", ("keras",), ("tests/suite",))

    found = matrix.run(cell, within=tmp_path / "venv", keep=False, cuda=False, through=("nice", "-n", "3"))

    log = (tmp_path / "keras-jax.log").read_text()
    here = os.nice(0)
    assert (found.result, found.why) == ("passed", "3 passed, beside other packages")
    assert f"installs at {here}\n" in log
    assert f"tests at {min(here + 3, 19)}\n" in log


def test_the_command_lists_what_is_known_without_running_anything() -> None:
    said = subprocess.run(
        [ROOT / "scripts" / "matrix", "--list", "keras-3.12", "torch"],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert said.stdout.count("| keras-3.12 torch py") == (running in {"3.11", "3.13"}), said.stderr
    assert said.stderr == ""
