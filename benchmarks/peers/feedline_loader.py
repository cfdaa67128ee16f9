"""feedline: a loader in processes of its own, a trainer over one of its lanes."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.consumer import ROOT, FailedError, quiet
from benchmarks.content import Array, WrongContentError

START_S = 180.0


@contextlib.contextmanager
def serving(
    path: Path, scratch: Path, *arguments: str, within: Sequence[str] = (), code: Path | None = None
) -> Iterator[tuple[str, int]]:
    """A loader of `path`, started with these arguments: its address, or those of its replicas, and its process id.

    `within` is what its command begins with, `code` the checkout whose feedline it is; None: what is installed.
    """
    port_file = scratch / f"port-{time.monotonic_ns()}"
    command = [*within, sys.executable, "-m", "feedline_server", "serve", str(path), "--listen", "127.0.0.1:0"]
    command += ["--port-file", str(port_file), "--log-level", "error", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=quiet(code))
    try:
        yield ",".join(f"127.0.0.1:{port}" for port in _ports(process, port_file)), process.pid
    finally:
        process.terminate()
        process.wait(START_S)


def _ports(process: "subprocess.Popen[bytes]", port_file: Path) -> Sequence[str]:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if port_file.exists() and (text := port_file.read_text().strip()):
            return text.splitlines()
        if process.poll() is not None:
            raise FailedError(f"the loader ended with code {process.returncode}: {process.args!r}")
        time.sleep(0.05)  # a file's appearance wakes nobody
    raise FailedError(f"the loader did not listen within {START_S:.0f} s")


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    import feedline

    with feedline.connect(options["address"], ca=options.get("ca"), **options.get("connect", {})) as loader:
        feed = loader.feed(
            batch_size=options["batch"],
            order=options.get("order", "shuffle"),
            seed=options.get("seed", 1),
            remainder="drop",
            rank=options.get("rank", 0),
            world=options.get("world", 1),
            prefetch=options.get("prefetch"),
            prefetch_bytes=options.get("prefetch_bytes", 256 << 20),
        )
        while True:
            for batch in feed:
                x, y = batch["x"], batch["y"]
                if not options.get("is_unchecked") and batch.ids[0] != int(x[0].reshape(-1).view(np.int64)[0]):
                    raise WrongContentError(f"{batch!r} says it begins with sample {batch.ids[0]}, and does not")
                yield x, y
