"""Row 13: one trainer and 1 to 16 loaders, each with one worker that waits for every batch.

Waiting stands for what is done elsewhere: storage far away, or cores of other machines. So the processors here do not
decide, and what is left is whether the trainer keeps all loaders busy. All loaders run all the time; a turn is a
trainer that names so many of them, starts, and ends: one that lives on between its turns would go on filling its
read-ahead, at 0.1 s a batch, in the turns of the others.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.consumer import Consumer
from benchmarks.lines import Bound, Line, side
from benchmarks.measured import Pace, Stretch
from benchmarks.pairs import ratio, rounds
from benchmarks.peers import feedline_loader
from benchmarks.rows.transforms import declared
from benchmarks.stage import Stage

COUNTS = (1, 2, 4, 8, 16)
ROW_NBYTES, BATCH = 4096, 32
WAIT_S = 0.1

PACE = Pace(seconds=3.0, settle_s=3.0)
"""30 batches of one loader. A stretch begins and ends as a batch arrives. The trainer settles for so long because its
first 16 batches were asked of the loader that it reached first, and because how far ahead it asks is learnt."""


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
        pace = stage.scale.pace if stage.scale.is_quick else PACE
        seeds = count(1)  # a new one each turn: what loaders keep of the last one's batches is of no use
        turns = {number: partial(_turn, folder, ",".join(each[:number]), pid, pace, seeds) for number in counts}
        taken = rounds(turns, stage.scale.pairs)
    rates = {number: [one.batches / one.seconds for one in taken[number]] for number in counts}
    for number in counts[1:]:
        linear = [number * alone for alone in rates[1]]
        yield Line(
            13, f"{number} loaders, {WAIT_S:.1f} s a batch, against {number} times one", "batches/s",
            side(f"feedline, {number} loaders", taken[number], rates[number]), side("linear", taken[1], linear),
            ratio(rates[number], linear), Bound(">=", 0.95, 0.98),
        )  # fmt: skip


def _turn(folder: Path, address: str, pid: int, pace: Pace, seeds: Iterator[int]) -> Stretch:
    options = {"folder": str(folder), "batch": BATCH, "address": address, "seed": next(seeds)}
    with Consumer("feedline_loader", options, (pid,)) as trainer:
        return trainer.take(pace)
