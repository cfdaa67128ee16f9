"""Rows 4 and 6: how near to the machine. Raw TCP is the limit of the way, a bare gather that of assembly.

Raw TCP gathers nothing and its sender does nothing else; feedline gathers, and is three processes on the same cores.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from statistics import median

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.pairs import ratio
from benchmarks.peers import tcp
from benchmarks.stage import Contestant, Stage, say

ROWS_NBYTES = (4096, 131072)
BATCH_NBYTES = 4 << 20

SPEED = {"grpc": Bound(">=", 0.40, 0.5), "tcp": Bound(">=", 0.75, 0.9), "shm": Bound(">=", 1.5, 3.0)}
COST = {"grpc": Bound("<=", 2.0, 1.2), "tcp": Bound("<=", 1.4, 1.2)}

RAW, GATHER = "raw TCP", "bare gather"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    for row_nbytes in ROWS_NBYTES[: 1 if stage.scale.is_quick else None]:
        what = f"{row_nbytes >> 10} KiB rows, {BATCH_NBYTES >> 20} MiB batches"
        say(f"  {what}")
        folder = stage.samples(row_nbytes)
        with ExitStack() as running:
            sender, pid = running.enter_context(tcp.serving(folder))
            contestants = {
                **lanes.contestants(running, folder, stage.scratch),
                RAW: Contestant("tcp", {"address": sender, "row_nbytes": row_nbytes}, (pid,)),
                GATHER: Contestant("gather", {}),
            }
            outcome = lanes.absent(stage.contest(folder, BATCH_NBYTES // row_nbytes, contestants))
        for lane, bound in SPEED.items():
            yield outcome.line(4, f"{lane} lane, {what}", f"feedline, {lane}", RAW, bound=bound)
        for lane, bound in COST.items():
            line = outcome.line(
                6, f"{lane} lane, {what}", f"feedline, {lane}", RAW, bound=bound,
                unit="CPU s/GB", of=lambda taken: taken.cpu_s_per_gb,
            )  # fmt: skip
            if line.ours is None or line.peer is None:
                yield line
                continue
            limit = [
                raw.cpu_s_per_gb + bare.cpu_s_per_gb
                for raw, bare in zip(outcome.taken[RAW], outcome.taken[GATHER], strict=True)
            ]
            spent = [taken.cpu_s_per_gb for taken in outcome.taken[f"feedline, {lane}"]]
            peer = type(line.peer)(f"{GATHER} + {RAW}", median(limit))
            yield Line(6, line.what, line.unit, line.ours, peer, ratio(spent, limit), bound)
