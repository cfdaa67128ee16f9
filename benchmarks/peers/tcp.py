"""The limit of the way: one Python program sends rows with `sendall`, the other receives them with `recv_into`.

Rows are sent in the file's order, straight out of the page cache, so there is no gather in it; what is received is a
batch, in one of a few buffers that are used again.
"""

import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.consumer import ROOT, quiet
from benchmarks.content import Array

PIECE_NBYTES = 1 << 20
"""Sent at once: on loopback 1 MiB was the fastest of 64 KiB to 16 MiB."""

BUFFERS = 4


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """A sender of that folder's rows: its address and its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.tcp", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}", process.pid
    finally:
        process.kill()
        process.wait(30)


def send(folder: Path) -> None:
    """Send all rows, round after round, to whoever connects first."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    body = x.reshape(-1).data
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        connection, _ = listening.accept()
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in itertools.cycle(range(0, len(body), PIECE_NBYTES)):
            connection.sendall(body[start : start + PIECE_NBYTES])


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    host, _, port = options["address"].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        for x in itertools.cycle(
            [np.empty((options["batch"], options["row_nbytes"]), np.uint8) for _ in range(BUFFERS)]
        ):
            rest = x.reshape(-1).data
            while rest:
                rest = rest[connection.recv_into(rest) :]
            yield x, None


if __name__ == "__main__":
    send(Path(sys.argv[1]))
