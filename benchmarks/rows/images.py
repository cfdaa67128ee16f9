"""Row 9: photographs decoded and resized over the wire, against a bare OpenCV loop on the same cores."""

import os
from collections.abc import Collection, Iterator
from statistics import median

from benchmarks.lines import Bound, Line, Side
from benchmarks.measured import Pace
from benchmarks.stage import Stage

PHOTOGRAPHS, PHOTOGRAPH = 600, (500, 375)
"""Of ImageNet's usual size; some 90 MB, so that no cache of a processor holds them."""

BOUNDS = {"images/s": Bound(">=", 0.95), "images/CPU s": None}

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
    values = {
        "images/s": {name: median(one.rate for one in turns) for name, turns in taken.items()},
        "images/CPU s": {name: median(one.per_cpu_s for one in turns) for name, turns in taken.items()},
    }
    for unit, found in images.ratios(taken).items():
        ours, peer = (Side(name, value) for name, value in values[unit].items())
        what = f"JPEG {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]} to {images.SIZE[0]} x {images.SIZE[1]}, {workers} workers"
        what += ", for the CPU seconds of all processes" if unit == "images/CPU s" else ""
        yield Line(9, what, unit, ours, peer, found, BOUNDS[unit])
