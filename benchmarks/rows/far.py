"""Row 7: the same loader at 20 ms each way, and at none; and tf.data service at 20 ms.

The way is a program in user space that holds every byte back (benchmarks/way.py); without delay the same program passes
everything on, so that its own cost is in both. benchmarks/delay.py says how much that is, and measures more sizes of
batches. tf.data service has its worker behind such a way, and its dispatcher at hand.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.delay import LANES, ROW_NBYTES, SETTLE_S, reached
from benchmarks.lines import Bound, Line
from benchmarks.peers import tf_data_service
from benchmarks.stage import Contestant, Stage, say
from benchmarks.way import free_port, way

DELAY_MS = 20.0
BATCHES_NBYTES = (64 << 10, 1 << 20)
HOW_FAR = {"far": "20 ms", "near": "no delay"}
PEER = "tf.data service, 20 ms, no compression"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    with ExitStack() as running:
        ours = {
            f"feedline, {lane}, {HOW_FAR[how_far]}": there.contestant
            for lane in LANES
            for how_far, there in reached(running, folder, stage.scratch, lane, DELAY_MS).items()
        }
        port = free_port()
        there = running.enter_context(way(f"127.0.0.1:{port}", DELAY_MS))
        service, service_pid = running.enter_context(tf_data_service.serving(str(port), there.address))
        for nbytes in BATCHES_NBYTES[: 1 if stage.scale.is_quick else None]:
            what = f"batches of {nbytes >> 10} KiB"
            say(f"  {what}")
            peer = {"address": service, "compression": None, "pipeline": "vectorised"}
            contestants = ours | {PEER: Contestant("tf_data_service", peer, (service_pid,))}
            # So long until feedline has learnt how far it is; it forgets nothing between turns.
            pace = replace(stage.scale.pace, settle_s=SETTLE_S)
            outcome = stage.contest(folder, nbytes // ROW_NBYTES, contestants, pace)
            for lane in LANES:
                far, near = (f"feedline, {lane}, {how_far}" for how_far in HOW_FAR.values())
                yield outcome.line(7, f"{lane} lane, {what}, against no delay", far, near, bound=Bound(">=", 0.95))
                yield outcome.line(7, f"{lane} lane, {what}, against tf.data service", far, PEER, bound=Bound(">=", 30))
