"""Tests that measure the machine run when no other test does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alone import begin_with

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import os, time
from pathlib import Path
import pytest

pytest_plugins = ["alone"]
LOG = Path(__file__).with_name("log")

@pytest.fixture(scope="session")
def shared():
    yield
    note("shared ended")

@pytest.fixture(autouse=True)
def noted(request, shared):
    note(f"{request.node.name} began")
    yield
    note(f"{request.node.name} ended")

def note(what):
    with LOG.open("a") as log:
        log.write(f"{os.getpid()} {what}\\n")
"""

PYTEST_INI = "[pytest]\nmarkers = alone: by itself\naddopts = --import-mode=importlib\n"


def test_long_files_begin_first_and_tests_alone_come_last() -> None:
    units = ["alone", "tests/wire/test_key.py", "tests/end_to_end/test_death.py", "tests/faults/test_disks.py"]

    assert begin_with(units) == [*reversed(units)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "files"), [(0, 2), (1, 2), (2, 1), (2, 2), (2, 5), (3, 2)])
def test_no_test_runs_beside_one_that_is_alone(processes: int, files: int, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number in range(files):
        (tmp_path / f"test_{number}.py").write_text(
            "import pytest\n"
            f"@pytest.mark.alone\ndef test_alone_{number}(): pass\n"
            f"@pytest.mark.parametrize('i', range(3))\ndef test_beside_{number}(i): pass\n"
        )

    done = run(tmp_path, "-n", str(processes), "--dist", "loadfile") if processes else run(tmp_path)

    assert done == 4 * files
    events = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    first = next(place for place, (_, what) in enumerate(events) if what.startswith("test_alone"))
    (last_process,) = {process for process, _ in events[first:]}
    assert [what for _, what in events[first:] if "beside" in what] == []
    # What other processes shared among their tests has ended too.
    others = {process for process, _ in events} - {last_process}
    assert {process for process, what in events[:first] if what == "shared ended"} == others


def run(folder: Path, *options: str) -> int:
    """How many tests passed; all of them must."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {"PYTHONPATH": str(Path(__file__).parent), "PATH": os.environ["PATH"]}
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return int(ran.stdout.splitlines()[-1].split()[0])
