"""A test run that is told to end leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from ending import END_S, EXIT_CODE

WAITING = Path(__file__).with_name("waits_for_sigterm.py")

LOADERS = 2
"""Started by each of the waiting tests."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "running"), [((), 1), (("-n", "2", "--dist", "load"), 2)], ids=["one process", "xdist"]
)
def test_sigterm_leaves_no_loader_behind(
    options: tuple[str, ...], running: int, tmp_path: Path, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> None:
    if options:
        pytest.importorskip("xdist")
    numbered_columns(tmp_path / "data", 10)
    os.mkfifo(tmp_path / "ready")
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", str(WAITING), "-q", "-p", "no:cacheprovider", *options],
        env=os.environ | {"ENDING_DATA": str(tmp_path / "data"), "ENDING_READY": str(tmp_path / "ready")},
        cwd=WAITING.parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started: list[psutil.Process] = []
    try:
        with os.fdopen(os.open(tmp_path / "ready", os.O_RDWR)) as ready:  # a writer of its own: it has no end
            for _ in range(running):
                assert ready.readline()  # blocks until a test has started its loaders
        started = psutil.Process(run.pid).children(recursive=True)
        fronts = [one for one in started if "feedline_server" in one.cmdline() and "serve" in one.cmdline()]
        assert len(fronts) == LOADERS * running

        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=2 * END_S)

        assert run.returncode == EXIT_CODE, output
        assert [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == [], output
    finally:
        run.kill()
        for one in started:
            if one.is_running():
                one.kill()


def test_a_run_in_the_background_of_a_shell_hears_sigint(tmp_path: Path) -> None:
    """Such a shell ignores SIGINT, and each process that a test starts would too: a test of Ctrl-C would hang."""
    (tmp_path / "test_it.py").write_text("import signal\ndef test(): signal.raise_signal(signal.SIGINT)\n")
    command = f"{sys.executable} -m pytest -q -p ending -p no:cacheprovider -c /dev/null {tmp_path} & wait $!"
    environment = os.environ | {"PYTHONPATH": str(WAITING.parent)}

    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)

    assert run.returncode == pytest.ExitCode.INTERRUPTED, run.stdout + run.stderr
