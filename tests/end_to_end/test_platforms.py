"""The trainer where there is no Unix: it imports, reads by the tcp lane, and says what does not run there."""

import subprocess
import sys
from pathlib import Path

from busy import without_waits

SCRIPT = Path(__file__).with_name("without_unix.py")


def test_a_trainer_runs_where_nothing_is_that_only_unix_has(one_worker: str) -> None:
    """`import feedline` failed on Windows for two names that a lane and forks needed; on Linux nobody could see it."""
    trainer = subprocess.run(
        [sys.executable, str(SCRIPT), one_worker], capture_output=True, text=True, timeout=110, check=False
    )

    assert (trainer.returncode, len(without_waits(trainer.stderr.splitlines()))) == (0, 1), trainer.stderr
    assert trainer.stdout.startswith("tcp 101 101\n")
    assert trainer.stdout.endswith("\n(1, 0)\n")
    assert "feedline serve: a loader runs on Linux, and this is win32" in trainer.stderr
