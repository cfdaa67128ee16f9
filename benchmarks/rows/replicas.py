"""Row 13: one trainer and 1 to 16 loaders, each with one worker that waits for every batch.

Waiting stands for what is done elsewhere: storage far away, or cores of other machines. So the processors here do not
decide, and what is left is whether the trainer keeps all loaders busy. All loaders run all the time; a contestant is a
trainer that names so many of them.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack

from benchmarks.lines import Bound, Line, side
from benchmarks.measured import Pace
from benchmarks.pairs import ratio
from benchmarks.peers import feedline_loader
from benchmarks.rows.transforms import declared
from benchmarks.stage import Contestant, Stage

COUNTS = (1, 2, 4, 8, 16)
ROW_NBYTES, BATCH = 4096, 32
WAIT_S = 0.1

PACE = Pace(seconds=2.5, settle_s=0.5)
"""25 batches of one loader. A stretch begins and ends as a batch arrives."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    counts = COUNTS[: 2 if stage.scale.is_quick else None]
    folder = stage.samples(ROW_NBYTES, 64 << 20)
    path = declared(folder, stage.scratch, "wait", wait_s=WAIT_S)
    most = str(counts[-1])
    with ExitStack() as running:
        addresses, pid = running.enter_context(
            feedline_loader.serving(path, stage.scratch, "--replicas", most, "--workers", most)
        )
        each = addresses.split(",")
        contestants = {
            _name(count): Contestant("feedline_loader", {"address": ",".join(each[:count])}, (pid,)) for count in counts
        }
        outcome = stage.contest(folder, BATCH, contestants, PACE)
    alone = [taken.batches / taken.seconds for taken in outcome.taken[_name(1)]]
    for count in counts[1:]:
        taken = outcome.taken[_name(count)]
        rates = [one.batches / one.seconds for one in taken]
        linear = [count * one for one in alone]
        yield Line(
            13, f"{count} loaders, {WAIT_S:.1f} s a batch, against {count} times one", "batches/s",
            side(_name(count), taken, rates), side("linear", outcome.taken[_name(1)], linear), ratio(rates, linear),
            Bound(">=", 0.95, 0.98),
        )  # fmt: skip


def _name(count: int) -> str:
    return f"feedline, {count} loaders"
