"""Row 16: batches to a trainer under TLS, by the sealed lane, against gRPC under TLS and against the plain tcp lane.

What encryption costs is the distance to the plain lane; what a trainer would have without the sealed lane is gRPC. How
much of it is the cipher's own shows beside two bare programs, of which one seals what it sends and the other opens it.
"""

import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.peers import feedline_loader, tcp
from benchmarks.stage import Contestant, Stage, say

ROW_NBYTES = 131072
BATCHES_NBYTES = (1 << 20, 4 << 20, 8 << 20)

SEALED, GRPC, TCP = "feedline, sealed", "feedline, grpc under TLS", "feedline, tcp without TLS"
BARE_SEALED, BARE = "raw TCP, sealed", "raw TCP"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    certificate, key = issued(stage.scratch)
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    for batch_nbytes in BATCHES_NBYTES[: 1 if stage.scale.is_quick else None]:
        what = f"batches of {batch_nbytes >> 20} MiB"
        say(f"  {what}")
        with ExitStack() as running:
            contestants = {}
            for name, lane, more in ((SEALED, "tcp", tls), (GRPC, "grpc", tls), (TCP, "tcp", ())):
                serving = feedline_loader.serving(folder, stage.scratch, *lanes.arguments(lane), *more)
                address, pid = running.enter_context(serving)
                options = {"address": address, "ca": str(certificate) if more else None}
                contestants[name] = Contestant("feedline_loader", options, (pid,))
            for name, seals in ((BARE_SEALED, True), (BARE, False)):
                address, pid = running.enter_context(tcp.serving(folder, seals=seals))
                contestants[name] = Contestant("tcp", {"address": address, "row_nbytes": ROW_NBYTES}, (pid,))
            outcome = stage.contest(folder, batch_nbytes // ROW_NBYTES, contestants)
        yield outcome.line(16, f"{what}, against gRPC", SEALED, GRPC, bound=Bound(">=", 2.5))
        yield outcome.line(16, f"{what}, against plain tcp", SEALED, TCP, bound=Bound(">=", 0.7))
        yield outcome.line(16, f"{what}, against raw TCP that is sealed", SEALED, BARE_SEALED, bound=None)
        yield outcome.line(16, f"{what}, raw TCP that is sealed against raw TCP", BARE_SEALED, BARE, bound=None)
        yield outcome.line(
            16, f"{what}, the trainer's CPU, against gRPC", SEALED, GRPC, bound=Bound("<=", 0.32),
            unit="CPU s/GB", of=lambda taken: taken.trainer_cpu_s_per_gb,
        )  # fmt: skip


def issued(folder: Path) -> tuple[Path, Path]:
    """A certificate for this host, which is its own authority, and its key."""
    certificate, key = folder / "loader.pem", folder / "loader.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=loader", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
