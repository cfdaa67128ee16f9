"""Row 19: what starts cost, in times of what they cannot do without, or in seconds."""

import importlib.util
from collections.abc import Collection, Iterator
from statistics import median

from benchmarks import start
from benchmarks.lines import Bound, Line, Side
from benchmarks.pairs import Ratio, ratio
from benchmarks.stage import Stage

CPU, CLOCK = 0, 1

AGAINST = (
    ("import feedline", CPU, 1.25),
    ("a worker", CPU, 2.0),
    ("a loader, until both workers are ready", CPU, 2.2),
    ("a loader, until the first batch of a Sequence", CLOCK, 1.3),
)
"""Each against what `start.TOLD_IN` names; a Keras Sequence of TensorFlow."""

SECONDS = (("a loader of columns, until it serves", 1.0), ("connect and the first batch", 0.05))


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None and not stage.scale.is_quick
    costs = start.measured(stage.scale.pairs, with_tensorflow=has_tensorflow)
    for name, which, must in AGAINST:
        peer, unit = start.TOLD_IN[name], ("CPU s", "s")[which]
        if name not in costs:
            yield Line(19, name, unit, bound=Bound("<=", must), why_not="TensorFlow is not installed")
            continue
        ours, theirs = ([cost[which] for cost in costs[one]] for one in (name, peer))
        yield Line(
            19, f"{name}, against importing {peer}", unit, Side("feedline", median(ours)), Side(peer, median(theirs)),
            ratio(ours, theirs), Bound("<=", must),
        )  # fmt: skip
    for name, must in SECONDS:
        took = [cost[CLOCK] for cost in costs[name]]
        yield Line(
            19, name, "s", Side("feedline", median(took)), ratio=Ratio(median(took), min(took), max(took)),
            bound=Bound("<=", must),
        )  # fmt: skip
