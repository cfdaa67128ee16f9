"""Row 7: the same loader at 20 ms each way, and at none; and tf.data service at 20 ms.

The way is a program in user space that holds every byte back (benchmarks/delay.py, which measures more sizes of
batches); without delay the same program passes everything on, so that its own cost is in both. For the tcp lane, which
a trainer looks for at the host of its target, both of the loader's ports are on such a way, at another loopback
address. tf.data service has its worker behind one, and its dispatcher at hand.
"""

import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import lanes
from benchmarks.delay import SETTLE_S, line
from benchmarks.lines import Bound, Line
from benchmarks.peers import tf_data_service
from benchmarks.stage import Contestant, Stage, say

DELAY_MS = 20.0
ROW_NBYTES = 4096
BATCHES_NBYTES = (64 << 10, 1 << 20)

HOSTS = {"20 ms": "127.0.0.2", "no delay": "127.0.0.3"}
"""Where a loader is that far away, for trainers that look for its lane."""

PEER = "tf.data service, 20 ms, no compression"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    with ExitStack() as running:
        ours = _by_grpc(running, folder, stage) | _by_tcp(running, folder, stage)
        port = _free_port()
        way = running.enter_context(line(f"127.0.0.1:{port}", DELAY_MS))
        service, service_pid = running.enter_context(tf_data_service.serving(str(port), way))
        for nbytes in BATCHES_NBYTES[: 1 if stage.scale.is_quick else None]:
            what = f"batches of {nbytes >> 10} KiB"
            say(f"  {what}")
            peer = {"address": service, "compression": None, "pipeline": "vectorised"}
            contestants = ours | {PEER: Contestant("tf_data_service", peer, (service_pid,))}
            # So long until feedline has learnt how far it is; it forgets nothing between turns.
            pace = replace(stage.scale.pace, settle_s=SETTLE_S)
            outcome = stage.contest(folder, nbytes // ROW_NBYTES, contestants, pace)
            for lane in ("grpc", "tcp"):
                far, near = (f"feedline, {lane}, {how_far}" for how_far in HOSTS)
                yield outcome.line(7, f"{lane} lane, {what}, against no delay", far, near, bound=Bound(">=", 0.95))
                yield outcome.line(7, f"{lane} lane, {what}, against tf.data service", far, PEER, bound=Bound(">=", 30))


def _by_grpc(running: ExitStack, folder: Path, stage: Stage) -> dict[str, Contestant]:
    address, pid = lanes.loader(running, folder, stage.scratch, "grpc")
    ways = {how_far: running.enter_context(line(address, _delay_ms(how_far))) for how_far in HOSTS}
    return {
        f"feedline, grpc, {how_far}": Contestant("feedline_loader", {"address": at}, (pid,))
        for how_far, at in ways.items()
    }


def _by_tcp(running: ExitStack, folder: Path, stage: Stage) -> dict[str, Contestant]:
    tcp_port = _free_port()
    address, pid = lanes.loader(running, folder, stage.scratch, "tcp", "--tcp-port", str(tcp_port))
    port = address.rpartition(":")[2]
    there = {}
    for how_far, host in HOSTS.items():
        for each in (port, tcp_port):
            running.enter_context(line(f"127.0.0.1:{each}", _delay_ms(how_far), f"{host}:{each}"))
        options = {"address": f"{host}:{port}"}
        there[f"feedline, tcp, {how_far}"] = Contestant("feedline_loader", options, (pid,))
    return there


def _delay_ms(how_far: str) -> float:
    return DELAY_MS if how_far == "20 ms" else 0.0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
