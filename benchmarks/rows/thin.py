"""Row 20: batches over thin lines, compressed where that is faster, against not and against tf.data service's default.

The line is a loopback of which the kernel lets so many bytes a second pass (benchmarks/loopback.py); that takes no
processor time that could be told from none. All lines are by the tcp lane; a loader and its trainers share the
machine's cores, so what compressing takes of them is taken from the trainer as well. Rates are of batches' own bytes,
whatever stood for them on the line.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import lanes, loopback
from benchmarks.consumer import MissingError
from benchmarks.lines import Bound, Line
from benchmarks.peers import feedline_loader, tf_data_service
from benchmarks.stage import Contestant, Stage, say

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
                try:
                    running.enter_context(loopback.alone(mb_per_s))
                except MissingError as error:
                    yield Line(20, f"{what}, against none", "GB/s", why_not=str(error))
                    continue
                contestants = {}
                for name, said in ((AUTO, "auto"), (OFF, "off")):
                    serving = feedline_loader.serving(folder, stage.scratch, *lanes.arguments("tcp"))
                    address, pid = running.enter_context(serving)
                    options = {"address": address, "connect": {"compression": said}}
                    contestants[name] = Contestant("feedline_loader", options, (pid,))
                service, service_pid = running.enter_context(tf_data_service.serving())
                peer = {"address": service, "compression": "AUTO", "pipeline": "vectorised"}
                contestants[PEER] = Contestant("tf_data_service", peer, (service_pid,))
                pace = replace(stage.scale.pace, settle_s=SETTLE_S)
                outcome = stage.contest(folder, BATCH_NBYTES // row_nbytes, contestants, pace)
            yield outcome.line(20, f"{what}, against none", AUTO, OFF, bound=Bound(">=", 0.97))
            yield outcome.line(20, f"{what}, against tf.data service", AUTO, PEER, bound=None)
