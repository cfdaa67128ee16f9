"""What .ci/run does with the commands that it runs, which are stood in for here."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci" / "run"

SUMMARY = "===== 3 passed, 1 skipped in 12.34s (0:00:12) ====="

STEPS = ["test", "check", "docs", "protobuf-range", "test"]
"""The commands in the order in which they begin, but for `protobuf-range`, which runs beside `check` and `docs`."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with .ci/run and commands that note that they ran, and in what."""
    (tmp_path / ".ci").mkdir()
    shutil.copy2(CI, tmp_path / ".ci" / "run")
    (tmp_path / "scripts").mkdir()
    for name in STEPS:
        stand_in(tmp_path, name, "")
    stand_in(tmp_path, "test", f"echo '{SUMMARY}'")
    return tmp_path


def stand_in(checkout: Path, name: str, body: str) -> None:
    script = checkout / "scripts" / name
    script.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{checkout}/ran"\necho "{name} speaks"\n{body}\n')
    script.chmod(0o755)


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([checkout / ".ci" / "run"], capture_output=True, text=True, check=False)


def test_the_tests_run_first_in_what_they_alone_have_installed(checkout: Path) -> None:
    is_first = '[[ $* == *torch || ! -e $FEEDLINE_VENV ]] || exit 1\nmkdir -p "$FEEDLINE_VENV"'
    stand_in(checkout, "test", f'{is_first}\necho "{SUMMARY}"')

    ran = run(checkout)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    steps = [line.split()[0] for line in (checkout / "ran").read_text().splitlines()]
    assert (steps[0], sorted(steps[1:4]), steps[4]) == (STEPS[0], sorted(STEPS[1:4]), STEPS[4])
    assert [step for step in steps if step != "protobuf-range"] == ["test", "check", "docs", "test"]
    assert not (checkout / ".venv-ci").exists()


def test_the_summary_of_pytest_is_the_last_line(checkout: Path) -> None:
    assert run(checkout).stdout.splitlines()[-1] == SUMMARY


@pytest.mark.parametrize("failing", STEPS[:-1])
def test_what_fails_fails_all_and_the_others_still_run(checkout: Path, failing: str) -> None:
    stand_in(checkout, failing, f"echo '{SUMMARY}'\nexit 1")

    ran = run(checkout)

    assert ran.returncode == 1
    assert ran.stdout.splitlines()[-1] == SUMMARY
    assert len((checkout / "ran").read_text().splitlines()) == len(STEPS)


def test_a_test_that_fails_is_not_tried_again(checkout: Path) -> None:
    stand_in(checkout, "test", f"echo 'FAILED tests/test_a.py::test_b'\necho '{SUMMARY}'\n[[ $* == *torch ]]")

    ran = run(checkout)

    assert ran.returncode == 1
    assert "tests: FAILED; " in ran.stdout
    assert (checkout / "ran").read_text().count("test --durations") == 1
    assert (checkout / "ran").read_text().count("test -m torch") == 1


def test_what_runs_beside_others_is_shown_as_one_piece(checkout: Path) -> None:
    stand_in(checkout, "protobuf-range", "echo 'of the oldest'")

    said = run(checkout).stdout

    assert "== scripts/protobuf-range oldest\nprotobuf-range speaks\nof the oldest\n== " in said


@pytest.mark.parametrize("which", ["test", "check", "protobuf-range"])
def test_sigterm_ends_the_command_that_runs(checkout: Path, which: str) -> None:
    os.mkfifo(checkout / "started")
    waits = f'trap "touch {checkout}/told; exit 143" TERM\necho > "{checkout}/started"\nsleep 60 & wait'
    stand_in(checkout, which, waits)
    if which == "protobuf-range":
        stand_in(checkout, "check", "sleep 60")  # what it runs beside
    ci = subprocess.Popen([checkout / ".ci" / "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (checkout / "started").read_text()  # blocks until the command runs

    ci.send_signal(signal.SIGTERM)

    assert ci.wait(30) == 143
    assert (checkout / "told").exists()
