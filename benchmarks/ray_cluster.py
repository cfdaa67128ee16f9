"""A Ray cluster of one node that this process is connected to; also for tests.

Nothing of it is left when the context ends. Ray leaves loopback, so enter it in a network of its own (`loopback`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.consumer import ROOT, FailedError, piped, quiet

KEPT = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
"""Ray ends workers of tasks that are idle for a second where there are more processes than CPUs. On a node as small as
this one a fleet's actors are that many, and tasks would wait for Python to start again and again."""

END_S = 60.0
"""Processes of Ray's that have not followed their head by then are killed."""


@contextmanager
def cluster(name: str, cpus: int, store_mb: int = 300) -> Iterator[Path]:
    """A cluster with so many CPUs, which for Ray are only numbers; the folder with its sockets and logs.

    FailedError with Ray's own words where it does not start.
    """
    folder = Path(f"/tmp/{name}-{os.getpid()}")  # a deeper one would give its sockets too long a path
    errors = folder.with_suffix(".log")
    before = {variable: os.environ.get(variable) for variable in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the network has nothing else in it
    with errors.open("wb") as out:
        head = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ray_head", str(folder), str(cpus), str(store_mb)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True, cwd=ROOT, env=quiet() | KEPT,
        )  # fmt: skip
    try:
        address = piped(head.stdout).readline().strip()
        if not address:
            raise FailedError(f"Ray did not start, code {head.wait()}:\n{errors.read_text()[-4000:]}")
        os.environ["RAY_ADDRESS"] = address
        yield folder
    finally:
        _end(head)
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value
        shutil.rmtree(folder, ignore_errors=True)
        errors.unlink()


def processes() -> Iterator[psutil.Process]:
    """Processes in this network: the cluster's and its trainers', whoever else runs loaders or Ray on this host."""
    network = Path("/proc/thread-self/ns/net").readlink()
    for process in psutil.process_iter():
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/ns/net").readlink() == network:
                yield process


def _end(head: "subprocess.Popen[str]") -> None:
    import ray

    ray.shutdown()
    family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.communicate()  # the end of its standard input ends it
    _, left = psutil.wait_procs(family, timeout=END_S)
    for one in left:
        one.kill()
