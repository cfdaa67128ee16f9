"""Row 11: four trainers of a sweep on one dataset with one seed, against one: what the loader's processors do.

Trainers compute, so they are in step as those of a sweep are. CPU is counted for each GB that a trainer gets: with four
it is 1.0 of one trainer's if a batch costs the loader nothing more because three others have it too. What is done once
for all is reading and transforming; sending is done for each, unless the lane has nothing to send.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean, median

from benchmarks import lanes
from benchmarks.consumer import Consumer, MissingError
from benchmarks.lines import Bound, Line, Side
from benchmarks.measured import Pace
from benchmarks.pairs import ratio, rounds
from benchmarks.rows.transforms import declared
from benchmarks.stage import Stage, say

TRAINERS = 4
ROW_NBYTES, BATCH = 131072, 8

PACE = Pace(seconds=4.0, settle_s=0.5, compute_s=0.04)
"""25 batches of 1 MiB a second and trainer: far from what two cores can send, so that nobody falls behind. So long
because the kernel tells processor time in steps of 10 ms, and 100 batches take some 120 ms."""

CRC_TIMES = 20
"""Of the batch: some 8 CPU seconds a GB, as decoding JPEGs costs."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    worked = declared(folder, stage.scratch, "work", times=CRC_TIMES)
    for what, path, lane in (
        ("transformed as JPEGs are decoded, tcp lane", worked, "tcp"),
        ("not transformed, tcp lane", folder, "tcp"),
        ("not transformed, shm lane", folder, "shm"),
    ):
        say(f"  {what}")
        bound = Bound("<=", 1.3, 1.05)
        try:
            with ExitStack() as running:
                address, pid = lanes.loader(running, path, stage.scratch, lane)
                seeds = count(1)  # a new one each time: what is kept from the last round is of no use
                cpu = partial(_loader_cpu_s_per_gb, folder, address, pid, seeds)
                turns = {"one": partial(cpu, 1), "many": partial(cpu, TRAINERS)}
                taken = rounds(turns, stage.scale.pairs)
        except MissingError as error:
            yield Line(11, what, "loader CPU s/GB", bound=bound, why_not=str(error))
            continue
        yield Line(
            11, what, "loader CPU s/GB", Side(f"{TRAINERS} trainers", median(taken["many"])),
            Side("one trainer", median(taken["one"])), ratio(taken["many"], taken["one"]), bound,
        )  # fmt: skip


def _loader_cpu_s_per_gb(folder: Path, address: str, pid: int, seeds: Iterator[int], trainers: int) -> float:
    options = {"folder": str(folder), "batch": BATCH, "address": address, "seed": next(seeds)}
    with ExitStack() as running:
        all_of_them = [running.enter_context(Consumer("feedline_loader", options, (pid,))) for _ in range(trainers)]
        for one in all_of_them:
            one.wait()
        for one in all_of_them:
            one.begin(PACE)
        stretches = [one.end() for one in all_of_them]
    return fmean(one.loader_cpu_s for one in stretches) / fmean(one.gb for one in stretches)
