"""Rows 1 and 5: shuffled batches to a trainer on another host, against tf.data service.

Both serve the same file over loopback. A trainer on another host has feedline's tcp lane, so that is what row 1
compares; row 5 has the lanes side by side.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.peers import tf_data_service
from benchmarks.stage import Contestant, Stage, say

BATCHES = ((4096, 1 << 20), (4096, 8 << 20), (131072, 1 << 20), (131072, 8 << 20))
"""Bytes of a row and of a batch."""

UNCOMPRESSED = ("tf.data service, no compression", "tf.data service, no compression, vectorised")
DEFAULT = "tf.data service, its default compression"

CPU_BOUNDS = {"grpc": Bound("<=", 0.7), "tcp": Bound("<=", 0.25), "shm": Bound("<=", 0.05)}


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    with ExitStack() as serving:
        service, pid = serving.enter_context(tf_data_service.serving())
        for row_nbytes, batch_nbytes in BATCHES[: 1 if stage.scale.is_quick else None]:
            what = f"{row_nbytes >> 10} KiB rows, {batch_nbytes >> 20} MiB batches"
            say(f"  {what}")
            folder = stage.samples(row_nbytes)
            with ExitStack() as running:
                contestants = lanes.contestants(running, folder, stage.scratch)
                for name, pipeline, compression in (
                    (UNCOMPRESSED[0], "samples", None),
                    (UNCOMPRESSED[1], "vectorised", None),
                    (DEFAULT, "samples", "AUTO"),
                ):
                    options = {"address": service, "compression": compression, "pipeline": pipeline}
                    contestants[name] = Contestant("tf_data_service", options, (pid,))
                outcome = lanes.absent(stage.contest(folder, batch_nbytes // row_nbytes, contestants))
            uncompressed = outcome.faster(UNCOMPRESSED)
            yield outcome.line(1, f"{what}, no compression", "feedline, tcp", uncompressed, bound=Bound(">=", 2.0, 3.0))
            yield outcome.line(1, f"{what}, its default", "feedline, tcp", DEFAULT, bound=Bound(">=", 6.0, 10.0))
            for lane, bound in CPU_BOUNDS.items():
                yield outcome.line(
                    5, f"{lane} lane, {what}", f"feedline, {lane}", uncompressed, bound=bound,
                    unit="CPU s/GB", of=lambda taken: taken.trainer_cpu_s_per_gb,
                )  # fmt: skip
