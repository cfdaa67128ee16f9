"""Loaders whose samples are worked on: a loader.toml beside the samples, with a function of the suite's own."""

from pathlib import Path

CODE = """
import time
import zlib


def wait(x):
    time.sleep({wait_s})
    return x


def work(x):
    for _ in range({times}):
        zlib.crc32(x)
    return x
"""


def declared(folder: Path, scratch: Path, function: str, *, wait_s: float = 0.0, times: int = 0) -> Path:
    """A loader.toml for that folder, whose batches go through `wait` or `work`, which change nothing."""
    here = scratch / f"{folder.name}-{function}"
    here.mkdir(exist_ok=True)
    (here / "bench_transforms.py").write_text(CODE.format(wait_s=wait_s, times=times))
    (here / "loader.toml").write_text(
        f'[datasets.rows]\nkind = "columns"\npath = "{folder}"\n'
        f'transforms = [{{code = "bench_transforms:{function}", columns = ["x"], per = "batch"}}]\n'
    )
    return here / "loader.toml"
