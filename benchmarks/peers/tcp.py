"""The limit of the way: one Python program sends rows with `sendall`, the other receives them with `recv_into`.

Rows are sent in the file's order, straight out of the page cache, so there is no gather in it; what is received is a
batch, in one of a few buffers that are used again. The limit of a way that is encrypted is the same with each piece
sealed before it is sent and opened into the batch: what the processor's AES costs is in it.
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
from feedline_wire.sealing import TAG_NBYTES, Opener, Sealer

PIECE_NBYTES = 1 << 20
"""Sent at once: on loopback 1 MiB was the fastest of 64 KiB to 16 MiB."""

BUFFERS = 4

LANE = bytes(16)
"""What pieces are sealed for."""


@contextlib.contextmanager
def serving(folder: Path, *, seals: bool = False) -> Iterator[tuple[str, int]]:
    """A sender of that folder's rows: its address, with the key before it if it seals them, and its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.tcp", str(folder), *(["sealed"] if seals else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait(30)


def send(folder: Path, *, seals: bool) -> None:
    """Send all rows, round after round, to whoever connects first."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    body = x.reshape(-1).data
    sealer = Sealer(LANE) if seals else None
    sealed = memoryview(bytearray(PIECE_NBYTES + TAG_NBYTES))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = "" if sealer is None else f"{sealer.key.hex()}@"
        print(f"{before}127.0.0.1:{listening.getsockname()[1]}", flush=True)
        connection, _ = listening.accept()
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in itertools.cycle(range(0, len(body), PIECE_NBYTES)):
            piece = body[start : start + PIECE_NBYTES]
            connection.sendall(piece if sealer is None else sealed[: sealer.seal(piece, sealed)])


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    key, _, address = options["address"].rpartition("@")
    host, _, port = address.rpartition(":")
    opener = Opener(LANE, bytes.fromhex(key)) if key else None
    sealed = memoryview(bytearray(PIECE_NBYTES + TAG_NBYTES))
    with socket.create_connection((host, int(port))) as connection:
        for x in itertools.cycle(
            [np.empty((options["batch"], options["row_nbytes"]), np.uint8) for _ in range(BUFFERS)]
        ):
            rest = x.reshape(-1).data
            while rest and opener is None:
                rest = rest[connection.recv_into(rest) :]
            while rest:  # batches are of whole pieces
                if connection.recv_into(sealed, 0, socket.MSG_WAITALL) < len(sealed):
                    raise EOFError("the sender ended")
                opener.open(sealed, rest[:PIECE_NBYTES])
                rest = rest[PIECE_NBYTES:]
            yield x, None


if __name__ == "__main__":
    send(Path(sys.argv[1]), seals="sealed" in sys.argv[2:])
