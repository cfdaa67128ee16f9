"""Row 9: photographs decoded and resized over the wire, against a bare OpenCV loop on the same cores."""

import os
from collections.abc import Collection, Iterator
from operator import attrgetter
from statistics import median

from benchmarks.lines import Bound, Line, Side
from benchmarks.measured import Pace
from benchmarks.stage import Stage

PHOTOGRAPHS, PHOTOGRAPH = 600, (500, 375)
"""Of ImageNet's usual size; some 90 MB, so that no cache of a processor holds them."""

BOUNDS = {"images/s": Bound(">=", 0.98), "images/CPU s": None}

RATE, PER_CPU_S = attrgetter("rate"), attrgetter("per_cpu_s")

PACE = Pace(seconds=4.0, settle_s=0.5)


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    try:
        from benchmarks import images
    except ImportError as error:
        yield Line(9, "JPEG to 224 x 224", "images/s", bound=BOUNDS["images/s"], why_not=str(error))
        return
    folder = stage.scratch / "photographs"
    images.write(folder, 100 if stage.scale.is_quick else PHOTOGRAPHS, PHOTOGRAPH)
    workers = len(os.sched_getaffinity(0))
    pace = stage.scale.pace if stage.scale.is_quick else PACE
    taken = images.measure(folder, workers, pace, stage.scale.pairs)
    what = f"JPEG {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]} to {images.SIZE[0]} x {images.SIZE[1]}, {workers} workers"
    for peer in images.LOOPS:
        found = images.ratios(taken, peer)
        for unit, of in (("images/s", RATE), ("images/CPU s", PER_CPU_S)):
            ours, theirs = (Side(name, median(map(of, taken[name]))) for name in (images.OURS, peer))
            aside = ", for the CPU seconds of all processes" if unit == "images/CPU s" else ""
            yield Line(9, f"{what}: {peer}{aside}", unit, ours, theirs, found[unit], BOUNDS[unit])
