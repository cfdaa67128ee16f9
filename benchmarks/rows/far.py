"""Row 7: the same loader at 20 ms each way, and at none; and tf.data service at 20 ms.

The way is a program in user space that holds every byte back (benchmarks/delay.py, which measures more sizes of
batches); without delay the same program passes everything on, so that its own cost is in both. Batches come by gRPC, as
the tcp lane would go past it. tf.data service has its worker behind such a way, and its dispatcher at hand.
"""

import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import lanes
from benchmarks.delay import SETTLE_S, line
from benchmarks.lines import Bound, Line
from benchmarks.peers import tf_data_service
from benchmarks.stage import Contestant, Stage, say

DELAY_MS = 20.0
ROW_NBYTES = 4096
BATCHES_NBYTES = (64 << 10, 1 << 20)

FAR, NEAR, PEER = "feedline, 20 ms", "feedline, no delay", "tf.data service, 20 ms, no compression"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    with ExitStack() as running:
        address, pid = lanes.loader(running, folder, stage.scratch, "grpc")
        near = running.enter_context(line(address, 0.0))
        far = running.enter_context(line(address, DELAY_MS))
        port = _free_port()
        way = running.enter_context(line(f"127.0.0.1:{port}", DELAY_MS))
        service, service_pid = running.enter_context(tf_data_service.serving(str(port), way))
        for nbytes in BATCHES_NBYTES[: 1 if stage.scale.is_quick else None]:
            what = f"batches of {nbytes >> 10} KiB"
            say(f"  {what}")
            contestants = {
                FAR: Contestant("feedline_loader", {"address": far}, (pid,)),
                NEAR: Contestant("feedline_loader", {"address": near}, (pid,)),
                PEER: Contestant(
                    "tf_data_service",
                    {"address": service, "compression": None, "pipeline": "vectorised"},
                    (service_pid,),
                ),
            }
            # So long until feedline has learnt how far it is; it forgets nothing between turns.
            pace = replace(stage.scale.pace, settle_s=SETTLE_S)
            outcome = stage.contest(folder, nbytes // ROW_NBYTES, contestants, pace)
            yield outcome.line(7, f"{what}, against no delay", FAR, NEAR, bound=Bound(">=", 0.95))
            yield outcome.line(7, f"{what}, against tf.data service", FAR, PEER, bound=Bound(">=", 30.0))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
