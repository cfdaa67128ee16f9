"""Row 20: batches over thin lines, compressed where that is faster, against not and against tf.data service's default.

The line is a program in user space that lets so many bytes a second pass, for each connection (benchmarks/way.py). All
lines are by the tcp lane; a loader and its trainers share the machine's cores, so what compressing takes of them is
taken from the trainer as well. Rates are of batches' own bytes, whatever stood for them on the line.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.peers import feedline_loader, tf_data_service
from benchmarks.stage import Contestant, Stage, say
from benchmarks.way import free_port, way

MB_PER_S = (125, 1250)
BATCH_NBYTES = 1 << 20
ROWS_NBYTES = {"photographs": 131072, "tables": 4096, "tokens": 4096, "masks": 65536}

SETTLE_S = 2.5
"""In which the line is seen to be thin (2 s). A pause between two stretches is in no window, and ends nothing."""

AUTO, OFF = "feedline, compression auto", "feedline, compression off"
PEER = "tf.data service, its default compression"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    for mb_per_s in MB_PER_S[: 1 if stage.scale.is_quick else None]:
        for kind, row_nbytes in ROWS_NBYTES.items():
            folder = stage.samples(row_nbytes, 64 << 20, kind)
            what = f"{kind}, line of {mb_per_s} MB/s"
            say(f"  {what}")
            with ExitStack() as running:
                contestants = {}
                for number, (name, said) in enumerate(((AUTO, "auto"), (OFF, "off"))):
                    tcp_port = free_port()
                    serving = feedline_loader.serving(
                        folder, stage.scratch, *lanes.arguments("tcp"), "--tcp-port", str(tcp_port)
                    )
                    address, pid = running.enter_context(serving)
                    port = int(address.rpartition(":")[2])
                    host = f"127.0.0.{2 + number}"
                    for each in (port, tcp_port):
                        running.enter_context(way(f"127.0.0.1:{each}", 0.0, f"{host}:{each}", mb_per_s))
                    options = {"address": f"{host}:{port}", "connect": {"compression": said}}
                    contestants[name] = Contestant("feedline_loader", options, (pid,))
                port = free_port()
                there = running.enter_context(way(f"127.0.0.1:{port}", 0.0, mb_per_s=mb_per_s))
                service, service_pid = running.enter_context(tf_data_service.serving(str(port), there.address))
                peer = {"address": service, "compression": "AUTO", "pipeline": "vectorised"}
                contestants[PEER] = Contestant("tf_data_service", peer, (service_pid,))
                pace = replace(stage.scale.pace, settle_s=SETTLE_S)
                outcome = stage.contest(folder, BATCH_NBYTES // row_nbytes, contestants, pace)
            yield outcome.line(20, f"{what}, against none", AUTO, OFF, bound=Bound(">=", 0.97))
            yield outcome.line(20, f"{what}, against tf.data service", AUTO, PEER, bound=None)
