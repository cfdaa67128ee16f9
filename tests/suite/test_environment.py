"""What scripts/environment says while it installs, with a Python that only pretends to."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/usr/bin/env bash
case "$*" in
  *"pip install"*) echo "$*" >> "{installed}"; seq -f 'pip says %g' 90; exit {code} ;;
  --version) echo Python 3.11.7 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment has a Python in which pip installs nothing, and says much."""
    (tmp_path / "scripts").mkdir()
    shutil.copy2(ROOT / "scripts" / "environment", tmp_path / "scripts")
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    pretend(tmp_path, 0)
    return tmp_path


def pretend(checkout: Path, code: int) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(PYTHON.format(installed=checkout / "installed", code=code))
    python.chmod(0o755)


def run(checkout: Path, flavour: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEEDLINE_")}
    command = [checkout / "scripts" / "environment", flavour]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_pip_writes_to_a_file_and_one_line_says_what_goes_on(checkout: Path) -> None:
    ran = run(checkout, "test")

    assert ran.returncode == 0
    assert ran.stdout == f"{checkout}/.venv\n"
    [line] = ran.stderr.splitlines()
    assert "installing feedline for 'test'" in line
    assert f"pip writes to {checkout}/.venv/pip.log" in line
    assert "pip says 90" in (checkout / ".venv" / "pip.log").read_text()


def test_a_failure_shows_the_last_lines_of_pip_and_names_the_file(checkout: Path) -> None:
    pretend(checkout, 1)

    ran = run(checkout, "test")

    assert ran.returncode == 1
    assert ran.stderr.count("pip says") == 20
    assert "pip says 90" in ran.stderr
    assert ran.stderr.endswith(f"pip failed; all that it wrote: {checkout}/.venv/pip.log\n")


def test_what_failed_is_tried_again_and_what_is_there_is_not_installed_again(checkout: Path) -> None:
    pretend(checkout, 1)
    run(checkout, "check")
    pretend(checkout, 0)
    run(checkout, "check")
    tried = (checkout / "installed").read_text()

    # A check environment holds what the tests and the demo need.
    assert [run(checkout, flavour).returncode for flavour in ("check", "test", "demo")] == [0, 0, 0]
    assert (checkout / "installed").read_text() == tried


def test_every_dependency_group_is_a_flavour_and_others_are_refused(checkout: Path) -> None:
    assert "pyproject.toml:docker" in (run(checkout, "docker"), (checkout / "installed").read_text())[1]

    refused = run(checkout, "everything")

    assert refused.returncode == 2
    groups = tomllib.loads((checkout / "pyproject.toml").read_text())["dependency-groups"]
    assert refused.stderr == f"usage: scripts/environment {'|'.join(['demo', *groups])}\n"
