"""No start without an end or a word."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def serve(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "feedline_server", "serve", str(path), "--listen", "127.0.0.1:0", "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_opening_that_does_not_get_on_ends_the_start_with_what_it_was_at(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(8))
    (tmp_path / "hangs.py").write_text("import threading\ndef keep(x):\n    threading.Event().wait()\n")
    (tmp_path / "loader.toml").write_text(
        '[datasets.d]\npath = "."\nstart_timeout_s = 1\nfilters = [{column = "x", code = "hangs:keep"}]\n'
    )

    ended = serve(tmp_path / "loader.toml")

    assert ended.returncode == 1
    assert "opening it took longer than 1 s and was given up; make it quicker, or raise start_timeout_s" in ended.stderr
    assert "It was at dataset 'd', filters.0 (x): sample 0 of 8 of view 'train'" in ended.stderr


@pytest.mark.parametrize(
    ("kind", "files"),
    [("class_folders", ["a/0.npy", "b/0.npy"]), ("columns", ["y.npy"]), ("subjects", ["a_x.npy", "b_x.npy"])],
)
def test_a_pipe_among_the_files_is_named_and_not_waited_for(tmp_path: Path, kind: str, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        np.save(tmp_path / file, np.arange(8))
    pipe = (tmp_path / files[0]).with_name("1" + Path(files[0]).name[1:])
    os.mkfifo(pipe)
    (tmp_path / "loader.toml").write_text(f'[datasets.d]\npath = "."\nkind = "{kind}"\n')

    ended = serve(tmp_path / "loader.toml")

    assert ended.returncode == 1
    assert f"{pipe}: is a named pipe (FIFO); wanted" in ended.stderr
